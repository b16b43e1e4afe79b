"""The contact sheet of a batch: thumbnails loaded, drawn beside the event loop, one sheet of a process at a time."""

import asyncio
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from comfy_balancer.contact_sheet import MOST_PIXELS, Cell, captions, columns_of, draw
from comfy_balancer.thumbnails import SIZES, Thumbnails
from comfy_shared.batches import Batch
from comfy_shared.errors import NotFound
from comfy_shared.files import FileStore, thumbnail_folder
from comfy_shared.http.problems import invalid
from comfy_shared.models import Output, Status, Task
from comfy_shared.output_options import PictureFormat
from comfy_shared.pictures import EXTENSIONS, Unconvertible

SIZE = 256  # pixels of a cell when nobody says
AT_ONCE = 8  # thumbnails that are loaded together


@dataclass(frozen=True, kw_only=True, slots=True)
class Wish:
    """How a sheet is to be."""

    size: int = SIZE  # pixels of a cell's side
    columns: int = 0  # 0: as the sweep has it
    start: int = 0  # number of the first task, from 0
    target: PictureFormat = PictureFormat.PNG


class Sheets:
    """Draws contact sheets. A plain one whose tasks have all ended is kept until its first task is forgotten."""

    def __init__(self, files: FileStore, thumbnails: Thumbnails) -> None:
        self._files = files
        self._thumbnails = thumbnails
        self._slot = asyncio.Semaphore(1)

    async def sheet(self, batch: Batch, tasks: Sequence[Task], wish: Wish) -> bytes:
        """The bytes of the picture. `tasks` are those from number `wish.start` on, as many as a sheet may show.

        Raises:
            InvalidTask: it would have too many pixels.
            Unavailable: the file store cannot be read.
        """
        if len(tasks) * wish.size**2 > MOST_PIXELS:
            most = int((MOST_PIXELS / len(tasks)) ** 0.5)
            raise invalid("size", f"is too large for {len(tasks)} pictures", limits={"maximum": most})
        kept = _key(batch, tasks, wish)
        async with self._slot:
            if kept:
                try:
                    return b"".join([chunk async for chunk in self._files.read(kept)])
                except NotFound:
                    pass  # the first who asks
            data = await self._draw(batch, tasks, wish)
        if kept and (first := _picture_of(tasks[0])):
            await self._thumbnails.keep(kept, data, first)
        return data

    async def _draw(self, batch: Batch, tasks: Sequence[Task], wish: Wish) -> bytes:
        slots = asyncio.Semaphore(AT_ONCE)

        async def cell(task: Task, lines: tuple[str, ...]) -> Cell:
            async with slots:
                picture, note = await self._picture(task, wish.size)
            return Cell(picture=picture, lines=lines, status=task.status, note=note)

        lines = captions(tasks, batch.axes, first=wish.start + 1)
        cells = await asyncio.gather(*(cell(task, under) for task, under in zip(tasks, lines, strict=True)))
        axes = f" · {' x '.join(batch.axes)}" if batch.axes else ""
        title = f"{batch.workflow or 'batch'} · {len(tasks)} of {batch.total}{axes} · {batch.id}"
        columns = columns_of(len(cells), wish.columns or batch.columns)
        return await asyncio.to_thread(draw, cells, title, columns=columns, size=wish.size, target=wish.target)

    async def _picture(self, task: Task, size: int) -> tuple[bytes | None, str]:
        if task.status is not Status.COMPLETED:
            return None, ""
        output = _picture_of(task)
        if output is None:
            return None, "no picture"
        kept = next((known for known in SIZES if known >= size), SIZES[-1])
        try:
            return (await self._thumbnails.get(output, kept, PictureFormat.WEBP)).data, ""
        except (Unconvertible, NotFound):
            return None, "not readable"


def _picture_of(task: Task) -> Output | None:
    pictures = [output for output in task.outputs if output.content_type.startswith("image/") and not output.original]
    return next((output for output in pictures if not output.temporary), pictures[0] if pictures else None)


def _key(batch: Batch, tasks: Sequence[Task], wish: Wish) -> str:
    """Where a plain sheet is kept; empty when it may still change, or is an odd one that nobody asks for again."""
    plain = wish == Wish(target=wish.target) and batch.ended and tasks and _picture_of(tasks[0])
    if not plain:
        return ""
    shown = [batch.id, *(f"{task.id} {task.status} {[output.sha256 for output in task.outputs]}" for task in tasks)]
    digest = hashlib.sha256("\n".join(shown).encode()).hexdigest()[:32]
    return f"{thumbnail_folder(plain.key.split('/')[1])}/sheet-{digest}{EXTENSIONS[wish.target]}"
