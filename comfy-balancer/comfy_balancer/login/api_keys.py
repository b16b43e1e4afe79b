"""API keys: `comfy_ID_SECRET`. Redis holds the hash of the secret under the id, so a key is found without a search.

A secret has 192 random bits: nobody guesses it, and one round of SHA-256 hides it. A process believes what it read for
a second: a revoked key is refused by all replicas within that second.
"""

import hmac
import re
import secrets
import time
from contextlib import suppress
from typing import Annotated, cast

import msgspec
import structlog
from msgspec import Meta
from redis.asyncio import Redis
from redis.exceptions import ResponseError

from comfy_shared.callers import Caller, Role
from comfy_shared.errors import Damaged, NotFound, Unavailable
from comfy_shared.http.login import digest
from comfy_shared.keys import Keys
from comfy_shared.models import decode
from comfy_shared.store import border

log = structlog.get_logger(__name__)

KEY = re.compile(r"comfy_([0-9a-f]{12})_([0-9a-f]{48})")
OWNER = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.@-]{0,63}")
FRESH = 1.0  # seconds for which a record is believed
NOTED = 60.0  # seconds between two notes of a key's use
USED_TTL = 90 * 86400  # seconds for which a use is remembered
MOST_KNOWN = 4096  # keys that a process remembers
NOBODY = bytes(32)  # what an unknown key is compared with


class ApiKey(msgspec.Struct, frozen=True, kw_only=True):
    """A key as it is stored: its secret is not."""

    digest: Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]  # SHA-256 of the secret, hex
    owner: str  # in whose name it acts
    role: Role
    created_at: int  # ms


class Listed(msgspec.Struct, frozen=True, kw_only=True):
    """A key as it is listed."""

    id: str
    owner: str
    role: Role
    created_at: int  # ms
    used_at: int  # ms, to the minute; 0: not within 90 days


class ApiKeys:
    """The keys of one namespace. Methods raise `Unavailable` while Redis is away."""

    def __init__(self, redis: Redis, keys: Keys) -> None:
        self._redis = redis
        self._keys = keys
        self._known: dict[str, tuple[float, ApiKey]] = {}  # id → (until when this is believed, record)
        self._noted: dict[str, float] = {}  # id → when its use was noted last

    async def create(self, owner: str, role: Role) -> str:
        """A new key, which nobody can read again. Raises ValueError: no name of an owner."""
        if not OWNER.fullmatch(owner):
            raise ValueError("an owner's name has 1 to 64 letters, digits, _ . @ -, and begins with a letter or digit")
        key_id, secret = secrets.token_hex(6), secrets.token_hex(24)
        record = ApiKey(digest=digest(secret.encode()).hex(), owner=owner, role=role, created_at=_now())
        with border():
            await self._redis.hset(self._keys.api_keys, key_id, msgspec.json.encode(record))
        return f"comfy_{key_id}_{secret}"

    async def list(self) -> list[Listed]:
        """All keys, oldest first; a damaged record is left out."""
        with border():
            found = cast("dict[bytes, bytes]", await self._redis.hgetall(self._keys.api_keys))
            ids = [key_id.decode(errors="replace") for key_id in found]
            used = await self._redis.mget([self._keys.api_key_used(key_id) for key_id in ids]) if ids else []
        listed = []
        for key_id, raw, at in zip(ids, found.values(), used, strict=True):
            with suppress(Damaged):
                record = decode(raw, ApiKey)
                last = int(at) if at and at.isdigit() else 0
                listed.append(
                    Listed(id=key_id, owner=record.owner, role=record.role, created_at=record.created_at, used_at=last)
                )
        return sorted(listed, key=lambda key: (key.created_at, key.id))

    async def revoke(self, key_id: str) -> None:
        """Raises NotFound."""
        with border():
            gone = await self._redis.hdel(self._keys.api_keys, key_id)
            await self._redis.delete(self._keys.api_key_used(key_id))
        if not gone:
            raise NotFound(f"there is no key {key_id[:64]!r}")

    async def caller(self, text: str) -> Caller | None:
        """In whose name the key acts; None when it is none of ours, or revoked."""
        parts = KEY.fullmatch(text)
        key_id, secret = parts.groups() if parts else ("", "")
        record = await self._record(key_id) if key_id else None
        expected = bytes.fromhex(record.digest) if record else NOBODY
        if not hmac.compare_digest(digest(secret.encode()), expected) or record is None:
            return None
        await self._note(key_id)
        return Caller(owner=record.owner, role=record.role)

    async def _record(self, key_id: str) -> ApiKey | None:
        until, known = self._known.get(key_id, (0.0, None))
        if known is not None and until > time.monotonic():
            return known
        self._known.pop(key_id, None)
        asked = time.monotonic()
        try:
            with border():
                raw = cast("bytes | None", await self._redis.hget(self._keys.api_keys, key_id))
            record = decode(raw, ApiKey) if raw else None
        except (ResponseError, Damaged) as error:
            log.error("An API key is damaged", action="api_key.damaged", key=key_id, reason=type(error).__name__)
            raise Unavailable("The API keys cannot be read now.") from error
        if record is not None:
            if len(self._known) >= MOST_KNOWN:
                self._known.clear()
            self._known[key_id] = (asked + FRESH, record)
        return record

    async def _note(self, key_id: str) -> None:
        now = time.monotonic()
        if now - self._noted.get(key_id, -NOTED) < NOTED:
            return
        if len(self._noted) >= MOST_KNOWN:
            self._noted.clear()
        self._noted[key_id] = now
        with suppress(Unavailable, ResponseError), border():
            await self._redis.set(self._keys.api_key_used(key_id), _now(), ex=USED_TTL)


def _now() -> int:
    return int(time.time() * 1000)
