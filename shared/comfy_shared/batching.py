"""Calls that come together go to Redis together, one batch at a time.

A call alone costs the client some 100 microseconds of its own (a connection from the pool, a write, a wait); in one
write with others a tenth of it, and Redis writes its append-only file once for all of them. A call that comes while no
batch is under way is sent at once; while one is, what comes next gathers.

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

LARGEST = 64  # calls in one write

Call = tuple[tuple[object, ...], asyncio.Future[object]]


class Batcher:
    """Runs commands on one Redis. A broken connection is tried once more: every transition may be repeated."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._pool: Any = redis.connection_pool
        self._patience: float | None = self._pool.connection_kwargs.get("socket_timeout")  # seconds
        self._waiting: deque[Call] = deque()
        self._sender: asyncio.Task[None] | None = None  # until nothing waits
        self._connection: Any = None  # the sender's

    async def script_load(self, text: str) -> str:
        return await self._redis.script_load(text)

    async def call(self, *command: object) -> object:
        """The reply to one command. Raises what redis-py raises, and TimeoutError."""
        reply: asyncio.Future[object] = asyncio.get_running_loop().create_future()
        self._waiting.append((command, reply))
        if self._sender is None:
            self._sender = asyncio.create_task(self._send())
        return await reply

    async def _send(self) -> None:
        try:
            while self._waiting:
                await self._send_batch([self._waiting.popleft() for _ in range(min(LARGEST, len(self._waiting)))])
        finally:
            connection, self._connection, self._sender = self._connection, None, None
            if connection is not None:
                await self._pool.release(connection)

    async def _send_batch(self, batch: list[Call]) -> None:
        replies: list[object]
        try:
            async with asyncio.timeout(self._patience):
                replies = await self._exchange([command for command, _ in batch])
        except Exception as error:  # each caller is told, and handles it at its own border
            replies = [error] * len(batch)
        for (_, reply), value in zip(batch, replies, strict=True):
            if reply.done():  # its caller was cancelled
                continue
            if isinstance(value, Exception):
                reply.set_exception(value)
            else:
                reply.set_result(value)

    async def _exchange(self, commands: list[tuple[object, ...]]) -> list[object]:
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


async def _reply(connection: Any) -> object:
    try:
        return await connection.read_response(timeout=math.inf)  # as long as the batch may take
    except ResponseError as error:
        return error
