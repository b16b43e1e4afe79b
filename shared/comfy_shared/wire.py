"""A connection of redis-py, driven by what comes instead of by a reader that waits.

redis-py makes it, logs in and names the database; from then on its transport speaks to us. A batch is one write, its
replies are counted as they come, and one timer guards it: no task, no stream, no timer for each reply, which together
cost more than all the rest of a call.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any

import hiredis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import InvalidResponse

Done = Callable[[list[object] | Exception], None]


class _Exchange:
    """Commands under way, in one write."""

    __slots__ = ("done", "number", "replies", "timer")

    def __init__(self, number: int, done: Done, timer: asyncio.TimerHandle | None) -> None:
        self.number = number
        self.done = done
        self.timer = timer
        self.replies: list[object] = []

    def end(self, outcome: list[object] | Exception) -> None:
        if self.timer is not None:
            self.timer.cancel()
        self.done(outcome)


class Wire(asyncio.Protocol):
    """One open connection.

    An exchange ends within `patience` seconds, or the connection does. `on_lost` is told of that end, before the
    exchanges are that were under way; `on_message` of all that comes without a question, as of a channel.

    Raises:
        ConnectionError: of redis-py; it is closed already.
    """

    def __init__(
        self,
        connection: Any,
        patience: float | None,
        on_lost: Callable[["Wire"], None],
        on_message: Callable[[list[Any]], None] = lambda _: None,
    ) -> None:
        self._patience = patience
        self._on_lost = on_lost
        self._on_message = on_message
        self._under_way: deque[_Exchange] = deque()
        self._reader = hiredis.Reader(protocolError=InvalidResponse, replyError=connection._parser.parse_error)
        self._transport: asyncio.Transport = connection._writer.transport
        self._streams: Any = self._transport.get_protocol()  # redis-py's, which waits for the end of the connection
        if self._transport.is_closing():  # nobody would be told again
            raise RedisConnectionError("Redis closed the connection")
        self._transport.set_protocol(self)
        self._loop = asyncio.get_running_loop()

    @property
    def under_way(self) -> int:
        """Exchanges whose replies have not come."""
        return len(self._under_way)

    def exchange(self, commands: list[bytes], done: Done) -> None:
        """Sends packed commands; `done` is given a reply for each, or why there is none."""
        timer = None if self._patience is None else self._loop.call_later(self._patience, self._give_up)
        self._under_way.append(_Exchange(len(commands), done, timer))
        self._transport.write(commands[0] if len(commands) == 1 else b"".join(commands))

    def subscribe(self, channel: str) -> None:
        """From its confirmation on, what is said there comes as messages."""
        self._transport.write(hiredis.pack_command(("SUBSCRIBE", channel)))  # type: ignore[arg-type]  # any number of values

    def data_received(self, data: bytes) -> None:
        self._reader.feed(data)
        try:
            while (reply := self._reader.gets()) is not False:
                self._take(reply)
        except InvalidResponse as error:
            self._end(RedisConnectionError(f"Redis sent what is no reply: {error}"))

    def _take(self, reply: object) -> None:
        if isinstance(reply, hiredis.PushNotification) or not self._under_way:  # RESP2 has no word for it
            if isinstance(reply, list):
                self._on_message(reply)
            elif isinstance(reply, Exception):  # a subscription that Redis refused
                self._end(reply)
            return
        first = self._under_way[0]
        first.replies.append(reply)
        if len(first.replies) == first.number:
            self._under_way.popleft()
            first.end(first.replies)

    def connection_lost(self, exc: Exception | None) -> None:
        self._streams.connection_lost(exc)
        self._end(RedisConnectionError(f"Redis closed the connection ({exc or 'end of stream'})"))

    def _give_up(self) -> None:
        self._end(TimeoutError())

    def _end(self, error: Exception) -> None:
        """Once for each that is under way; the connection goes, so that no reply is left for the next exchange."""
        self._transport.abort()
        self._on_lost(self)
        lost, self._under_way = self._under_way, deque()
        for exchange in lost:
            exchange.end(error)
