"""The sheet: where each picture is, what stands under it, and what stands in a cell without one."""

import io
from typing import Any

from PIL import Image

from comfy_balancer.contact_sheet import EMPTY, Cell, captions, columns_of, draw
from comfy_shared.models import Status, Task
from comfy_shared.output_options import PictureFormat


def task(**parameters: Any) -> Task:
    return Task(
        id="t", owner="ann", status=Status.COMPLETED, priority=5, lane="l", attempt=1, max_attempts=3, created_at=1,
        timeout=1, parameters=parameters,
    )  # fmt: skip


def picture(color: tuple[int, int, int], size: tuple[int, int] = (100, 100)) -> bytes:
    data = io.BytesIO()
    Image.new("RGB", size, color).save(data, "PNG")
    return data.getvalue()


def cell(data: bytes | None, *lines: str, status: Status = Status.COMPLETED, note: str = "") -> Cell:
    return Cell(picture=data, lines=lines, status=status, note=note)


def sheet(cells: list[Cell], *, columns: int = 2, target: PictureFormat = PictureFormat.PNG) -> Image.Image:
    data = draw(cells, "title", columns=columns, size=100, target=target)
    found = Image.open(io.BytesIO(data))
    assert found.format == target.value.upper()
    return found.convert("RGB")


def test_pictures_are_in_their_places() -> None:
    colors = [(255, 0, 0), (0, 255, 0), (0, 0, 255)]
    found = sheet([cell(picture(color), "a: 1", "b: 2") for color in colors])
    assert found.width == 8 + 2 * 108
    seen = [color for _, color in found.getcolors(10**6) or []]
    assert all(color in seen for color in colors)
    row = (found.height - 100) // 3
    assert found.getpixel((50, 80)) == colors[0]
    assert found.getpixel((160, 80)) == colors[1]
    assert found.getpixel((50, 80 + row + 60)) == colors[2]


def test_a_cell_without_a_picture_is_empty_and_says_why() -> None:
    blank = sheet([cell(None, status=Status.PENDING)], columns=1)
    assert blank.getpixel((12, 60)) == EMPTY
    failed, other = (sheet([cell(None, status=Status.FAILED, note=note)], columns=1) for note in ("", "no picture"))
    assert blank.tobytes() != failed.tobytes() != other.tobytes()
    reds = [
        color for _, color in failed.getcolors(10**6) or [] if isinstance(color, tuple) and color[0] > color[1] + 80
    ]
    assert reds, "what failed is red"


def test_a_wide_a_small_and_a_transparent_picture_fit() -> None:
    clear = io.BytesIO()
    Image.new("RGBA", (100, 100), (0, 0, 0, 0)).save(clear, "WEBP")
    sheet([cell(picture((1, 2, 3), (300, 20))), cell(picture((1, 2, 3), (2, 2))), cell(clear.getvalue())])


def test_a_long_text_of_any_script_stays_within_its_cell() -> None:
    long = "text: " + "漢字 🙂 עברית " * 200
    found = sheet([cell(picture((9, 9, 9)), long, "b: 2")], columns=1, target=PictureFormat.JPEG)
    assert found.width == 116


def test_captions_tell_the_axes_or_what_differs() -> None:
    tasks = [task(cfg=3.5, steps=4, text="same"), task(cfg=7, steps=4, text="same")]
    assert captions(tasks, ["cfg", "steps"], first=1) == [("cfg: 3.5", "steps: 4"), ("cfg: 7", "steps: 4")]
    assert captions(tasks, [], first=1) == [("cfg: 3.5",), ("cfg: 7",)]
    assert captions([task(), task()], [], first=5) == [("#5",), ("#6",)]
    assert captions([task(a=True, b="x\ny\x1b[31m\u202e")], ["a", "b"], first=1) == [("a: yes", "b: x y [31m ")]


def test_columns_follow_the_wish_or_make_a_square() -> None:
    assert [columns_of(12, 4), columns_of(12, 0), columns_of(3, 50), columns_of(1, 0)] == [4, 4, 3, 1]
