"""Wrong log-ins are counted per address, for all processes and replicas together: who guesses has few guesses a minute.

A window begins with the first wrong log-in. Once there are more different ones than the limit, or `REPEATS` times as
many altogether, nothing from that address is looked at until the window ends: a right guess helps no more than a wrong
one. Other addresses do not notice. Each process asks Redis about an address at most once a second; while Redis is away
nothing is counted and nobody is kept out.
"""

import asyncio
import hashlib
import time
from contextlib import suppress
from typing import cast

from redis.asyncio import Redis
from redis.exceptions import ResponseError

from comfy_shared import scripts
from comfy_shared.batching import batcher_of
from comfy_shared.errors import Unavailable
from comfy_shared.keys import Keys
from comfy_shared.settings import SharedSettings
from comfy_shared.store import border

FRESH = 1.0  # seconds for which an answer of Redis is believed
PATIENCE = 0.25  # seconds that a log-in waits for a Redis that does not answer
REPEATS = 25  # wrong log-ins, the same ones again included, for each different one
DIGEST = 8  # hexadecimal digits that tell wrong log-ins apart: too few to find out what somebody mistyped
MOST_ADDRESSES = 10_000  # remembered; then all are asked about again


class GuessLimit:
    """The counter of one namespace."""

    def __init__(self, redis: Redis, keys: Keys, settings: SharedSettings) -> None:
        self._redis = redis
        self._batcher = batcher_of(redis)
        self._keys = keys
        self._limit = settings.login_failures
        self._window_ms = int(settings.login_window * 1000)
        self._known: dict[str, tuple[float, float]] = {}  # address → (until when this is believed, kept out until)

    async def kept_out(self, address: str) -> float:
        """Seconds for which nothing from this address is looked at; 0 when it may try."""
        now = time.monotonic()
        believed, until = self._known.get(address, (0.0, 0.0))
        if until > now:
            return until - now
        if believed > now:
            return 0
        seconds = 0.0
        with suppress(Unavailable, ResponseError, TimeoutError):
            async with asyncio.timeout(PATIENCE):
                pipeline = self._redis.pipeline(transaction=False)
                pipeline.hlen(self._keys.guesses(address))
                pipeline.hget(self._keys.guesses(address), "all")
                pipeline.pttl(self._keys.guesses(address))
                with border():
                    fields, total, left = await pipeline.execute()
            seconds = self._seconds(fields - 1, int(total or 0), left)
        self._remember(address, seconds)
        return seconds

    async def failed(self, address: str, shown: bytes) -> float:
        """Counts a wrong log-in; seconds for which the address is kept out from now on, 0 while it may try again."""
        try:
            async with asyncio.timeout(PATIENCE):
                with border():
                    reply = await scripts.GUESS(
                        self._batcher,
                        self._keys,
                        {"guesses": self._keys.guesses(address)},
                        shown=hashlib.sha256(shown).hexdigest()[:DIGEST],
                        limit=self._limit,
                        window_ms=self._window_ms,
                    )
        except (Unavailable, ResponseError, TimeoutError):
            return 0
        seconds = self._seconds(*cast("list[int]", reply))
        self._remember(address, seconds)
        return seconds

    def _seconds(self, different: int, total: int, left: int) -> float:
        return left / 1000 if different > self._limit or total > REPEATS * self._limit else 0.0

    def _remember(self, address: str, seconds: float) -> None:
        if len(self._known) >= MOST_ADDRESSES:
            self._known.clear()
        now = time.monotonic()
        self._known[address] = (now + FRESH, now + seconds)
