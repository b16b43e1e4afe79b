"""The sender against a real TCP sink that does what Logdy does: reads, stops, comes back, freezes, never answers."""

import contextlib
import json
import logging
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import structlog

from comfy_shared.logdy import Limits, LogdySender
from comfy_shared.loglines import MAX_LINE
from comfy_shared.logs import bound, configure

QUICK = Limits(first_delay=0.02, last_delay=0.1)


def wait_until(predicate: Callable[[], bool], description: str, timeout: float = 15) -> None:
    end = time.monotonic() + timeout
    while not predicate():
        assert time.monotonic() < end, f"gave up waiting until {description}"
        time.sleep(0.005)


class Sink:
    """Accepts connections on one port and keeps what each sent; may stop, come back, or not read."""

    def __init__(self) -> None:
        self.connections: list[bytearray] = []
        self.port = 0
        self.reading = threading.Event()
        self.reading.set()
        self.start()

    def start(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", self.port))
        self.port = self._listener.getsockname()[1]
        self._open: list[socket.socket] = []
        self._stopped = threading.Event()
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def stop(self) -> None:
        """Closes the port and every connection, as the end of Logdy's process does."""
        self._stopped.set()
        self.reading.set()
        self._hang_up(self._listener)
        for connection in self._open:
            self._hang_up(connection)
        for thread in self._threads:
            thread.join(10)
            assert not thread.is_alive()

    @property
    def lines(self) -> list[bytes]:
        """The whole lines of all connections, in order."""
        return [line for got in self.connections for line in bytes(got).split(b"\n")[:-1]]

    def __len__(self) -> int:
        return sum(got.count(b"\n") for got in self.connections)

    @staticmethod
    def _hang_up(end: socket.socket) -> None:
        with contextlib.suppress(OSError):  # the other side was first
            end.shutdown(socket.SHUT_RDWR)
        end.close()

    def _accept(self) -> None:
        while not self._stopped.is_set():
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self._open.append(connection)
            self.connections.append(bytearray())
            thread = threading.Thread(target=self._read, args=(connection, self.connections[-1]))
            self._threads.append(thread)
            thread.start()

    def _read(self, connection: socket.socket, got: bytearray) -> None:
        with connection:
            while self.reading.wait() and not self._stopped.is_set():
                try:
                    data = connection.recv(65_536)
                except OSError:
                    return
                if not data:
                    return
                got += data


@pytest.fixture
def sink() -> Iterator[Sink]:
    sink = Sink()
    yield sink
    sink.stop()


@pytest.fixture
def sender(sink: Sink) -> Iterator[LogdySender]:
    sender = LogdySender("127.0.0.1", sink.port, report, QUICK)
    yield sender
    sender.close()


def report(count: int) -> bytes:
    return b"dropped %d\n" % count


def numbered(count: int, start: int = 0) -> list[bytes]:
    return [b"line %d" % number for number in range(start, start + count)]


def put(sender: LogdySender, lines: list[bytes]) -> None:
    for line in lines:
        sender.put(line + b"\n")


def test_lines_arrive_whole_and_in_order(sink: Sink) -> None:
    """From log calls of ours and of a library, with bound fields, over one connection."""
    system = configure(service="agent", logdy_host="127.0.0.1", logdy_port=sink.port, static={"agent": "gpu-1"})
    with bound(task_id="01J", attempt=1):
        for number in range(2_000):
            structlog.get_logger("x").info("Step done", action="step", number=number)
        logging.getLogger("library").warning("A word\nfrom a library")
    system.close()
    wait_until(lambda: len(sink) == 2_001, "every line arrived")
    lines = [json.loads(line) for line in sink.lines]
    assert [line["number"] for line in lines[:-1]] == list(range(2_000))
    assert lines[-1]["message"] == "A word\nfrom a library"
    assert {(line["task_id"], line["agent"], line["service"]) for line in lines} == {("01J", "gpu-1", "agent")}
    assert len(sink.connections) == 1


def test_lines_logged_while_the_sink_is_away_arrive_when_it_is_back(sink: Sink, sender: LogdySender) -> None:
    """The first one too, which a plain send after a restart would lose."""
    put(sender, numbered(1))
    wait_until(lambda: len(sink) == 1, "the connection stands")
    for round_ in range(3):
        sink.stop()
        put(sender, numbered(100, start=1 + round_ * 100))
        sink.start()
        wait_until(lambda expected=101 + round_ * 100: len(sink) == expected, "the lines arrived")  # type: ignore[misc]
    assert sink.lines == numbered(301)


def test_the_first_line_after_a_restart_arrives(sink: Sink, sender: LogdySender) -> None:
    """Nothing is logged while the sink restarts."""
    put(sender, numbered(1))
    wait_until(lambda: len(sink) == 1, "the connection stands")
    sink.stop()
    sink.start()
    put(sender, numbered(1, start=1))
    wait_until(lambda: len(sink) == 2, "the line arrived")
    assert sink.lines == numbered(2)


def test_lines_logged_before_the_sink_first_came_arrive(sink: Sink) -> None:
    sink.stop()
    sender = LogdySender("127.0.0.1", sink.port, report, QUICK)
    put(sender, numbered(10))
    sink.start()
    wait_until(lambda: len(sink) == 10, "the lines arrived")
    sender.close()
    assert sink.lines == numbered(10)


def test_a_line_cut_by_the_end_of_a_connection_arrives_whole_on_the_next(sink: Sink) -> None:
    """The sink dies while the sender is in the middle of a line that the kernel does not take whole."""
    sink.reading.clear()
    sender = LogdySender("127.0.0.1", sink.port, report, QUICK)
    line = b"x" * (MAX_LINE - 1) + b"\n"
    for _ in range(200):
        sender.put(line)
    wait_until(lambda: bool(sink.connections), "the sink accepted")
    sink.stop()
    sink.start()
    sender.put(b"last\n")
    wait_until(lambda: bool(sink.lines) and sink.lines[-1] == b"last", "the last line arrived")
    sender.close()
    on_the_next = bytes(sink.connections[-1]).split(b"\n")
    assert on_the_next[-2:] == [b"last", b""]
    assert len(on_the_next) > 2
    assert {len(whole) for whole in on_the_next[:-2]} == {MAX_LINE - 1}


def test_a_frozen_sink_neither_blocks_nor_fills_the_memory(sink: Sink, capsys: pytest.CaptureFixture[str]) -> None:
    """100,000 log calls against a sink that accepts and never reads, beside the same without a sink."""
    log = structlog.get_logger("x")

    def log_calls(count: int) -> float:
        began = time.perf_counter()
        for number in range(count):
            log.info("Progress", number=number, padding="p" * 200)
        return (time.perf_counter() - began) / count

    system = configure(service="agent")
    baseline = log_calls(10_000)
    sink.reading.clear()
    system = configure(service="agent", logdy_host="127.0.0.1", logdy_port=sink.port)
    with_frozen_sink = log_calls(100_000)
    assert not any(sink.connections), "the sink never read"
    assert with_frozen_sink < 5 * baseline + 50e-6, (
        f"{with_frozen_sink * 1e6:.0f} µs a call, {baseline * 1e6:.0f} alone"
    )

    sink.reading.set()
    log.info("The last one")
    wait_until(lambda: bool(sink.lines) and b"The last one" in sink.lines[-1], "the last line arrived")
    system.close()
    capsys.readouterr()
    lines: list[dict[str, Any]] = [json.loads(line) for line in sink.lines]
    told = [line for line in lines if line.get("action") == "logs.dropped"]
    numbers = [line["number"] for line in lines if "number" in line]
    assert sum(line["count"] for line in told) + len(numbers) == 100_000, "each line arrived or was counted"
    assert told[0]["level"] == "WARNING"
    assert numbers == sorted(numbers)
    assert numbers[-9_000:] == list(range(91_000, 100_000)), "the oldest were dropped"


def test_what_waits_is_bounded_in_bytes(sink: Sink) -> None:
    """Lines of the greatest length: 16 MiB are 273 of them."""
    sink.reading.clear()
    sender = LogdySender("127.0.0.1", sink.port, report, Limits(size=1024 * 1024))
    for _ in range(500):
        sender.put(b"x" * (MAX_LINE - 1) + b"\n")
    sink.reading.set()
    sender.put(b"last\n")
    wait_until(lambda: bool(sink.lines) and sink.lines[-1] == b"last", "the last line arrived")
    sender.close()
    told = [int(line.split()[1]) for line in sink.lines if line.startswith(b"dropped")]
    whole = [line for line in sink.lines if line.startswith(b"x")]
    assert sum(told) + len(whole) == 500
    assert told


def test_an_over_long_line_is_cut_and_those_behind_it_arrive(sink: Sink, capsys: pytest.CaptureFixture[str]) -> None:
    """Logdy would hang up on it and lose the rest."""
    system = configure(service="agent", logdy_host="127.0.0.1", logdy_port=sink.port)
    structlog.get_logger("x").info("Long", value="🎨" * 1_000_000)
    structlog.get_logger("x").info("Short")
    system.close()
    capsys.readouterr()
    wait_until(lambda: len(sink) == 2, "both lines arrived")
    long, short = sink.lines
    assert len(long) < MAX_LINE
    assert json.loads(long)["truncated"] is True
    assert json.loads(short)["message"] == "Short"


def test_closing_sends_what_is_left(sink: Sink) -> None:
    sender = LogdySender("127.0.0.1", sink.port, report)
    put(sender, numbered(5_000))
    sender.close()
    wait_until(lambda: len(sink) == 5_000, "every line arrived")
    assert sink.lines == numbered(5_000)


def test_closing_a_frozen_sink_takes_about_a_second(sink: Sink) -> None:
    sink.reading.clear()
    sender = LogdySender("127.0.0.1", sink.port, report)
    for _ in range(200):
        sender.put(b"x" * (MAX_LINE - 1) + b"\n")
    wait_until(lambda: bool(sink.connections), "the sink accepted")
    began = time.monotonic()
    sender.close()
    assert time.monotonic() - began < 1.5


@pytest.mark.parametrize("host", ["127.0.0.1", "no-such-host.invalid", "a..b", "x" * 100, "\ud800"])
def test_a_sink_that_cannot_be_reached_is_no_error(host: str) -> None:
    """Nobody listens, the name does not resolve, the name is no name."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        free = taken.getsockname()[1]
    sender = LogdySender(host, free, report, QUICK)
    put(sender, numbered(100))
    began = time.monotonic()
    sender.close()
    assert time.monotonic() - began < 1.5


def test_without_a_host_no_thread_starts(capsys: pytest.CaptureFixture[str]) -> None:
    system = configure(service="agent", logdy_host="")
    structlog.get_logger("x").info("Here")
    assert "logdy-sender" not in {thread.name for thread in threading.enumerate()}
    system.close()
    assert json.loads(capsys.readouterr().out)["message"] == "Here"


def test_a_process_that_forgets_to_close_still_sends(sink: Sink) -> None:
    """The interpreter closes log handlers at its end."""
    run_program(f"configure(service='x', logdy_host='127.0.0.1', logdy_port={sink.port})\nlog.info('Forgotten')\n")
    wait_until(lambda: len(sink) == 1, "the line arrived")
    assert json.loads(sink.lines[0])["message"] == "Forgotten"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_sends_over_its_own_connection(sink: Sink) -> None:
    run_program(
        f"system = configure(service='x', logdy_host='127.0.0.1', logdy_port={sink.port})\n"
        "log.info('Parent')\n"
        "child = os.fork()\n"
        "log.info('Child' if child == 0 else 'Parent')\n"
        "system.close()\n"
        "if child: assert os.waitpid(child, 0)[1] == 0\n"
    )
    wait_until(lambda: len(sink) == 3, "the lines of both arrived")
    told = sorted([json.loads(line)["message"] for line in bytes(got).splitlines()] for got in sink.connections)
    assert told == [["Child"], ["Parent", "Parent"]]


def run_program(program: str) -> None:
    head = "import os, structlog\nfrom comfy_shared.logs import configure\nlog = structlog.get_logger()\n"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", head + program], capture_output=True, text=True, timeout=20, check=False
    )
    assert (done.stderr, done.returncode) == ("", 0)
