"""A contact sheet: the pictures of a batch in a grid, each with its values under it. Pure, and work for a thread.

A cell without a picture is drawn empty, with what became of its task. The text is set in Pillow's own scalable font.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, sqrt
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from comfy_shared.models import Status, Task
from comfy_shared.output_options import PictureFormat

MOST_PIXELS = 32_000_000  # of the pictures of one sheet
MOST_LINES = 4  # under a picture
LONGEST_VALUE = 160  # characters of a value that are looked at
GAP = 8
PAPER, INK, FAINT, EMPTY = (250, 250, 250), (20, 20, 20), (110, 110, 110), (226, 226, 226)
COLORS = {Status.FAILED: (176, 32, 32), Status.CANCELED: (150, 110, 20)}

Font = ImageFont.ImageFont | ImageFont.FreeTypeFont


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """One picture of the sheet."""

    picture: bytes | None  # not larger than the cell; None: there is none
    lines: tuple[str, ...]  # under it
    status: Status
    note: str = ""  # why a completed task shows no picture


def captions(tasks: Sequence[Task], axes: Sequence[str], *, first: int) -> list[tuple[str, ...]]:
    """For each task its values of the axes; where nothing was swept, of what differs. `first` numbers the tasks."""
    names = list(axes) or _differing(tasks)
    lines = []
    for number, task in enumerate(tasks, start=first):
        values = [f"{name}: {_shown(task.parameters[name])}" for name in names if name in task.parameters]
        lines.append(tuple(values[:MOST_LINES]) or (f"#{number}",))
    return lines


def _differing(tasks: Sequence[Task]) -> list[str]:
    names = dict.fromkeys(name for task in tasks for name in task.parameters)
    return [name for name in names if len({str(task.parameters.get(name)) for task in tasks}) > 1]


def _shown(value: Any) -> str:
    text = "yes" if value is True else "no" if value is False else str(value)
    text = text[:LONGEST_VALUE].encode("utf-8", "replace").decode()
    return "".join(character if character.isprintable() else " " for character in text)


def columns_of(count: int, wished: int) -> int:
    """As wished, else about as many as rows."""
    return min(wished or ceil(sqrt(count)), count) or 1


def draw(cells: Sequence[Cell], title: str, *, columns: int, size: int, target: PictureFormat) -> bytes:
    """The sheet as the bytes of a picture; each cell is `size` pixels wide."""
    font = ImageFont.load_default(size=max(10, size // 18))
    line = round(font.size * 1.35) if isinstance(font, ImageFont.FreeTypeFont) else 14
    below = line * max((len(cell.lines) for cell in cells), default=1) + GAP
    width = columns * (size + GAP) + GAP
    top = line + 2 * GAP
    sheet = Image.new("RGB", (width, top + ceil(len(cells) / columns) * (size + below + GAP)), PAPER)
    pen = ImageDraw.Draw(sheet)
    pen.text((GAP, GAP), _fitted(title, font, width - 2 * GAP), fill=INK, font=font)
    for index, cell in enumerate(cells):
        row, column = divmod(index, columns)
        left, upper = GAP + column * (size + GAP), top + row * (size + below + GAP)
        _draw_picture(sheet, pen, cell, (left, upper), size, font)
        for number, text in enumerate(cell.lines):
            place = (left, upper + size + GAP // 2 + number * line)
            pen.text(place, _fitted(text, font, size), fill=INK, font=font)
    buffer = io.BytesIO()
    sheet.save(buffer, target.value.upper(), **({} if target is PictureFormat.PNG else {"quality": 88}))
    return buffer.getvalue()


def _draw_picture(
    sheet: Image.Image, pen: ImageDraw.ImageDraw, cell: Cell, place: tuple[int, int], size: int, font: Font
) -> None:
    left, upper = place
    if cell.picture is None:
        pen.rectangle((left, upper, left + size - 1, upper + size - 1), fill=EMPTY)
        word = cell.status.value if not cell.note else cell.note
        color = COLORS.get(cell.status, FAINT)
        pen.text((left + size // 2, upper + size // 2), _fitted(word, font, size), fill=color, font=font, anchor="mm")
        return
    with Image.open(io.BytesIO(cell.picture)) as opened:
        picture = opened.convert("RGBA")
    picture.thumbnail((size, size))
    corner = (left + (size - picture.width) // 2, upper + (size - picture.height) // 2)
    sheet.paste(picture, corner, picture)


def _fitted(text: str, font: Font, width: float) -> str:
    """The text, or its beginning with an ellipsis."""
    if font.getlength(text) <= width:
        return text
    low, high = 0, len(text)
    while low < high:
        middle = (low + high + 1) // 2
        if font.getlength(text[:middle] + "…") <= width:
            low = middle
        else:
            high = middle - 1
    return text[:low] + "…"
