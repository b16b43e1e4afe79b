"""F1, F3, F4 and F6 once more with the real ComfyUI as instance, and the product's own settings.

COMFYUI_COMMAND says how to start one in the foreground on a port: `{port}` in it is replaced, otherwise the port is its
last argument. It needs the node SlowProgress of `test/contract/lab_nodes.py`, as a file in its custom_nodes.
"""

import os
import shlex
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from test.cluster import Cluster, Process, answers, free_port, wait_until
from test.faults.conftest import ALL, Start
from test.faults.oracle import Oracle, instance_runs
from test.faults.proxy import Proxy
from test.scenario.story import slow_prompt

COMMAND = os.environ.get("COMFYUI_COMMAND", "")
LEASE, SWEEP = 15.0, 1.0
STEPS = 120  # of 50 ms

pytestmark = [
    pytest.mark.skipif(not ALL, reason="takes long: `make faults` runs it"),
    pytest.mark.skipif(not COMMAND, reason="no real ComfyUI: COMFYUI_COMMAND='… {port}' says how to start one"),
    pytest.mark.timeout(400),
]


class Real:
    """ComfyUI processes, each behind a proxy."""

    def __init__(self, folder: Path) -> None:
        self.processes: list[Process] = []
        self.proxies: list[Proxy] = []
        for number in (1, 2):
            port = free_port()
            given = COMMAND.format(port=port) if "{port}" in COMMAND else f"{COMMAND} {port}"
            self.processes.append(Process(f"comfyui-{number}", shlex.split(given), {}, folder))
            self.proxies.append(Proxy(port))

    def urls(self) -> tuple[str, ...]:
        return tuple(f"http://127.0.0.1:{proxy.port}" for proxy in self.proxies)

    def wait_ready(self) -> None:
        for url in self.urls():
            wait_until(lambda url=url: answers(f"{url}/system_stats"), "ComfyUI answers", 120)  # type: ignore[misc]


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Real]:
    """Two, started once for all stories of this file."""
    found = Real(tmp_path_factory.mktemp("real"))
    with ExitStack() as stack:
        for process, proxy in zip(found.processes, found.proxies, strict=True):
            stack.enter_context(proxy)
            stack.callback(process.kill)
            process.start()
        found.wait_ready()
        info = httpx.get(f"{found.urls()[0]}/object_info/SlowProgress", trust_env=False).json()
        if not info:
            pytest.skip(
                "this ComfyUI lacks the node SlowProgress: put test/contract/lab_nodes.py into its custom_nodes"
            )
        yield found


Begin = Callable[[], Oracle]


@pytest.fixture
def begin(real: Real, start: Start, tmp_path: Path) -> Begin:
    def system() -> Oracle:
        real.wait_ready()
        oracle: Oracle = start(cluster=Cluster(tmp_path, comfyui_urls=real.urls()))
        return oracle

    return system


def renders(oracle: Oracle, color: int) -> int:
    """How many prompts of this color the instances ran to a success."""
    count = 0
    for url in oracle.system.comfyui_urls:
        for entry in httpx.get(f"{url}/history", trust_env=False).json().values():
            ours = entry["prompt"][2].get("1", {}).get("inputs", {}).get("color") == color
            count += ours and entry["status"]["status_str"] == "success"
    return count


def color_of_now() -> int:
    """So that no cache of an earlier story or run answers."""
    return time.time_ns() // 1_000_000 % 0xFFFFFF


def test_f1_the_task_of_a_killed_agent_runs_elsewhere_after_a_lease(begin: Begin) -> None:
    oracle = begin()
    with oracle.client() as client:
        task_id = oracle.submit(client, slow_prompt(color_of_now(), steps=STEPS))
        oracle.wait_progress(task_id, 10)
        agent = oracle.system.processes[f"agent-{oracle.holder(task_id)}"]
        agent.kill()
        at = time.time()
        took = oracle.wait_event(task_id, "claimed", attempt=2, timeout=LEASE + 10) - at
        assert took < LEASE + SWEEP + 1
        oracle.wait_final(timeout=60)
        agent.start()
        color = color_of_now()
        adopted = oracle.submit(client, slow_prompt(color, steps=STEPS))
        oracle.wait_progress(adopted, 10)
        holder = oracle.system.processes[f"agent-{oracle.holder(adopted)}"]
        holder.kill()
        holder.start()
        oracle.wait_final(adopted, timeout=60)
        assert (oracle.attempt(adopted), renders(oracle, color)) == (1, 1), "back in time: adopted, one render"
    oracle.conclude("real F1", f"agent SIGKILL: elsewhere after {took:.1f} s; another back at once: adopted")


def test_f3_a_thawed_agent_is_refused_and_stops_its_prompt(begin: Begin) -> None:
    oracle = begin()
    with oracle.client() as client:
        task_id = oracle.submit(client, slow_prompt(color_of_now(), steps=1600))
        oracle.wait_progress(task_id)
        frozen = oracle.holder(task_id)
        agent = oracle.system.processes[f"agent-{frozen}"]
        agent.signal(signal.SIGSTOP)
        at = time.time()
        took = oracle.wait_event(task_id, "claimed", attempt=2, timeout=LEASE + 10) - at
        assert took < LEASE + SWEEP + 1
        wait_until(lambda: time.time() > at + 3 * LEASE, "3 leases have passed", 3 * LEASE + 5)
        assert instance_runs(oracle.system, frozen), "the old prompt still runs"
        agent.signal(signal.SIGCONT)
        at = time.time()
        wait_until(lambda: not instance_runs(oracle.system, frozen), "it has interrupted its instance", 2)
        stopped = time.time() - at
        oracle.wait_final(timeout=90)
        assert oracle.attempt(task_id) == 2
    oracle.conclude(
        "real F3", f"agent SIGSTOP for 3 leases: elsewhere {took:.1f} s, stopped {stopped:.1f} s after CONT"
    )


def test_f4_the_task_of_a_killed_instance_is_given_back_at_once(begin: Begin, real: Real) -> None:
    oracle = begin()
    with oracle.client() as client:
        task_id = oracle.submit(client, slow_prompt(color_of_now(), steps=STEPS))
        oracle.wait_progress(task_id, 10)
        victim = oracle.holder(task_id)
        real.processes[victim - 1].kill()
        at = time.time()

        def state() -> str:
            return str(client.get(f"/api/v1/agents/agent-{victim}").json()["state"])

        wait_until(lambda: state() == "waiting", "its offer is withdrawn", 2)
        noticed = time.time() - at
        released = oracle.wait_event(task_id, "retrying") - at
        assert released < 3, "not only when the lease ends"
        oracle.wait_final(timeout=60)
        assert oracle.holder(task_id) != victim
        real.processes[victim - 1].start()
        wait_until(lambda: state() == "ready", "it offers again", 120)
    oracle.conclude("real F4", f"ComfyUI SIGKILL in mid-run: noticed {noticed:.1f} s, released {released:.1f} s")


def test_f6_a_websocket_that_drops_for_ten_seconds_costs_no_second_render(begin: Begin, real: Real) -> None:
    oracle = begin()
    with oracle.client() as client:
        color = color_of_now()
        ids = [oracle.submit(client, slow_prompt(color + number, steps=STEPS)) for number in (0, 1)]
        for task_id in ids:
            oracle.wait_progress(task_id, 10)
        at = time.monotonic()
        for proxy in real.proxies:
            proxy.refuse(b"GET /ws")
        wait_until(lambda: time.monotonic() > at + 10, "10 s have passed")  # both runs end meanwhile
        for proxy in real.proxies:
            proxy.heal()
        oracle.wait_final(timeout=60)
        assert {oracle.attempt(task_id) for task_id in ids} == {1}
        assert [renders(oracle, color + number) for number in (0, 1)] == [1, 1]
        oracle.wait_final(oracle.submit(client, slow_prompt(color + 2, steps=4)), timeout=20)
    oracle.conclude("real F6", "websocket of both instances dropped and refused for 10 s, over the ends of the runs")
