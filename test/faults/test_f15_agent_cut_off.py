"""F15: an agent is cut off from Redis, refused or half-open: it notices, stops its run before the lease ends, and the
task runs elsewhere.
"""

import json
import time
from datetime import datetime
from pathlib import Path

import pytest

from test.cluster import Cluster, wait_until
from test.faults.conftest import LEASE, SWEEP, Start, bar, slow
from test.faults.oracle import instance_runs
from test.faults.proxy import Proxy
from test.scenario.story import slow_prompt

AWAY = 60.0  # seconds
NOTICED = {"agent.heartbeat_failed", "agent.control_away", "task.report_waits", "lease.waits"}  # in the agent's log


def noticed(log: Path, since: float) -> float | None:
    """When the agent first said that Redis is away."""
    for line in log.read_text().splitlines():
        said = json.loads(line) if line.startswith("{") else {}
        if said.get("action") in NOTICED and (at := datetime.fromisoformat(said["timestamp"]).timestamp()) >= since:
            return at
    return None


@slow
@pytest.mark.parametrize("how", ["cut", "freeze"])
def test_it_stops_its_run_before_the_lease_ends(start: Start, tmp_path: Path, how: str) -> None:
    cluster = Cluster(tmp_path, agents=2)
    with Proxy(cluster.redis_port) as first, Proxy(cluster.redis_port) as second:
        proxies = {1: first, 2: second}
        own = {f"agent-{number}": {"REDIS_PORT": str(proxy.port)} for number, proxy in proxies.items()}
        oracle = start(cluster=cluster, own=own)
        with oracle.client() as client:
            task_id = oracle.submit(client, slow_prompt(1, steps=500))
            oracle.wait_progress(task_id)
            victim = oracle.holder(task_id)
            getattr(proxies[victim], how)()
            at = time.time()
            log = cluster.processes[f"agent-{victim}"].log
            wait_until(lambda: noticed(log, at), "it noticed", bar(5))
            told = (noticed(log, at) or 0) - at
            wait_until(lambda: not instance_runs(cluster, victim), "it stopped its prompt", LEASE)
            stopped_at = time.time()
            again = oracle.wait_event(task_id, "claimed", attempt=2)
            assert again > stopped_at, "two never ran it at once"
            assert again - at < bar(LEASE + SWEEP + 1)
            oracle.wait_final(timeout=60)
            wait_until(lambda: time.time() > at + AWAY, "it was away long enough", AWAY + 5)
            story = oracle.story(task_id)
            proxies[victim].heal()
            both = [oracle.submit(client, slow_prompt(color, steps=100)) for color in (2, 3)]
            oracle.wait_final(*both)
            assert {oracle.holder(each) for each in both} == {1, 2}, "it works again"
            assert oracle.story(task_id) == story, "what it had sent is refused"
        times = f"noticed after {told:.1f} s, run stopped {stopped_at - at:.1f} s, elsewhere {again - at:.1f} s"
        oracle.conclude("F15", f"agent and Redis {how} for {AWAY:g} s in mid-run: {times}")
