"""Calls that come together go to Redis together.

A call alone costs the client some 100 microseconds of its own (a connection from the pool, a write, a wait); in one
write with others a tenth of it, and Redis writes its append-only file once for all of them. Two batches are under way
at a time, so that Redis works on one while the replies of the other are handled here; what comes meanwhile gathers. For
the same reason a batch is small: if it took all that waits, both sides would wait for each other in turn.

Of a batch, the calls of one script over the same keys share a command: then its names are sent, and its text begins,
once for all of them, which is a quarter of what a transition costs Redis.

All that speaks to one Redis shares one batcher and its one connection, which stays open (see `Wire`).
"""

import asyncio
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any, cast
from weakref import WeakValueDictionary

import hiredis
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError

from comfy_shared.wire import Wire

MOST = 2  # batches under way
LEAST, LARGEST, SHARE = 16, 64, 4  # calls in one write: a quarter of what waits, within limits
TOGETHER = 16  # calls that share a command: Redis serves nobody else meanwhile

Head = tuple[object, ...]  # a command as far as several calls may share it


class _Call:
    __slots__ = ("head", "reply", "values")

    def __init__(self, head: Head, values: Sequence[object] | None, reply: asyncio.Future[object]) -> None:
        self.head = head
        self.values = values  # None: the head is all of it
        self.reply = reply


class _Batch:
    """Calls of one write, by the commands that they share."""

    def __init__(self, calls: list[_Call]) -> None:
        self.commands = [each for group in _commands(calls) for each in _packed(group)]
        self.tried = False

    def end(self, outcome: list[object] | Exception) -> None:
        replies = [outcome] * len(self.commands) if isinstance(outcome, Exception) else outcome
        for (calls, _), reply in zip(self.commands, replies, strict=True):
            _answer(calls, reply)


class Batcher:
    """Runs commands on one Redis. A broken connection is tried once more: every transition may be repeated."""

    def __init__(self, redis: Redis) -> None:
        self._pool: Any = redis.connection_pool
        self._patience: float | None = self._pool.connection_kwargs.get("socket_timeout")  # seconds
        self._waiting: deque[_Call] = deque()
        self._again: deque[_Batch] = deque()  # those that a broken connection left without replies
        self._connection: Any = None
        self._wire: Wire | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._soon = False  # `_send` is about to run

    async def call(self, *command: object) -> object:
        """The reply to one command. Raises what redis-py raises, and TimeoutError."""
        return await self._reply_to(command, None)

    async def share(self, head: Head, values: Sequence[object]) -> object:
        """The reply to one call of a script (`scripts`); `head` is the command up to its keys. Raises as `call`."""
        return await self._reply_to(head, values)

    def _reply_to(self, head: Head, values: Sequence[object] | None) -> asyncio.Future[object]:
        loop = asyncio.get_running_loop()
        reply: asyncio.Future[object] = loop.create_future()
        self._waiting.append(_Call(head, values, reply))
        if not self._soon:
            self._soon = True
            loop.call_soon(self._send)  # with all others of this turn of the loop
        return reply

    def _send(self) -> None:
        self._soon = False
        if self._wire is None:
            if self._connecting is None and (self._waiting or self._again):
                self._connecting = asyncio.create_task(self._connect())
            return
        while (self._again or self._waiting) and self._wire.under_way < MOST:
            batch = self._again.popleft() if self._again else _Batch(self._next())
            if batch.commands:
                self._exchange(self._wire, batch)

    def _exchange(self, wire: Wire, batch: _Batch) -> None:
        def done(outcome: list[object] | Exception) -> None:
            if isinstance(outcome, RedisConnectionError) and not batch.tried:
                batch.tried = True
                self._again.append(batch)
            else:
                batch.end(outcome)
            self._send()

        wire.exchange([packed for _, packed in batch.commands], done)

    def _next(self) -> list[_Call]:
        number = min(max(LEAST, len(self._waiting) // SHARE), LARGEST, len(self._waiting))
        return [self._waiting.popleft() for _ in range(number)]

    async def _connect(self) -> None:
        try:
            if self._connection is None:
                self._connection = await self._pool.get_connection()
            else:  # it keeps its place in the pool
                await self._connection.disconnect(nowait=True)
                await self._connection.connect()
            self._wire = Wire(self._connection, self._patience, self._lost)
        except Exception as error:  # each caller is told, and handles it at its own border
            self._fail(error)
        finally:
            self._connecting = None
        self._send()

    def _fail(self, error: Exception) -> None:
        waiting, self._waiting = self._waiting, deque()
        again, self._again = self._again, deque()
        for batch in again:
            batch.end(error)
        _answer(list(waiting), error)

    def _lost(self, wire: Wire) -> None:
        if self._wire is wire:
            self._wire = None


_batchers: WeakValueDictionary[int, Batcher] = WeakValueDictionary()  # by the id of the pool, which each keeps alive


def batcher_of(redis: Redis) -> Batcher:
    """The batcher of all that speaks to Redis through this client."""
    pool = id(redis.connection_pool)
    batcher = _batchers.get(pool)
    if batcher is None:
        batcher = _batchers[pool] = Batcher(redis)
    return batcher


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


def _packed(calls: list[_Call]) -> Iterator[tuple[list[_Call], bytes]]:
    """The command that they share; if it cannot be written down, one of its own for each that can."""
    command = list(calls[0].head)
    for call in calls:
        if call.values is not None:
            command.append(len(call.values))
            command += call.values
    try:
        yield calls, hiredis.pack_command(tuple(command))  # type: ignore[arg-type]  # any number of values
    except (TypeError, ValueError) as error:  # a value is neither text, bytes nor a number, or half a character
        if len(calls) == 1:
            _answer(calls, error)
        else:
            for call in calls:
                yield from _packed([call])


def _answer(calls: list[_Call], reply: object) -> None:
    shared = isinstance(reply, list) and calls[0].values is not None
    replies = cast("list[object]", reply) if shared else [reply] * len(calls)
    for call, value in zip(calls, replies, strict=True):
        if call.reply.done():  # its caller was cancelled
            continue
        if isinstance(value, Exception):
            call.reply.set_exception(value)
        else:
            call.reply.set_result(value)
