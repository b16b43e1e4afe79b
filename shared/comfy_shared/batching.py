"""Calls that come together go to Redis together.

A call alone costs the client some 100 microseconds of its own (a connection from the pool, a write, a wait); in one
write with others a tenth of it, and Redis writes its append-only file once for all of them. Two batches are under way
at a time, so that Redis works on one while the replies of the other are handled here; what comes meanwhile gathers. For
the same reason a batch is small: if it took all that waits, both sides would wait for each other in turn.

This speaks to redis-py's connections, not to its client: the client arms a timer for each reply and packs each value in
Python, which costs more than all the rest; here one timer guards the whole batch, and hiredis packs it.
"""

import asyncio
import math
from collections import deque
from typing import Any

import hiredis
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError

MOST = 2  # batches under way
LEAST, LARGEST, SHARE = 8, 64, 4  # calls in one write: a quarter of what waits, within limits

Call = tuple[tuple[object, ...], asyncio.Future[object]]


class Batcher:
    """Runs commands on one Redis. A broken connection is tried once more: every transition may be repeated."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._pool: Any = redis.connection_pool
        self._patience: float | None = self._pool.connection_kwargs.get("socket_timeout")  # seconds
        self._waiting: deque[Call] = deque()
        self._sending = 0  # senders that will look once more at what waits
        self._senders: set[asyncio.Task[None]] = set()

    async def script_load(self, text: str) -> str:
        return await self._redis.script_load(text)

    async def call(self, *command: object) -> object:
        """The reply to one command. Raises what redis-py raises, and TimeoutError."""
        reply: asyncio.Future[object] = asyncio.get_running_loop().create_future()
        self._waiting.append((command, reply))
        if self._sending < MOST:
            self._sending += 1
            sender = asyncio.create_task(self._send())
            self._senders.add(sender)
            sender.add_done_callback(self._senders.discard)
        return await reply

    async def _send(self) -> None:
        line = _Line(self._pool)
        try:
            while self._waiting:
                await self._send_batch(line, self._next())
        finally:
            self._sending -= 1
            await line.give_back()

    def _next(self) -> list[Call]:
        number = min(max(LEAST, len(self._waiting) // SHARE), LARGEST, len(self._waiting))
        return [self._waiting.popleft() for _ in range(number)]

    async def _send_batch(self, line: "_Line", batch: list[Call]) -> None:
        replies: list[object]
        try:
            async with asyncio.timeout(self._patience):
                replies = await line.exchange([command for command, _ in batch])
        except Exception as error:  # each caller is told, and handles it at its own border
            replies = [error] * len(batch)
        for (_, reply), value in zip(batch, replies, strict=True):
            if reply.done():  # its caller was cancelled
                continue
            if isinstance(value, Exception):
                reply.set_exception(value)
            else:
                reply.set_result(value)


class _Line:
    """A connection of the pool, from the first batch of a sender until its last."""

    def __init__(self, pool: Any) -> None:
        self._pool = pool
        self._connection: Any = None

    async def exchange(self, commands: list[tuple[object, ...]]) -> list[object]:
        """The replies to a batch; one that Redis refused is its error."""
        try:
            return await self._once(commands)
        except RedisConnectionError:
            return await self._once(commands)

    async def _once(self, commands: list[tuple[object, ...]]) -> list[object]:
        if self._connection is None:
            self._connection = await self._pool.get_connection()
        connection = self._connection
        packed = b"".join(hiredis.pack_command(command) for command in commands)  # type: ignore[arg-type]  # any number of values
        # Whatever breaks off a write or a read disconnects: no reply is left for the next batch, which connects again.
        await connection.send_packed_command(packed, check_health=False)
        return [await _reply(connection) for _ in commands]

    async def give_back(self) -> None:
        if self._connection is not None:
            await self._pool.release(self._connection)


async def _reply(connection: Any) -> object:
    try:
        return await connection.read_response(timeout=math.inf)  # as long as the batch may take
    except ResponseError as error:
        return error
