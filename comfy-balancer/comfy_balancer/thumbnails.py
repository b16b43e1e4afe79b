"""Small pictures of outputs, made when somebody asks and kept beside the outputs for the next one."""

import asyncio
import tempfile
from typing import BinaryIO, cast

from comfy_shared.errors import NotFound, Unavailable
from comfy_shared.files import FileStore, thumbnail_folder
from comfy_shared.models import Output
from comfy_shared.output_options import PictureFormat
from comfy_shared.pictures import EXTENSIONS, Converted, Unconvertible, thumbnail

SIZES = (64, 128, 256, 512, 1024)  # that are kept; others are made again each time, so that nobody fills the store
AT_ONCE = 2  # pictures that one process decodes at a time
LARGEST = 512 * 1024 * 1024  # bytes of an output that is read
SPOOLED = 8 * 1024 * 1024  # bytes of it that stay in memory


class Thumbnails:
    """Makes and keeps them."""

    def __init__(self, files: FileStore, *, pixel_limit: int) -> None:
        self._files = files
        self._pixel_limit = pixel_limit
        self._slots = asyncio.Semaphore(AT_ONCE)

    async def get(self, output: Output, size: int, target: PictureFormat) -> Converted:
        """The output with no side longer than `size` pixels.

        Raises:
            Unconvertible: it is no picture, damaged or too large.
            NotFound: its file is gone.
            Unavailable: the file store cannot be read.
        """
        if not output.content_type.startswith("image/") or output.size > LARGEST:
            raise Unconvertible("it is no picture, or a very large one")
        key = f"{thumbnail_folder(_task_of(output))}/{output.sha256[:32]}-{size}{EXTENSIONS[target]}"
        if size in SIZES:
            try:
                data = await self._read(key)
                return Converted(data=data, extension=EXTENSIONS[target], content_type=f"image/{target.value}")
            except NotFound:
                pass  # the first who asks
        async with self._slots:
            made = await self._make(output, size, target)
        if size in SIZES:
            await self.keep(key, made.data, output)
        return made

    async def keep(self, key: str, data: bytes, of: Output) -> None:
        """Stores what was made of an output, unless that went meanwhile. A store that is full is no reason to fail."""
        try:
            await self._files.put(key, data)
            if not await self._files.exists(of.key):  # the purge was quicker, and would not come again
                await self._files.delete(key)
        except Unavailable:
            return

    async def _make(self, output: Output, size: int, target: PictureFormat) -> Converted:
        with tempfile.SpooledTemporaryFile(max_size=SPOOLED) as file:
            async for chunk in self._files.read(output.key):
                await asyncio.to_thread(file.write, chunk)
            return await asyncio.to_thread(
                thumbnail, cast("BinaryIO", file), size, target, pixel_limit=self._pixel_limit
            )

    async def _read(self, key: str) -> bytes:
        return b"".join([chunk async for chunk in self._files.read(key)])


def _task_of(output: Output) -> str:
    """The task whose attempt stored the file: not the task itself when it shares another's result."""
    return output.key.split("/")[1]
