"""Adding to a task's pictures what its submit asked for: another format, fewer pixels. The originals stay.

It happens before the task completes, so that a completed task has all of its outputs. A picture that cannot be
converted says so in its record; it never makes the task fail.
"""

import asyncio
import tempfile
from collections.abc import Sequence
from typing import BinaryIO, cast

import msgspec
import structlog

from comfy_service.instance.history import safe_name
from comfy_shared.errors import NotFound, Unavailable
from comfy_shared.files import FileStore
from comfy_shared.models import Output
from comfy_shared.output_options import OutputOptions
from comfy_shared.pictures import Unconvertible, convert

log = structlog.get_logger(__name__)

LARGEST = 512 * 1024 * 1024  # bytes of an original that is read
SPOOLED = 8 * 1024 * 1024  # bytes of it that stay in memory


class Converter:
    """Converts stored pictures, one at a time: a decoded one is large."""

    def __init__(self, store: FileStore, *, pixel_limit: int) -> None:
        self._store = store
        self._pixel_limit = pixel_limit
        self._slot = asyncio.Semaphore(1)

    async def add(
        self, originals: Sequence[Output], folder: str, options: OutputOptions, taken: set[str]
    ) -> list[Output]:
        """The originals, each followed by the picture made of it, if any."""
        outputs: list[Output] = []
        for original in originals:
            if original.temporary or not original.content_type.startswith("image/"):
                outputs.append(original)
                continue
            try:
                async with self._slot:
                    made = await self._convert(original, folder, options, taken)
                outputs += [original, made] if made else [original]
            except (Unconvertible, Unavailable, NotFound) as error:
                log.warning(
                    "Output not converted", action="output.unconverted", output=original.name, reason=str(error)
                )
                outputs.append(msgspec.structs.replace(original, problem=f"not converted: {error}"))
        return outputs

    async def _convert(self, original: Output, folder: str, options: OutputOptions, taken: set[str]) -> Output | None:
        if original.size > LARGEST:
            raise Unconvertible(f"it is larger than {LARGEST} bytes")
        with tempfile.SpooledTemporaryFile(max_size=SPOOLED) as file:
            async for chunk in self._store.read(original.key):
                await asyncio.to_thread(file.write, chunk)
            converted = await asyncio.to_thread(convert, cast("BinaryIO", file), options, pixel_limit=self._pixel_limit)
        if converted is None:
            return None
        stem = original.name.rpartition(".")[0] or original.name
        name = safe_name(stem + converted.extension, taken)
        stored = await self._store.put(f"{folder}/{name}", converted.data)
        return msgspec.structs.replace(
            original,
            name=name,
            content_type=converted.content_type,
            size=stored.size,
            sha256=stored.sha256,
            key=stored.key,
            filename="",
            subfolder="",
            original=original.name,
        )
