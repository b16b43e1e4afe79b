"""Calls that come together go to Redis together.

A call alone costs the client some 100 microseconds of its own (a connection from the pool, a write, a wait); in one
write with others a tenth of it, and Redis writes its append-only file once for all of them. Two batches are under way
at a time, so that Redis works on one while the replies of the other are handled here; what comes meanwhile gathers. For
the same reason a batch is small: if it took all that waits, both sides would wait for each other in turn.

Of a batch, the calls of one script over the same keys share a command: then its names are sent, and its text begins,
once for all of them, which is a quarter of what a transition costs Redis.

This speaks to redis-py's connections, not to its client: the client arms a timer for each reply and packs each value in
Python, which costs more than all the rest; here one timer guards the whole batch, and hiredis packs it.
"""

import asyncio
import math
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any, cast

import hiredis
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError

MOST = 2  # batches under way
LEAST, LARGEST, SHARE = 8, 64, 4  # calls in one write: a quarter of what waits, within limits

TOGETHER = 16  # calls that share a command: Redis serves nobody else meanwhile

Head = tuple[object, ...]  # a command as far as several calls may share it


class _Call:
    __slots__ = ("head", "reply", "values")

    def __init__(self, head: Head, values: Sequence[object] | None, reply: asyncio.Future[object]) -> None:
        self.head = head
        self.values = values  # None: the head is all of it
        self.reply = reply


class Batcher:
    """Runs commands on one Redis. A broken connection is tried once more: every transition may be repeated."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._pool: Any = redis.connection_pool
        self._patience: float | None = self._pool.connection_kwargs.get("socket_timeout")  # seconds
        self._waiting: deque[_Call] = deque()
        self._sending = 0  # senders that will look once more at what waits
        self._senders: set[asyncio.Task[None]] = set()

    async def script_load(self, text: str) -> str:
        return await self._redis.script_load(text)

    async def call(self, *command: object) -> object:
        """The reply to one command. Raises what redis-py raises, and TimeoutError."""
        return await self._reply_to(command, None)

    async def share(self, head: Head, values: Sequence[object]) -> object:
        """The reply to one call of a script (`scripts`); `head` is the command up to its keys. Raises as `call`."""
        return await self._reply_to(head, values)

    def _reply_to(self, head: Head, values: Sequence[object] | None) -> asyncio.Future[object]:
        reply: asyncio.Future[object] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Call(head, values, reply))
        if self._sending < MOST:
            self._sending += 1
            sender = asyncio.create_task(self._send())
            self._senders.add(sender)
            sender.add_done_callback(self._senders.discard)
        return reply

    async def _send(self) -> None:
        line = _Line(self._pool)
        try:
            while self._waiting:
                await self._send_batch(line, self._next())
        finally:
            self._sending -= 1
            await line.give_back()

    def _next(self) -> list[_Call]:
        number = min(max(LEAST, len(self._waiting) // SHARE), LARGEST, len(self._waiting))
        return [self._waiting.popleft() for _ in range(number)]

    async def _send_batch(self, line: "_Line", batch: list[_Call]) -> None:
        commands = list(_commands(batch))
        try:
            async with asyncio.timeout(self._patience):
                replies = await line.exchange([_packed(calls) for calls in commands])
        except Exception as error:  # each caller is told, and handles it at its own border
            replies = [error] * len(commands)
        for calls, reply in zip(commands, replies, strict=True):
            _answer(calls, reply)


def _commands(batch: list[_Call]) -> Iterator[list[_Call]]:
    """The calls that share a command."""
    groups: dict[Head, list[_Call]] = {}
    for call in batch:
        if call.values is None:
            yield [call]
            continue
        group = groups.setdefault(call.head, [])
        group.append(call)
        if len(group) == TOGETHER:
            yield groups.pop(call.head)
    yield from groups.values()


def _packed(calls: list[_Call]) -> bytes:
    command = list(calls[0].head)
    for call in calls:
        if call.values is not None:
            command.append(len(call.values))
            command += call.values
    packed: bytes = hiredis.pack_command(tuple(command))  # type: ignore[arg-type]  # any number of values
    return packed


def _answer(calls: list[_Call], reply: object) -> None:
    shared = calls[0].values is not None and isinstance(reply, list)
    replies = cast("list[object]", reply) if shared else [reply] * len(calls)
    for call, value in zip(calls, replies, strict=True):
        if call.reply.done():  # its caller was cancelled
            continue
        if isinstance(value, Exception):
            call.reply.set_exception(value)
        else:
            call.reply.set_result(value)


class _Line:
    """A connection of the pool, from the first batch of a sender until its last."""

    def __init__(self, pool: Any) -> None:
        self._pool = pool
        self._connection: Any = None

    async def exchange(self, commands: list[bytes]) -> list[object]:
        """The replies to packed commands; one that Redis refused is its error."""
        try:
            return await self._once(commands)
        except RedisConnectionError:
            return await self._once(commands)

    async def _once(self, commands: list[bytes]) -> list[object]:
        if self._connection is None:
            self._connection = await self._pool.get_connection()
        connection = self._connection
        # Whatever breaks off a write or a read disconnects: no reply is left for the next batch, which connects again.
        await connection.send_packed_command(b"".join(commands), check_health=False)
        return [await _reply(connection) for _ in commands]

    async def give_back(self) -> None:
        if self._connection is not None:
            await self._pool.release(self._connection)


async def _reply(connection: Any) -> object:
    try:
        return await connection.read_response(timeout=math.inf)  # as long as the batch may take
    except ResponseError as error:
        return error
