"""Logdy absent or frozen: nothing waits for it."""

import socket
import time

import pytest

from test.cluster import free_port
from test.faults.conftest import Start
from test.scenario.story import slow_prompt


@pytest.mark.parametrize("how", ["absent", "frozen"])
def test_nothing_waits_for_logdy(start: Start, how: str) -> None:
    with socket.socket() as logdy:
        logdy.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        logdy.bind(("127.0.0.1", 0))
        if how == "frozen":
            logdy.listen(8)  # connections are taken by the kernel and nothing is ever read
        port = logdy.getsockname()[1] if how == "frozen" else free_port()
        oracle = start(agents=2, settings={"LOGDY_HOST": "127.0.0.1", "LOGDY_PORT": str(port)})
        began_at = time.monotonic()
        with oracle.client() as client:
            for color in range(50):
                oracle.submit(client, slow_prompt(color, steps=1, ms_per_step=5))
            oracle.wait_final()
        assert time.monotonic() - began_at < 10
        oracle.conclude("logdy", f"Logdy {how} over 50 tasks")
