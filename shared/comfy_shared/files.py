"""The file store: inputs and outputs, in a folder or in an S3 bucket, behind one async API (obstore).

Inputs are addressed by content (`inputs/SHA256EXT`): equal bytes are stored once. Outputs are under
`outputs/TASK/ATTEMPT/NAME`, so that two attempts never write the same object; what is made of them on demand is under
`thumbnails/TASK`. A put becomes visible whole or not at all: nothing half-written is ever served.
"""

import asyncio
import hashlib
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from urllib.parse import urlsplit

import msgspec
import obstore
from obstore.exceptions import BaseError
from obstore.exceptions import NotFoundError as ObjectNotFound
from obstore.store import LocalStore, ObjectStore, S3Store

from comfy_shared.errors import NotFound, Unavailable
from comfy_shared.settings import SharedSettings

CHUNK = 1024 * 1024
PATIENCE = timedelta(seconds=10)  # with an object store that fails


class Stored(msgspec.Struct, frozen=True, kw_only=True):
    """A file that was put."""

    key: str
    size: int  # bytes
    sha256: str  # hex


class FileStore:
    """Puts, reads and deletes files. Methods raise `Unavailable` when the store cannot be used (full, read-only,
    away)."""

    def __init__(self, store: ObjectStore, *, folder: Path | None = None) -> None:
        self._store = store
        self._folder = folder  # of a store that is a folder

    async def put(self, key: str, data: bytes | AsyncIterator[bytes]) -> Stored:
        """Stores a file; a stream is hashed and counted on its way. An error of the stream is raised as it is."""
        tally = _Tally()
        if isinstance(data, bytes):
            data = _cut(data)
        head: list[bytes] = []
        async for chunk in data:
            head.append(tally.count(chunk))
            if tally.size >= CHUNK:
                break
        else:  # it is small: one call instead of one for each chunk and its end, and of a bucket one request
            await self._put(key, b"".join(head))
            return tally.stored(key)
        broken: list[Exception] = []

        async def counted() -> AsyncIterator[bytes]:
            for chunk in head:
                yield chunk
            try:
                async for chunk in data:
                    yield tally.count(chunk)
            except Exception as error:
                broken.append(error)
                raise

        try:
            await self._put(key, counted())
        except Exception:
            if broken:
                raise broken[0] from None
            raise
        return tally.stored(key)

    async def _put(self, key: str, data: bytes | AsyncIterator[bytes]) -> None:
        try:
            with _border():
                await obstore.put_async(self._store, key, data)
        except NotFound as error:  # the bucket itself
            raise Unavailable("The file store's bucket is not there.") from error

    async def exists(self, key: str) -> bool:
        try:
            await self.size(key)
        except NotFound:
            return False
        return True

    async def size(self, key: str) -> int:
        """Bytes of a file. Raises NotFound."""
        with _border():
            return (await obstore.head_async(self._store, key))["size"]

    async def read(self, key: str, *, start: int = 0, end: int | None = None) -> AsyncIterator[bytes]:
        """The file's bytes from `start` to before `end`, in chunks. Raises NotFound before the first chunk."""
        with _border():
            if end is None:
                result = await obstore.get_async(
                    self._store, key, options={"range": {"offset": start}} if start else {}
                )
            else:
                result = await obstore.get_async(self._store, key, options={"range": (start, end)})
            async for chunk in result.stream(min_chunk_size=CHUNK):
                yield bytes(chunk)

    async def delete(self, key: str) -> None:
        """Deletes a file; one that is not there is fine."""
        try:
            with _border():
                await obstore.delete_async(self._store, key)
        except NotFound:
            return

    async def delete_folder(self, prefix: str) -> int:
        """Deletes all files under a prefix; how many."""
        count = 0
        with _border():
            async for entries in obstore.list(self._store, prefix=prefix):
                paths = [entry["path"] for entry in entries]
                if paths:
                    await obstore.delete_async(self._store, paths)
                count += len(paths)
            if self._folder is not None:
                await asyncio.to_thread(_delete_halves, self._folder, prefix)
        return count


def open_store(settings: SharedSettings) -> FileStore:
    """The store that `file_store` names.

    Raises:
        ValueError: it names none that we know.
    """
    address = urlsplit(settings.file_store)
    if address.scheme == "file":
        folder = Path(address.path)
        folder.mkdir(parents=True, exist_ok=True)
        return FileStore(LocalStore(folder, automatic_cleanup=True), folder=folder)
    if address.scheme == "s3" and address.netloc:
        return FileStore(_s3(settings, address.netloc, address.path.strip("/")))
    raise ValueError(f"FILE_STORE must be file:///folder or s3://bucket/prefix, not {address.scheme}://")


def _s3(settings: SharedSettings, bucket: str, prefix: str) -> S3Store:
    options: dict[str, str] = {}
    if settings.s3_access_key_id.get_secret_value():
        options["access_key_id"] = settings.s3_access_key_id.get_secret_value()
        options["secret_access_key"] = settings.s3_secret_access_key.get_secret_value()
    if settings.s3_endpoint:
        options["endpoint"] = settings.s3_endpoint
    return S3Store(
        bucket,
        prefix=prefix or None,
        region=settings.s3_region,
        retry_config={"max_retries": 3, "retry_timeout": PATIENCE},
        client_options={"allow_http": settings.s3_endpoint.startswith("http://")},
        **options,  # type: ignore[arg-type]  # keys of a TypedDict, chosen at run time
    )


def _delete_halves(root: Path, prefix: str) -> None:
    """Deletes what a process that was killed had begun to put (`NAME#1`): the store itself neither lists nor deletes
    these.
    """
    folder = (root / prefix).resolve()
    if root.resolve() not in folder.parents:
        return
    for path in sorted(folder.rglob("*"), reverse=True):
        if path.is_dir():
            with suppress(OSError):  # not empty
                path.rmdir()
        elif re.search(r"#\d+$", path.name):
            path.unlink(missing_ok=True)
    with suppress(OSError):
        folder.rmdir()


class _Tally:
    """Size and digest of what passes."""

    def __init__(self) -> None:
        self._digest = hashlib.sha256()
        self.size = 0

    def count(self, chunk: bytes) -> bytes:
        self._digest.update(chunk)
        self.size += len(chunk)
        return chunk

    def stored(self, key: str) -> Stored:
        return Stored(key=key, size=self.size, sha256=self._digest.hexdigest())


async def _cut(data: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(data), CHUNK):
        yield data[start : start + CHUNK]


@contextmanager
def _border() -> Iterator[None]:
    try:
        yield
    except (ObjectNotFound, FileNotFoundError) as error:
        raise NotFound("there is no such file in the file store") from error
    except (BaseError, OSError) as error:
        raise Unavailable(f"The file store cannot be used now ({type(error).__name__}).") from error


def input_key(sha256: str, extension: str) -> str:
    """Where an input of that content is."""
    return f"inputs/{sha256}{extension}"


def output_folder(task_id: str, attempt: int | None = None) -> str:
    """Where a task's outputs are: of one attempt, or of all."""
    return f"outputs/{task_id}" if attempt is None else f"outputs/{task_id}/{attempt}"


def thumbnail_folder(task_id: str) -> str:
    """Where small pictures of a task's outputs are kept; they go with the outputs."""
    return f"thumbnails/{task_id}"
