"""Wrong log-ins are counted per address, for all processes and replicas together: who guesses has few guesses a minute.

A window begins with the first wrong log-in. Once its number is above the limit nothing from that address is looked at
until the window ends, so a right guess helps no more than a wrong one; other addresses do not notice. Each process
asks Redis about an address at most once a second; while Redis is away nothing is counted and nobody is kept out.
"""

import asyncio
import time
from contextlib import suppress

from redis.asyncio import Redis
from redis.exceptions import RedisError, ResponseError

from comfy_shared.errors import Unavailable
from comfy_shared.keys import Keys
from comfy_shared.settings import SharedSettings
from comfy_shared.store import border

FRESH = 1.0  # seconds for which an answer of Redis is believed
PATIENCE = 0.25  # seconds that a log-in waits for a Redis that does not answer
MOST_ADDRESSES = 10_000  # remembered; then all are asked about again


class GuessLimit:
    """The counter of one namespace."""

    def __init__(self, redis: Redis, keys: Keys, settings: SharedSettings) -> None:
        self._redis = redis
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
        with suppress(Unavailable, ResponseError, ValueError, TimeoutError):
            async with asyncio.timeout(PATIENCE):
                pipeline = self._redis.pipeline(transaction=False)
                pipeline.get(self._keys.guesses(address))
                pipeline.pttl(self._keys.guesses(address))
                with border():
                    count, left = await pipeline.execute()
            seconds = left / 1000 if int(count or 0) > self._limit else 0.0
        self._remember(address, seconds)
        return seconds

    async def failed(self, address: str) -> float:
        """Counts a wrong log-in; seconds for which the address is kept out from now on, 0 while it may try again."""
        key = self._keys.guesses(address)
        try:
            async with asyncio.timeout(PATIENCE):
                pipeline = self._redis.pipeline(transaction=True)
                pipeline.set(key, 0, px=self._window_ms, nx=True)
                pipeline.incr(key)
                pipeline.pttl(key)
                with border():
                    _, count, left = await pipeline.execute()
        except (Unavailable, TimeoutError, RedisError):
            return 0
        seconds = left / 1000 if count > self._limit else 0.0
        self._remember(address, seconds)
        return float(seconds)

    def _remember(self, address: str, seconds: float) -> None:
        if len(self._known) >= MOST_ADDRESSES:
            self._known.clear()
        now = time.monotonic()
        self._known[address] = (now + FRESH, now + seconds)
