"""Tickets: a browser cannot put a header on a websocket, an event source or a picture, so it shows one in the query.

A ticket is for one use within half a minute, and Redis holds only its hash: a line of a log or a history is worthless.
"""

import secrets
import time
from typing import cast

import msgspec
import structlog
from redis.asyncio import Redis
from redis.exceptions import ResponseError

from comfy_shared.callers import Caller
from comfy_shared.errors import Damaged
from comfy_shared.http.login import digest
from comfy_shared.keys import Keys
from comfy_shared.models import decode
from comfy_shared.store import border

log = structlog.get_logger(__name__)

LENGTH = 43  # characters of a ticket


class Tickets:
    """The tickets of one namespace. Methods raise `Unavailable` while Redis is away."""

    def __init__(self, redis: Redis, keys: Keys, *, seconds: float) -> None:
        self._redis = redis
        self._keys = keys
        self._ms = int(seconds * 1000)

    async def issue(self, who: Caller) -> tuple[str, int]:
        """A new ticket in the caller's name, and when it ends (ms)."""
        ticket = secrets.token_urlsafe(32)
        ends = int(time.time() * 1000) + self._ms
        with border():
            await self._redis.set(self._place(ticket), msgspec.json.encode(who), px=self._ms)
        return ticket, ends

    async def redeem(self, ticket: str) -> Caller | None:
        """Whose ticket this is; from now on nobody's. None when it is none, was used, or is too old."""
        if len(ticket) != LENGTH:
            return None
        try:
            with border():
                raw = cast("bytes | None", await self._redis.getdel(self._place(ticket)))
            return decode(raw, Caller) if raw else None
        except (ResponseError, Damaged) as error:
            log.error("A ticket is damaged", action="ticket.damaged", reason=type(error).__name__)
            return None

    def _place(self, ticket: str) -> str:
        return self._keys.ticket(digest(ticket.encode("utf-8", "replace")).hex())
