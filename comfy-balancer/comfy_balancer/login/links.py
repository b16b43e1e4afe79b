"""Addresses that are a log-in for themselves: one path, for reading, in the name of one owner, for a while.

A client that was given the address of a picture loads it without any header. The signature covers the path, the owner
and the end; its secret was drawn once and is the same for all replicas, so it tells nothing about any password.
"""

import hmac
import secrets
import time
from typing import cast
from urllib.parse import parse_qs, quote, urlencode

from redis.asyncio import Redis
from redis.exceptions import ResponseError
from starlette.types import Scope

from comfy_shared.callers import Caller, Role
from comfy_shared.errors import Unavailable
from comfy_shared.keys import Keys
from comfy_shared.store import border

SECRET_LENGTH = 32  # bytes


class Links:
    """The links of one namespace. Methods raise `Unavailable` while Redis is away."""

    def __init__(self, redis: Redis, keys: Keys, *, seconds: float) -> None:
        self._redis = redis
        self._keys = keys
        self._seconds = seconds

    async def sign(self, path: str, owner: str) -> str:
        """The path with its signature, for `owner`."""
        ends = str(int(time.time() + self._seconds))
        signature = _signature(await self._secret(), path, owner, ends)
        return path + "?" + urlencode({"owner": owner, "ends": ends, "signature": signature})

    async def caller(self, scope: Scope) -> Caller | None:
        """In whose name the link of this request reads; None when it is none, was changed, or is too old."""
        query = parse_qs(scope["query_string"].decode("latin-1"))
        owner, ends, signature = (query.get(name, [""])[0] for name in ("owner", "ends", "signature"))
        path = quote(scope["path"], safe="/~")
        expected = _signature(await self._secret(), path, owner, ends)
        if not hmac.compare_digest(signature.encode("utf-8", "replace"), expected.encode()):
            return None
        return Caller(owner=owner, role=Role.USER) if int(ends) >= time.time() else None

    async def _secret(self) -> bytes:
        place = self._keys.link_secret
        try:
            with border():
                found = cast("bytes | None", await self._redis.get(place))
                if found is None:
                    await self._redis.set(place, secrets.token_bytes(SECRET_LENGTH), nx=True)
                    found = cast("bytes", await self._redis.get(place))
        except ResponseError as error:
            raise Unavailable("The secret of links cannot be read now.") from error
        if len(found) != SECRET_LENGTH:
            raise Unavailable("The secret of links is damaged.")
        return found


def _signature(secret: bytes, path: str, owner: str, ends: str) -> str:
    return hmac.new(secret, "\n".join((path, owner, ends)).encode("utf-8", "replace"), "sha256").hexdigest()
