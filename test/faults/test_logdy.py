"""Logdy absent, frozen or slow: nothing waits for it."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest

from test.cluster import free_port
from test.faults.conftest import Start, slow
from test.scenario.story import slow_prompt

TASKS = 50


def sip(connection: socket.socket, done: threading.Event) -> None:
    """Reads 200 bytes a second."""
    with connection, suppress(OSError):
        while not done.wait(1) and connection.recv(200):
            pass


@contextmanager
def logdy(how: str) -> Iterator[int]:
    """The port of something that is as Logdy is when it is not well."""
    if how == "absent":
        yield free_port()
        return
    done = threading.Event()
    with socket.socket() as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        server.bind(("127.0.0.1", 0))
        server.listen(8)  # connections are taken by the kernel; when frozen, nothing is ever read

        def take() -> None:
            with suppress(OSError):
                while not done.is_set():
                    connection, _ = server.accept()
                    threading.Thread(target=sip, args=(connection, done), daemon=True).start()

        if how == "slow":
            threading.Thread(target=take, daemon=True).start()
        yield server.getsockname()[1]
        done.set()
        server.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize("how", ["absent", pytest.param("frozen", marks=slow), pytest.param("slow", marks=slow)])
def test_nothing_waits_for_logdy(start: Start, how: str) -> None:
    with logdy(how) as port:
        oracle = start(agents=2, settings={"LOGDY_HOST": "127.0.0.1", "LOGDY_PORT": str(port)})
        began_at = time.monotonic()
        with oracle.client() as client:
            for color in range(TASKS):
                oracle.submit(client, slow_prompt(color, steps=1, ms_per_step=5))
            oracle.wait_final()
        assert time.monotonic() - began_at < 15
        oracle.conclude("logdy", f"Logdy {how} over {TASKS} tasks")
