"""What the editor keeps for its user: saved workflows and other small files, and settings. Of each owner its own.

An index in Redis says which paths exist; the bytes are in the file store under names of ours, so no path of a client
ever reaches a file system.
"""

import hashlib
import time
from typing import Any, cast

import msgspec
from redis.asyncio import Redis

from comfy_balancer.checks import path_trick
from comfy_balancer.settings import BalancerSettings
from comfy_shared.errors import ComfyError, Damaged, NotFound, TooLarge
from comfy_shared.files import FileStore
from comfy_shared.ids import new_id
from comfy_shared.keys import Keys
from comfy_shared.models import decode
from comfy_shared.store import border

LONGEST_PATH = 500  # characters
MOST_FILES = 10_000  # of one owner
MOST_SETTINGS = 2000  # of one owner
LARGEST_SETTING = 256 * 1024  # bytes


class OutsideUserData(ComfyError):
    """The path leads outside the user's files."""


class StoredFile(msgspec.Struct, frozen=True, kw_only=True):
    """One file of a user."""

    key: str  # in the file store
    size: int  # bytes
    modified: float  # seconds since 1970, as ComfyUI has them
    created: float


def checked_path(path: str, *, empty: bool = False) -> str:
    """A path in its plain form. Raises OutsideUserData."""
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if path.startswith("/") or len(path) > LONGEST_PATH or path_trick(path) or (not parts and not empty):
        raise OutsideUserData
    return "/".join(parts)


class UserData:
    """Files and settings of all owners. Methods raise `Unavailable` while Redis or the file store is away."""

    def __init__(self, redis: Redis, keys: Keys, files: FileStore, settings: BalancerSettings) -> None:
        self._redis = redis
        self._keys = keys
        self._files = files
        self._settings = settings

    async def all(self, owner: str) -> dict[str, StoredFile]:
        """The owner's files by path, sorted."""
        with border():
            found = cast("dict[bytes, bytes]", await self._redis.hgetall(self._keys.userdata(owner)))
        files = {path.decode(errors="replace"): _read(value) for path, value in found.items()}
        return {path: file for path in sorted(files) if (file := files[path]) is not None}

    async def find(self, owner: str, path: str) -> StoredFile:
        """Raises NotFound."""
        with border():
            file = _read(await self._redis.hget(self._keys.userdata(owner), path))
        if file is None:
            raise NotFound("there is no such file")
        return file

    async def read(self, owner: str, path: str) -> bytes:
        """The bytes of a file. Raises NotFound."""
        file = await self.find(owner, path)
        return b"".join([chunk async for chunk in self._files.read(file.key)])

    async def write(self, owner: str, path: str, data: bytes) -> StoredFile:
        """Keeps a file under a path, in the place of what was there.

        Raises:
            TooLarge: it, or all that the owner keeps, exceeds a limit.
        """
        files = await self.all(owner)
        before = files.pop(path, None)
        if sum(file.size for file in files.values()) + len(data) > self._settings.userdata_limit:
            raise TooLarge(f"All files together would be larger than {self._settings.userdata_limit} bytes.")
        if len(files) >= MOST_FILES:
            raise TooLarge(f"There are {MOST_FILES} files; no more are kept.")
        now = time.time()
        folder = hashlib.sha256(owner.encode()).hexdigest()[:32]
        key = f"userdata/{folder}/{new_id()}"
        await self._files.put(key, data)
        file = StoredFile(key=key, size=len(data), modified=now, created=before.created if before else now)
        await self._note(owner, path, file)
        if before:
            await self._files.delete(before.key)
        return file

    async def _note(self, owner: str, path: str, file: StoredFile) -> None:
        with border():
            await self._redis.hset(self._keys.userdata(owner), path, msgspec.json.encode(file))

    async def delete(self, owner: str, path: str) -> None:
        """Raises NotFound."""
        file = await self.find(owner, path)
        with border():
            await self._redis.hdel(self._keys.userdata(owner), path)
        await self._files.delete(file.key)

    async def move(self, owner: str, path: str, to: str) -> StoredFile:
        """Gives a file another path, in the place of what was there. Raises NotFound."""
        files = await self.all(owner)
        if path not in files:
            raise NotFound("there is no such file")
        await self._note(owner, to, files[path])
        if to != path:
            with border():
                await self._redis.hdel(self._keys.userdata(owner), path)
            if to in files:
                await self._files.delete(files[to].key)
        return files[path]

    # Settings.

    async def settings(self, owner: str) -> dict[str, Any]:
        """All settings of an owner."""
        with border():
            found = cast("dict[bytes, bytes]", await self._redis.hgetall(self._keys.settings(owner)))
        return {name.decode(errors="replace"): msgspec.Raw(value) for name, value in found.items()}

    async def setting(self, owner: str, name: str) -> bytes:
        """One setting as JSON; `null` when it is not set."""
        with border():
            return cast("bytes | None", await self._redis.hget(self._keys.settings(owner), name)) or b"null"

    async def change(self, owner: str, changes: dict[str, Any]) -> None:
        """Sets some settings. Raises TooLarge."""
        packed = {name: msgspec.json.encode(value) for name, value in changes.items()}
        if any(len(name) + len(value) > LARGEST_SETTING for name, value in packed.items()):
            raise TooLarge(f"A setting is larger than {LARGEST_SETTING} bytes.")
        key = self._keys.settings(owner)
        with border():
            if await self._redis.hlen(key) + len(packed) > MOST_SETTINGS:
                raise TooLarge(f"There are {MOST_SETTINGS} settings; no more are kept.")
            if packed:
                await self._redis.hset(key, mapping=packed)  # type: ignore[arg-type]  # the stub forgets bytes


def _read(value: object) -> StoredFile | None:
    try:
        return decode(value, StoredFile) if isinstance(value, bytes) else None
    except Damaged:
        return None
