"""Uploaded files: read from the form within limits, known by their bytes, kept under their hash.

What a client says about a file (name, type, extension) is never used. A picture's size is read from its header before
anything decodes it; hashing and Pillow run in threads. A file is stored only after the whole request was checked.
"""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import BinaryIO

import puremagic
from PIL import Image, UnidentifiedImageError
from redis.asyncio import Redis
from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from comfy_balancer.settings import BalancerSettings
from comfy_shared.errors import InvalidTask, NotFound, TooLarge, Unavailable
from comfy_shared.files import FileStore, input_key
from comfy_shared.http.problems import MalformedBody, StorageFull, invalid
from comfy_shared.keys import Keys
from comfy_shared.models import Output
from comfy_shared.store import border

# The limit of ours is checked before anything decodes; Pillow's own would only be a second, lower one.
Image.MAX_IMAGE_PIXELS = None

CHUNK = 1024 * 1024
MOST_FIELDS = 1000  # parts of a form without a file
HEAD = 64 * 1024  # bytes that tell the type of a video or audio file
FULL = ("No space left", "os error 28", "os error 122", "QuotaExceeded", "StorageFull")


class Kind(StrEnum):
    """What a file is."""

    PICTURE = "picture"
    VIDEO = "video"
    AUDIO = "audio"
    OTHER = "other"  # kept and given back; no prompt may name it


PICTURES = {
    "PNG": (".png", "image/png"),
    "JPEG": (".jpg", "image/jpeg"),
    "WEBP": (".webp", "image/webp"),
    "GIF": (".gif", "image/gif"),
    "BMP": (".bmp", "image/bmp"),
    "TIFF": (".tiff", "image/tiff"),
    "AVIF": (".avif", "image/avif"),
}
MEDIA = {
    ".mp4": (Kind.VIDEO, "video/mp4"),
    ".webm": (Kind.VIDEO, "video/webm"),
    ".mov": (Kind.VIDEO, "video/quicktime"),
    ".mkv": (Kind.VIDEO, "video/x-matroska"),
    ".wav": (Kind.AUDIO, "audio/wav"),
    ".mp3": (Kind.AUDIO, "audio/mpeg"),
    ".flac": (Kind.AUDIO, "audio/flac"),
    ".ogg": (Kind.AUDIO, "audio/ogg"),
    ".m4a": (Kind.AUDIO, "audio/mp4"),
}
ALIASES = {".mpga": ".mp3"}  # MP3 frames without a tag before them
EXTENSIONS = {extension: Kind.PICTURE for extension, _ in PICTURES.values()} | {
    extension: kind for extension, (kind, _) in MEDIA.items()
}
_BY_TYPE = {content_type: (Kind.PICTURE, extension) for extension, content_type in PICTURES.values()} | {
    content_type: (kind, extension) for extension, (kind, content_type) in MEDIA.items()
}
UNKNOWN = (Kind.OTHER, ".bin", "application/octet-stream")
STORED = EXTENSIONS | {UNKNOWN[1]: UNKNOWN[0]}


@dataclass(frozen=True, kw_only=True, slots=True)
class Upload:
    """A file part whose content is known; not stored yet."""

    field: str  # the part's name
    file: BinaryIO
    sha256: str  # hex
    size: int  # bytes
    kind: Kind
    extension: str  # with the dot, by content
    content_type: str
    filename: str = ""  # as the client calls it; only for clients that are to find it by that name


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredInput:
    """A file of the file store that a task may name."""

    sha256: str
    size: int  # bytes
    kind: Kind
    extension: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Form:
    """A multipart body."""

    texts: dict[str, bytes]  # parts without a file, and the part `task` in either form
    uploads: tuple[Upload, ...]


class _Parser(MultiPartParser):
    """Starlette's parser, with a limit for each part while it streams."""

    part_limit = 0

    def whole(self, form: FormData) -> FormData:
        """The form, unless its body ended within a file."""
        kept = {id(value.file) for _, value in form.multi_items() if isinstance(value, UploadFile)}
        if all(id(file) in kept for file in self._files_to_close_on_error):
            return form
        for file in self._files_to_close_on_error:
            file.close()
        raise MalformedBody("The body ends within a file.")

    def on_part_begin(self) -> None:
        self._seen = 0
        super().on_part_begin()

    def on_part_data(self, data: bytes, start: int, end: int) -> None:
        self._seen += end - start
        if self._seen > self.part_limit:
            raise TooLarge(f"A file is larger than {self.part_limit} bytes.")
        super().on_part_data(data, start, end)


@asynccontextmanager
async def read_form(request: Request, settings: BalancerSettings) -> AsyncIterator[Form]:
    """A multipart body; what it spooled to disk is gone after the block.

    Raises:
        MalformedBody, TooLarge, StorageFull, InvalidTask.
    """
    async with open_form(request, settings) as form:
        yield await _sort(form, settings)


@asynccontextmanager
async def open_form(request: Request, settings: BalancerSettings) -> AsyncIterator[FormData]:
    """The parts of a multipart body as they are; what it spooled to disk is gone after the block. Raises as
    `read_form`."""
    form = await parse_form(request, settings)
    try:
        yield form
    finally:
        await form.close()


async def parse_form(request: Request, settings: BalancerSettings) -> FormData:
    """The parts of a multipart body, files spooled to disk; the caller closes it. Raises as `read_form`."""
    parser = _Parser(
        request.headers,
        request.stream(),
        max_files=settings.files_limit,
        max_fields=MOST_FIELDS,
        max_part_size=settings.json_limit,
    )
    parser.part_limit = settings.file_limit
    try:
        return parser.whole(await parser.parse())
    except MultiPartException as error:
        if error.message.startswith(("Too many", "Part exceeded")):
            raise TooLarge(error.message) from None
        raise MalformedBody(f"The body is no valid form: {error.message}") from None
    except OSError as error:
        raise StorageFull("There is no room for the upload.") from error


async def _sort(form: FormData, settings: BalancerSettings) -> Form:
    texts: dict[str, bytes] = {}
    uploads: list[Upload] = []
    for name, value in form.multi_items():
        if name in texts or any(upload.field == name for upload in uploads):
            raise invalid(name, "is there twice")
        if isinstance(value, str):
            texts[name] = value.encode("utf-8", "surrogatepass")
        elif name == "task":
            texts[name] = await value.read(settings.json_limit + 1)
            if len(texts[name]) > settings.json_limit:
                raise TooLarge(f"The part task is larger than {settings.json_limit} bytes.")
        else:
            uploads.append(await known_upload(name, value, settings))
    return Form(texts=texts, uploads=tuple(uploads))


async def known_upload(name: str, part: UploadFile, settings: BalancerSettings) -> Upload:
    """A file part, known by its bytes. Raises InvalidTask, TooLarge."""
    return replace(await know(name, part.file, settings.pixel_limit), filename=part.filename or "")


async def know(field: str, file: BinaryIO, pixel_limit: int) -> Upload:
    """A file, hashed and recognized beside the event loop.

    Raises:
        InvalidTask: it is none that we take.
        TooLarge: a picture with too many pixels.
    """

    def work() -> Upload:
        file.seek(0)
        digest = hashlib.sha256()
        while chunk := file.read(CHUNK):
            digest.update(chunk)
        size = file.tell()
        kind, extension, content_type = recognize(field, file, pixel_limit)
        return Upload(
            field=field,
            file=file,
            sha256=digest.hexdigest(),
            size=size,
            kind=kind,
            extension=extension,
            content_type=content_type,
        )

    return await asyncio.to_thread(work)


def recognize(field: str, file: BinaryIO, pixel_limit: int) -> tuple[Kind, str, str]:
    """Kind, extension and media type of a file, by its bytes.

    Raises:
        InvalidTask: it is none that we take.
        TooLarge: a picture with too many pixels.
    """
    file.seek(0)
    head = file.read(HEAD)
    if not head:
        raise invalid(field, "the file is empty")
    file.seek(0)
    try:
        # Pillow's readers raise whatever a broken file makes them stumble over.
        with Image.open(file, formats=tuple(PICTURES)) as picture:
            _check_pixels(field, picture, pixel_limit)
            picture.verify()
            return Kind.PICTURE, *PICTURES[picture.format or ""]
    except (TooLarge, InvalidTask):
        raise
    except UnidentifiedImageError:
        return _recognize_media(field, head)
    except Exception as error:
        raise invalid(field, "the picture is damaged") from error


def _check_pixels(field: str, picture: Image.Image, limit: int) -> None:
    width, height = picture.size
    if width * height > limit or width * height * getattr(picture, "n_frames", 1) > limit:
        raise TooLarge(f"{field}: the picture has more than {limit} pixels.")


def _recognize_media(field: str, head: bytes) -> tuple[Kind, str, str]:
    with suppress(puremagic.PureError, ValueError):
        extension = puremagic.magic_string(head)[0].extension  # the best match decides: none of the lesser ones may
        extension = ALIASES.get(extension, extension)
        if extension in MEDIA:
            kind, content_type = MEDIA[extension]
            return kind, extension, content_type
    raise invalid(field, "must be a picture, video or audio file of a known format", limits={"choices": [*EXTENSIONS]})


class Inputs:
    """The stored input files."""

    def __init__(self, redis: Redis, keys: Keys, files: FileStore) -> None:
        self._redis = redis
        self._keys = keys
        self._files = files

    async def put(self, uploads: Iterable[Upload]) -> None:
        """Stores what is not there yet. Raises Unavailable, or StorageFull."""
        for upload in uploads:
            await self._touch(upload.sha256)  # first: from here on the purge leaves it alone
            key = input_key(upload.sha256, upload.extension)
            if not await self._files.exists(key):
                try:
                    await self._files.put(key, _chunks(upload.file))
                except Unavailable as error:
                    if any(word in str(error.__cause__) for word in FULL):
                        raise StorageFull from error
                    raise

    async def take(self, output: Output) -> StoredInput | None:
        """An output as an input file; None when no prompt may take one of its type. Raises NotFound: it is gone."""
        known = _BY_TYPE.get(output.content_type)
        if known is None:
            return None
        kind, extension = known
        await self.copy(output.key, output.sha256, extension)
        return StoredInput(sha256=output.sha256, size=output.size, kind=kind, extension=extension)

    async def copy(self, source: str, sha256: str, extension: str) -> None:
        """Makes a file of the store, whose content is known, an input. Raises NotFound."""
        await self._touch(sha256)
        key = input_key(sha256, extension)
        if not await self._files.exists(key):
            await self._files.put(key, self._files.read(source))

    async def _touch(self, sha256: str) -> None:
        with border():
            pipeline = self._redis.pipeline(transaction=False)
            pipeline.time()
            pipeline.get(self._keys.clock)
            (seconds, micros), offset = await pipeline.execute()
            now = seconds * 1000 + micros // 1000 + int(offset or 0)
            await self._redis.zadd(self._keys.inputs, {sha256: now})

    async def find(self, sha256: str) -> StoredInput | None:
        """The file of that hash. Its extension is part of its address, so each that we take is tried."""
        with border():
            if await self._redis.zscore(self._keys.inputs, sha256) is None:
                return None
        sizes = await asyncio.gather(*(self._size(input_key(sha256, extension)) for extension in STORED))
        for (extension, kind), size in zip(STORED.items(), sizes, strict=True):
            if size is not None:
                return StoredInput(sha256=sha256, size=size, kind=kind, extension=extension)
        return None

    async def _size(self, key: str) -> int | None:
        try:
            return await self._files.size(key)
        except NotFound:
            return None

    async def delete(self, sha256: str) -> None:
        """Deletes a file that the purge found unused, unless it was uploaded again meanwhile."""
        with border():
            if await self._redis.zscore(self._keys.inputs, sha256) is not None:
                return
        for extension in STORED:
            await self._files.delete(input_key(sha256, extension))


async def _chunks(file: BinaryIO) -> AsyncIterator[bytes]:
    await asyncio.to_thread(file.seek, 0)
    while chunk := await asyncio.to_thread(file.read, CHUNK):
        yield chunk
