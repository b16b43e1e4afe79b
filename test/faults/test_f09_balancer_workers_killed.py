"""F9: balancer workers are killed while 16 clients submit with Idempotency-Key and repeat what failed: each key is one
task.
"""

import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path

import httpx

from test.cluster import wait_until
from test.faults.conftest import ALL, Start
from test.faults.oracle import Oracle

SUBMITS = 1000 if ALL else 160
CLIENTS = 16
KILLS = 3


def workers(pid: int) -> list[int]:
    """The processes that answer requests: children of the balancer that serve, not multiprocessing's tracker."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(child) for child in children if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()]


def submit(oracle: Oracle, client: httpx.Client, number: int) -> str:
    """Submits until there is an answer, then once more; both must name the same task."""
    ids: list[str] = []
    body = {"workflow": "smoke", "parameters": {"color": number}}
    headers = {"Idempotency-Key": f"key-{number}"}

    def accepted() -> bool:
        with suppress(httpx.TransportError):
            ids.extend(oracle.accepted(client.post("/api/v1/tasks", json=body, headers=headers)))
        return len(ids) == 2

    wait_until(accepted, f"submit {number} is answered", 25)
    assert ids[0] == ids[1]
    return ids[0]


def _gone(victim: int, balancer: int) -> bool:
    return victim not in workers(balancer)


def test_each_key_is_one_task(start: Start) -> None:
    oracle = start(agents=2)
    balancer = oracle.system.processes["balancer"]
    done = threading.Semaphore(0)

    def one(number: int) -> str:
        try:
            return submit(oracle, client, number)
        finally:
            done.release()

    with oracle.client() as client, ThreadPoolExecutor(CLIENTS) as pool:
        pending = [pool.submit(one, number) for number in range(SUBMITS)]
        for _ in range(KILLS):
            for _ in range(SUBMITS // (KILLS + 1)):
                done.acquire()
            wait_until(lambda: len(workers(balancer.pid)) == 2, "two workers run")
            victim = workers(balancer.pid)[0]
            os.kill(victim, signal.SIGKILL)
            wait_until(partial(_gone, victim, balancer.pid), "it is dead")
        ids = [future.result() for future in pending]
    assert len(set(ids)) == SUBMITS
    assert oracle.redis.zcard(oracle.keys.index("all")) == SUBMITS, "tasks = distinct keys"
    oracle.conclude("F9", f"{KILLS} balancer workers SIGKILL during {SUBMITS} submits by {CLIENTS} clients", timeout=60)
