"""Bringing what a prompt made into the file store, after the GPU is free for the next one."""

import asyncio
import mimetypes
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

import msgspec

from comfy_service.conversion import Converter
from comfy_service.instance.client import Instance
from comfy_service.instance.history import FileReference, TextOutput, products, safe_name
from comfy_service.settings import ServiceSettings
from comfy_service.stripping import PngStripper
from comfy_shared.errors import NotFound, RunError, Unavailable
from comfy_shared.files import FileStore, Stored, output_folder
from comfy_shared.models import Output
from comfy_shared.output_options import OutputOptions

TRIES = 4  # to store one file, while the file store is away
AT_ONCE = 4  # files of one task


# Python's own table alone, so that an output is called the same on every machine, and what it lacks.
_TYPES = mimetypes.MimeTypes(filenames=())
for _type, _extension in (
    ("image/webp", ".webp"),
    ("image/x-exr", ".exr"),
    ("audio/flac", ".flac"),
    ("audio/ogg", ".ogg"),
    ("audio/ogg", ".opus"),
    ("video/x-matroska", ".mkv"),
    ("model/gltf-binary", ".glb"),
    ("model/gltf+json", ".gltf"),
    ("model/obj", ".obj"),
    ("model/stl", ".stl"),
):
    _TYPES.add_type(_type, _extension)


class StoreFailed(RunError):
    """The file store did not take an output."""

    code = "file_store"
    retryable = True


class TooMuch(RunError):
    """The prompt made more than the limits allow."""

    code = "too_much_output"


class SocketImage(msgspec.Struct, frozen=True, kw_only=True):
    """A picture that exists only as a frame of the socket (SaveImageWebsocket)."""

    node: str
    data: bytes
    content_type: str


class Collector:
    """Stores the outputs of one attempt."""

    def __init__(self, instance: Instance, store: FileStore, settings: ServiceSettings) -> None:
        self._instance = instance
        self._store = store
        self._converter = Converter(store, pixel_limit=settings.pixel_limit)
        self._largest = settings.largest_output
        self._most = settings.most_outputs
        self._strip = settings.strip_metadata

    async def collect(
        self,
        task_id: str,
        attempt: int,
        entry: Mapping[str, Any],
        images: Sequence[SocketImage],
        options: OutputOptions | None = None,
    ) -> list[Output]:
        """All outputs, in the order of the nodes; each followed by the one that `options` make of it.

        Raises:
            OutputMissing: the instance no longer has a file.
            InstanceLost: it went away meanwhile.
            StoreFailed, TooMuch.
        """
        items: list[FileReference | TextOutput | SocketImage] = [*products(entry), *images]
        if len(items) > self._most:
            raise TooMuch(f"The prompt made {len(items)} outputs; the limit is {self._most}.")
        taken: set[str] = set()
        names = [safe_name(_proposed(item), taken) for item in items]
        folder = output_folder(task_id, attempt)
        slots = asyncio.Semaphore(AT_ONCE)
        options = options or OutputOptions()
        strip = self._strip if options.strip_metadata is None else options.strip_metadata

        async def one(name: str, item: FileReference | TextOutput | SocketImage) -> Output:
            async with slots:
                return await self._store_one(f"{folder}/{name}", name, item, strip=strip)

        try:
            async with asyncio.TaskGroup() as group:
                pending = [group.create_task(one(name, item)) for name, item in zip(names, items, strict=True)]
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from errors
        originals = [task.result() for task in pending]
        return await self._converter.add(originals, folder, options, taken) if options.converts else originals

    async def discard(self, task_id: str, attempt: int) -> None:
        """Deletes what this attempt stored; it was not accepted."""
        try:
            await self._store.delete_folder(output_folder(task_id, attempt))
        except Unavailable:
            return  # the purge of the task removes the rest

    async def _store_one(
        self, key: str, name: str, item: FileReference | TextOutput | SocketImage, *, strip: bool
    ) -> Output:
        stored = await self._put(key, item, strip=strip)
        kind = item.kind if isinstance(item, FileReference) else "text" if isinstance(item, TextOutput) else "images"
        return Output(
            name=name,
            node=item.node,
            kind=kind,
            content_type=_content_type(name),
            size=stored.size,
            sha256=stored.sha256,
            key=key,
            temporary=isinstance(item, FileReference) and item.type == "temp",
            filename=item.filename if isinstance(item, FileReference) else "",
            subfolder=item.subfolder if isinstance(item, FileReference) else "",
        )

    async def _put(self, key: str, item: FileReference | TextOutput | SocketImage, *, strip: bool) -> Stored:
        for last in [False] * (TRIES - 1) + [True]:
            try:
                if isinstance(item, TextOutput):
                    return await self._store.put(key, item.text.encode(errors="replace"))
                if isinstance(item, SocketImage):
                    stripper = PngStripper()
                    return await self._store.put(key, stripper.feed(item.data) if strip else item.data)
                reference = {"filename": item.filename, "subfolder": item.subfolder, "type": item.type}
                async with self._instance.view(reference) as chunks:
                    limited = self._limited(chunks)
                    return await self._store.put(key, _stripped(limited) if strip else limited)
            except (Unavailable, NotFound) as error:
                if last:
                    raise StoreFailed(f"The output could not be stored: {error.message}") from error
                await asyncio.sleep(1)
        raise AssertionError("the last try returns or raises")

    async def _limited(self, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        size = 0
        async for chunk in chunks:
            size += len(chunk)
            if size > self._largest:
                raise TooMuch(f"An output is larger than {self._largest} bytes.")
            yield chunk


async def _stripped(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    stripper = PngStripper()
    async for chunk in chunks:
        if kept := stripper.feed(chunk):
            yield kept
    if held := stripper.rest():
        yield held


def _proposed(item: FileReference | TextOutput | SocketImage) -> str:
    if isinstance(item, FileReference):
        return item.filename
    if isinstance(item, TextOutput):
        return f"text-{item.node}.txt"
    return f"socket-{item.node}{_TYPES.guess_extension(item.content_type) or '.bin'}"


def _content_type(name: str) -> str:
    return _TYPES.guess_type(name)[0] or "application/octet-stream"
