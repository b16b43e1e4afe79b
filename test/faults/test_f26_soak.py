"""F26: load at 80 % of the capacity for long (COMFY_SOAK_MINUTES, 2 unless told), with F1, F4, F11 and F15 at random:
nothing is lost or doubled, the throughput is at least 90 % of what the capacity left allows, memory stays flat.
"""

import os
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from test.cluster import Cluster, wait_until
from test.faults.conftest import Start, slow
from test.faults.oracle import Oracle
from test.faults.proxy import Proxy
from test.faults.test_f09_balancer_workers_killed import workers
from test.faults.test_f22_watchers import resident
from test.scenario.story import slow_prompt

MINUTES = float(os.environ.get("COMFY_SOAK_MINUTES") or 2)
AGENTS = 3
LOAD = 0.8
STEPS = 20  # of 50 ms
CALM = 10.0  # seconds without a new fault at the end
MiB = 1024 * 1024


class Soak:
    """The load and the faults on one system."""

    def __init__(self, oracle: Oracle, proxies: dict[int, Proxy]) -> None:
        self.oracle = oracle
        self.system = oracle.system
        self.proxies = proxies
        self.chance = random.Random(26)
        self.stop = threading.Event()
        self.refused = 0  # submits that were answered with 503
        self.away = 0.0  # agent-seconds in which an agent was away by a fault, or because Redis was
        self.faults: Counter[str] = Counter()
        self._color = 0

    def prompt(self) -> dict[str, object]:
        self._color += 1
        return slow_prompt(self._color, steps=STEPS)

    def measure(self, client: httpx.Client, count: int = 18) -> float:
        """Tasks that one agent does in a second, while all work."""
        at = time.monotonic()
        self.oracle.wait_final(*(self.oracle.submit(client, self.prompt()) for _ in range(count)))
        return count / AGENTS / (time.monotonic() - at)

    def submit_on(self, rate: float) -> None:
        """Poisson arrivals of so many tasks a second, until the stop."""
        with self.oracle.client() as client:
            due = time.monotonic()
            while not self.stop.is_set():
                due += self.chance.expovariate(rate)
                self.stop.wait(max(0.0, due - time.monotonic()))
                answer = client.post("/api/v1/tasks", json={"prompt": self.prompt(), "max_attempts": 10})
                assert answer.status_code in (202, 503), answer.text
                self.refused += not self.oracle.accepted(answer)

    def break_something(self, client: httpx.Client) -> None:
        """One fault from its beginning to the recovery."""
        number = self.chance.randint(1, AGENTS)
        kinds: dict[str, tuple[int, Callable[[], None]]] = {
            "F1": (1, lambda: self._killed(f"agent-{number}", self.chance.uniform(0, 20))),
            "F4": (1, lambda: self._killed(f"comfyui-{number}", self.chance.uniform(0, 8))),
            "F11": (AGENTS, lambda: self._killed("redis", 5)),
            "F15": (1, lambda: self._cut_off(number, self.chance.uniform(5, 30))),
        }
        name = self.chance.choice(sorted(kinds))
        agents, fault = kinds[name]
        at = time.monotonic()
        fault()
        wait_until(lambda: self._all_ready(client), f"all agents are back after {name}", 60)
        self.away += agents * (time.monotonic() - at)
        self.faults[name] += 1

    def _killed(self, name: str, seconds: float) -> None:
        process = self.system.processes[name]
        process.kill()
        threading.Event().wait(seconds)  # the time itself is the fault
        process.start()

    def _cut_off(self, number: int, seconds: float) -> None:
        self.proxies[number].cut()
        threading.Event().wait(seconds)
        self.proxies[number].heal()

    def _all_ready(self, client: httpx.Client) -> bool:
        answer = client.get("/api/v1/agents")
        agents = answer.json()["agents"] if answer.status_code == 200 else []
        return len([agent for agent in agents if agent["state"] == "ready"]) == AGENTS

    def memory(self) -> int:
        """Bytes of the processes that are never killed here."""
        return resident(workers(self.system.processes["balancer"].pid))


@slow
@pytest.mark.timeout(MINUTES * 60 + 600)
def test_a_long_time_of_load_and_faults(start: Start, tmp_path: Path) -> None:
    cluster = Cluster(tmp_path, agents=AGENTS)
    with ExitStack() as stack:
        proxies = {number: stack.enter_context(Proxy(cluster.redis_port)) for number in range(1, AGENTS + 1)}
        own = {f"agent-{number}": {"REDIS_PORT": str(proxy.port)} for number, proxy in proxies.items()}
        soak = Soak(start(cluster=cluster, own=own), proxies)
        with soak.oracle.client() as client:
            each = soak.measure(client)
            before = len(soak.oracle.known())
            submitter = threading.Thread(target=soak.submit_on, args=(LOAD * AGENTS * each,), daemon=True)
            began_at = time.monotonic()
            submitter.start()
            early = None
            while time.monotonic() - began_at < MINUTES * 60 - CALM:
                soak.stop.wait(soak.chance.uniform(2, 6))
                soak.break_something(client)
                early = early or soak.memory()
            soak.stop.wait(CALM)
            took = time.monotonic() - began_at
            late = soak.memory()
            soak.stop.set()
            submitter.join(20)
        ids = soak.oracle.known()[before:]
        done = sum(status == "completed" for status in soak.oracle.statuses(ids).values())
        left = each * (AGENTS * took - soak.away)
        possible = min(float(len(ids)), left)
        told = ", ".join(f"{count} of {name}" for name, count in sorted(soak.faults.items()))
        grown = late - (early or late)
        figures = f"{done / possible:.0%} of what was possible, {soak.refused} times 503, {grown / MiB:+.0f} MiB"
        soak.oracle.conclude("F26", f"{took / 60:.1f} min at {LOAD:.0%} load, {told}: {figures}", timeout=120)
    assert done >= 0.9 * possible, figures
    assert grown <= 20 * MiB, figures
