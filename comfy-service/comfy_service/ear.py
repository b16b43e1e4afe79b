"""The channel on which an agent is told of work, cancellations and the like, as they happen."""

import asyncio
from collections.abc import Callable
from typing import Any

import structlog
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError

from comfy_shared.errors import Unavailable
from comfy_shared.lifecycle import Backoff, Loops, first_of
from comfy_shared.store import border
from comfy_shared.wire import Wire

log = structlog.get_logger(__name__)


class Ear:
    """Listens to one channel. Run `listen` as a supervised loop."""

    def __init__(self, redis: Redis, channel: str) -> None:
        self._pool: Any = redis.connection_pool
        self._channel = channel

    async def listen(self, loops: Loops, on_open: Callable[[], None], on_message: Callable[[str], None]) -> None:
        """Works until the stop. `on_open` is called each time that the channel is open (again): what was told before
        was missed."""
        backoff = Backoff(0.1, 2.0)

        def hear(message: list[Any]) -> None:
            if message[0] == b"subscribe":
                backoff.reset()
                on_open()
            elif message[0] == b"message":
                on_message(bytes(message[2]).decode(errors="replace"))

        while not loops.stop.is_set():
            try:
                with border():
                    await self._hear(loops.stop, hear)
            except Unavailable as error:
                log.warning("Wake-ups are not readable now", action="agent.control_away", reason=error.message)
                await loops.pause(backoff.next())

    async def _hear(self, stop: asyncio.Event, hear: Callable[[list[Any]], None]) -> None:
        """Until the stop. Raises what redis-py raises when the connection ends before."""
        connection = await self._pool.get_connection()
        lost = asyncio.Event()
        try:
            Wire(connection, None, lambda _: lost.set(), hear).subscribe(self._channel)
            await first_of(lost, stop)
            if lost.is_set():
                raise RedisConnectionError("Redis closed the connection")
        finally:
            await connection.disconnect()
            await self._pool.release(connection)
