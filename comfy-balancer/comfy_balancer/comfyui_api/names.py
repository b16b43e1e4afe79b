"""The names under which a caller's uploads are known to it: ComfyUI names files, our file store addresses content.

A name is of its owner alone, so two owners may both have `up.png`, and whichever agent runs the prompt is given the
content by its hash. A name lives as long as tasks are kept; the content behind it as long as the input retention after
its last use, and then the name is as if it had never been.
"""

import re
from collections.abc import Iterable, Mapping
from typing import cast

import msgspec
from redis.asyncio import Redis

from comfy_balancer.uploads import Kind
from comfy_shared.errors import Damaged, TooLarge
from comfy_shared.keys import Keys
from comfy_shared.models import decode
from comfy_shared.store import border

MOST_NAMES = 10_000  # of one owner
MOST_TRIES = 1000  # numbers tried for a name that is taken
TYPES = ("input", "temp", "output")
FLAGS = {"image_upload": Kind.PICTURE, "video_upload": Kind.VIDEO, "audio_upload": Kind.AUDIO}
_ANNOTATED = re.compile(r"(.*?)\s*\[(input|temp|output)\]", re.DOTALL)


class NamedFile(msgspec.Struct, frozen=True, kw_only=True):
    """What a name stands for."""

    sha256: str
    extension: str  # with the dot, by content
    size: int  # bytes
    kind: str  # picture, video or audio


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """Where ComfyUI would have a file."""

    type: str  # input, temp or output
    subfolder: str
    filename: str

    @property
    def field(self) -> str:
        return "/".join(part for part in (self.type, self.subfolder, self.filename) if part)


def place_of(value: str) -> Place:
    """Where a node's input names a file: `a/b.png`, or with its type `a/b.png [output]`."""
    annotated = _ANNOTATED.fullmatch(value)
    path, kind = (annotated.group(1), annotated.group(2)) if annotated else (value, "input")
    subfolder, _, filename = path.rpartition("/")
    return Place(type=kind, subfolder=subfolder, filename=filename)


class Names:
    """The upload names of all owners. Raises `Unavailable` while Redis is away."""

    def __init__(self, redis: Redis, keys: Keys, *, retention: float) -> None:
        self._redis = redis
        self._keys = keys
        self._retention = int(retention)

    async def add(self, owner: str, place: Place, file: NamedFile, *, overwrite: bool) -> Place:
        """Names a file; a name that stands for other bytes gets a number, unless it may be overwritten.

        Raises:
            TooLarge: the owner has too many names.
        """
        key = self._keys.uploads(owner)
        packed = msgspec.json.encode(file)
        with border():
            if await self._redis.hlen(key) >= MOST_NAMES and not await self._redis.hexists(key, place.field):
                raise TooLarge(f"More than {MOST_NAMES} uploaded files are kept; older ones go with time.")
            for number in range(MOST_TRIES):
                tried = place if number == 0 else _numbered(place, number)
                if overwrite:
                    await self._redis.hset(key, tried.field, packed)
                elif not await self._redis.hsetnx(key, tried.field, packed):
                    before = _read(await self._redis.hget(key, tried.field))
                    if before is None or before.sha256 != file.sha256:
                        continue
                await self._redis.expire(key, self._retention)
                return tried
        raise TooLarge("Too many files of this name are kept.")

    async def find(self, owner: str, places: Iterable[Place]) -> Mapping[str, NamedFile]:
        """What is known of these places, by their field."""
        fields = list(dict.fromkeys(place.field for place in places))
        if not fields:
            return {}
        with border():
            values = await self._redis.hmget(self._keys.uploads(owner), fields)
        read = {field: _read(value) for field, value in zip(fields, values, strict=True)}
        return {field: file for field, file in read.items() if file is not None}

    async def inputs(self, owner: str) -> Mapping[str, list[str]]:
        """Names of the files in the input folder itself, by the flag of the inputs that list them."""
        with border():
            found = cast("dict[bytes, bytes]", await self._redis.hgetall(self._keys.uploads(owner)))
        names: dict[str, list[str]] = {flag: [] for flag in FLAGS}
        for field, value in found.items():
            kind, _, name = field.decode(errors="replace").partition("/")
            file = _read(value)
            if kind == "input" and "/" not in name and file is not None:
                for flag, wanted in FLAGS.items():
                    if file.kind == wanted.value:
                        names[flag].append(name)
        return names


def _numbered(place: Place, number: int) -> Place:
    stem, dot, extension = place.filename.rpartition(".")
    name = f"{stem} ({number}).{extension}" if dot else f"{place.filename} ({number})"
    return msgspec.structs.replace(place, filename=name)


def _read(value: object) -> NamedFile | None:
    try:
        return decode(value, NamedFile) if isinstance(value, bytes) else None
    except Damaged:
        return None
