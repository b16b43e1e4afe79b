"""Lines to Logdy over TCP, without ever holding up the one who logs.

`Outbox` is the pure part: a bounded buffer that drops its oldest lines and counts them, and the lines in flight, of
which it knows how many bytes the kernel took, so that a line cut by a broken connection is sent again whole.
`LogdySender` adds a daemon thread with a plain socket.

What Logdy does to its senders shapes this module: it never answers, so a restart shows only as an empty read, which is
looked for before each send; it blocks the sender when it is slow, so a thread of its own waits; it is away at times, so
connecting is tried for ever. What the kernel had taken when Logdy died is lost; nothing tells which lines those were.
"""

import os
import random
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress

import msgspec

BATCH = 65_536  # bytes handed to the kernel at once, more or less one line
SLICE = 0.25  # seconds a blocking call takes at most before it looks whether we are closing


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """How much the sender keeps and how long it waits."""

    lines: int = 10_000  # waiting; beyond it the oldest go
    size: int = 16 * 1024 * 1024  # bytes of the waiting lines
    connect: float = 3.0  # seconds for one connection attempt
    stall: float = 30.0  # seconds without a byte taken, then the connection counts as dead (a machine vanished)
    first_delay: float = 0.2  # seconds between the first two attempts to connect
    last_delay: float = 10.0  # seconds, where doubling ends


DEFAULT_LIMITS = Limits()


class Outbox:
    """The lines that wait and those in flight. No I/O, no locks.

    Args:
        report: makes the line that tells how many were dropped.
    """

    def __init__(self, limits: Limits, report: Callable[[int], bytes]) -> None:
        self._limits = limits
        self._report = report
        self._waiting: deque[bytes] = deque()
        self._size = 0
        self._dropped = 0
        self._flight: deque[bytes] = deque()
        self._taken = 0  # bytes of the first line in flight that the kernel has

    def __bool__(self) -> bool:
        return bool(self._waiting or self._flight or self._dropped)

    @property
    def size(self) -> int:
        """Bytes of the waiting lines."""
        return self._size

    def put(self, line: bytes) -> None:
        self._waiting.append(line)
        self._size += len(line)
        while len(self._waiting) > self._limits.lines or self._size > self._limits.size:
            self._size -= len(self._waiting.popleft())
            self._dropped += 1

    def batch(self) -> bytes:
        """What to send next: the rest of what is in flight, else the next lines; empty when there is nothing."""
        if not self._flight:
            self._fill()
        return b"".join(self._flight)[self._taken :]

    def sent(self, count: int) -> None:
        """The kernel took the first `count` bytes of the batch."""
        self._taken += count
        while self._flight and self._taken >= len(self._flight[0]):
            self._taken -= len(self._flight.popleft())

    def rewind(self) -> None:
        """The connection broke: the line that was not sent whole starts again."""
        self._taken = 0

    def _fill(self) -> None:
        size = 0
        if self._dropped:
            self._flight.append(self._report(self._dropped))
            self._dropped = 0
        while self._waiting and size < BATCH:
            line = self._waiting.popleft()
            self._flight.append(line)
            size += len(line)
        self._size -= size


class LogdySender:
    """Sends lines in order, in the background, for the life of the process.

    A forked child starts afresh with its first line: its own thread and connection, nothing of its parent's buffer.
    """

    def __init__(self, host: str, port: int, report: Callable[[int], bytes], limits: Limits = DEFAULT_LIMITS) -> None:
        self._address = (host, port)
        self._report = report
        self._limits = limits
        self._closing: float | None = None  # when to give up, by the monotonic clock
        self._start()

    def put(self, line: bytes) -> None:
        """Takes one line, newline included; returns at once."""
        if self._process != os.getpid():
            self._start()
        with self._changed:
            self._outbox.put(line)
            if self._idle:
                self._changed.notify()

    def close(self, timeout: float = 1.0) -> None:
        """Sends what is left for at most `timeout` seconds, then gives up."""
        if self._process != os.getpid():
            return
        with self._changed:
            self._closing = time.monotonic() + timeout
            self._changed.notify()
        self._thread.join(timeout)

    def _start(self) -> None:
        self._process = os.getpid()
        self._changed = threading.Condition()
        self._outbox = Outbox(self._limits, self._report)
        self._idle = False  # only an idle thread needs waking: a notify per line would cost a thread switch
        self._closing = None
        self._thread = threading.Thread(target=self._run, name="logdy-sender", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        failures = 0
        while self._wait_for_lines():
            connection = self._connect()
            if connection is not None:
                began = time.monotonic()
                with connection, suppress(OSError):
                    self._talk(connection)
                self._outbox.rewind()
                if time.monotonic() - began > self._limits.last_delay:
                    failures = 0
            elif self._closing is not None:
                return
            failures += 1
            self._back_off(failures)

    def _connect(self) -> socket.socket | None:
        try:
            return socket.create_connection(self._address, timeout=self._limits.connect)
        except (OSError, ValueError, OverflowError):  # a host can be no name at all, a port out of range
            return None

    def _talk(self, connection: socket.socket) -> None:
        """Sends until there is nothing more to do or the other side has hung up.

        Raises:
            OSError: the connection broke or stalls.
        """
        while self._wait_for_lines() and not _closed_by_peer(connection):
            self._send(connection)

    def _wait_for_lines(self) -> bool:
        """False when there is nothing more to do: closing, and all is sent or the time is up."""
        with self._changed:
            while not self._outbox and self._closing is None:
                self._idle = True
                self._changed.wait()
            self._idle = False
            return bool(self._outbox) and not self._time_is_up()

    def _send(self, connection: socket.socket) -> None:
        """Hands one batch to the kernel.

        Raises:
            OSError: the connection broke or stalls, or the time to close is up.
        """
        with self._changed:
            data = self._outbox.batch()
        progress = time.monotonic()
        while data:
            try:
                count = connection.send(data)
            except TimeoutError:
                if self._time_is_up() or time.monotonic() - progress > self._limits.stall:
                    raise
                continue
            progress = time.monotonic()
            data = data[count:]
            self._outbox.sent(count)

    def _back_off(self, failures: int) -> None:
        """Waits before the next attempt; not when closing, where one more is made at once."""
        longest = min(self._limits.last_delay, self._limits.first_delay * 2 ** min(failures - 1, 16))
        end = time.monotonic() + random.uniform(longest / 2, longest)
        with self._changed:
            while self._closing is None and (left := end - time.monotonic()) > 0:
                self._changed.wait(left)

    def _time_is_up(self) -> bool:
        return self._closing is not None and time.monotonic() >= self._closing


def _closed_by_peer(connection: socket.socket) -> bool:
    """Whether the other side hung up. It never writes: anything else to read is thrown away."""
    connection.settimeout(0)
    try:
        return not connection.recv(BATCH)
    except BlockingIOError:
        return False
    finally:
        connection.settimeout(SLICE)
