"""Assets: an owner's uploads under an id, addressed by blake3, over the input files that are addressed by sha256.

An asset's id follows from its owner and its blake3, so one atomic step on one key keeps "these bytes are one asset of
this owner", and a look-up by hash is a look-up by id. Equal bytes of two owners are one file and two assets: neither
learns of the other's. An asset lives as long as an unused input file, counted from its last use.
"""

import re
import uuid
from typing import Any, cast

import msgspec
from redis.asyncio import Redis

from comfy_balancer.uploads import Inputs, Upload
from comfy_shared import scripts
from comfy_shared.batching import batcher_of
from comfy_shared.callers import Caller
from comfy_shared.errors import NotFound
from comfy_shared.files import input_key
from comfy_shared.keys import Keys
from comfy_shared.models import decode
from comfy_shared.store import border

ASSET_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
BLAKE3 = re.compile(r"blake3:[0-9a-f]{64}", re.IGNORECASE)
_NAMESPACE = uuid.UUID("6f1f1d2c-3b0b-4f0e-9f55-0c8f2f6d7a11")


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """What is kept of an upload."""

    owner: str
    blake3: str  # of its bytes, hex
    sha256: str  # of its bytes, hex: its address
    extension: str  # with the dot, by content: ".png"
    size: int  # bytes
    media_type: str  # by content
    content_type: str  # as its owner calls it
    file_path: str  # as its owner calls it


class Asset(msgspec.Struct, frozen=True, kw_only=True):
    """An upload of one owner."""

    id: str
    record: Record
    created_at: int  # ms since 1970
    expires_at: int  # ms since 1970, unless it is used before

    @property
    def key(self) -> str:
        """Where its bytes are in the file store."""
        return input_key(self.record.sha256, self.record.extension)


def asset_id(owner: str, blake3: str) -> str:
    """The id of these bytes for this owner."""
    return str(uuid.uuid5(_NAMESPACE, f"{owner}\0{blake3}"))


class Assets:
    """The assets of one namespace. Raises `Unavailable` while Redis or the file store is away."""

    def __init__(self, redis: Redis, keys: Keys, inputs: Inputs, *, retention: float) -> None:
        self._redis = batcher_of(redis)
        self._keys = keys
        self._inputs = inputs
        self.retention_ms = int(retention * 1000)

    async def keep(self, upload: Upload, record: Record) -> tuple[Asset, bool]:
        """Stores an upload; the asset, and whether its owner had none of these bytes before."""
        await self._inputs.put([upload])
        found = asset_id(record.owner, record.blake3)
        with border():
            reply = await scripts.ASSET_KEEP(
                self._redis,
                self._keys,
                {"asset": self._keys.asset(found)},
                sha256=record.sha256,
                record=msgspec.json.encode(record),
                retention_ms=self.retention_ms,
            )
        word, *kept = cast("list[Any]", reply)
        return _asset(found, kept), word == b"new"

    async def find(self, wanted: str, who: Caller) -> Asset:
        """The caller's asset of that id. Raises NotFound: there is none, or its bytes are gone."""
        if ASSET_ID.fullmatch(wanted):
            with border():
                reply = await scripts.ASSET_FIND(
                    self._redis,
                    self._keys,
                    {"asset": self._keys.asset(wanted)},
                    retention_ms=self.retention_ms,
                )
            if found := cast("list[Any]", reply):
                asset = _asset(wanted, found)
                if who.may_see(asset.record.owner):
                    return asset
        raise NotFound("there is no such asset")

    async def find_by_hash(self, wanted: str, who: Caller) -> Asset:
        """The caller's asset of those bytes (`blake3:HEX`). Raises NotFound."""
        if not BLAKE3.fullmatch(wanted):
            raise NotFound("there is no such asset")
        return await self.find(asset_id(who.owner, wanted.lower().removeprefix("blake3:")), who)

    async def forget(self, wanted: str, who: Caller) -> None:
        """Deletes the record; the file goes when nothing names it any more. Raises NotFound."""
        asset = await self.find(wanted, who)
        with border():
            gone = await self._redis.call("DEL", self._keys.asset(asset.id))
        if not gone:
            raise NotFound("there is no such asset")


def _asset(found: str, kept: list[Any]) -> Asset:
    record, created_at, expires_at = kept
    return Asset(id=found, record=decode(record, Record), created_at=created_at, expires_at=expires_at)
