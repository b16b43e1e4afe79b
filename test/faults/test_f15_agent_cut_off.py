"""F15: an agent is cut off from Redis for 3 leases, refused or half-open: it stops its run in time, and the task runs
elsewhere.
"""

import time
from pathlib import Path

import pytest

from test.cluster import Cluster, wait_until
from test.faults.conftest import Start
from test.faults.oracle import instance_runs
from test.faults.proxy import Proxy
from test.scenario.conftest import SHORT
from test.scenario.story import slow_prompt

LEASE = 3


@pytest.mark.parametrize("how", ["cut", "freeze"])
def test_it_stops_its_run_before_the_lease_ends(start: Start, tmp_path: Path, how: str) -> None:
    cluster = Cluster(tmp_path, agents=2, settings=SHORT)
    with Proxy(cluster.redis_port) as first, Proxy(cluster.redis_port) as second:
        proxies = {1: first, 2: second}
        own = {f"agent-{number}": {"REDIS_PORT": str(proxy.port)} for number, proxy in proxies.items()}
        oracle = start(cluster=cluster, own=own)
        with oracle.client() as client:
            task_id = oracle.submit(client, slow_prompt(1, steps=100))
            oracle.wait_progress(task_id)
            victim = oracle.holder(task_id)
            getattr(proxies[victim], how)()
            at = time.time()
            wait_until(lambda: not instance_runs(cluster, victim), "it stopped its prompt", LEASE)
            stopped_at = time.time()
            assert oracle.wait_event(task_id, "claimed", attempt=2) > stopped_at, "two never ran it at once"
            assert oracle.at(task_id, "claimed", attempt=2) - at < LEASE + 2
            oracle.wait_final()
            wait_until(lambda: time.time() > at + 3 * LEASE, "3 leases have passed")
            story = oracle.story(task_id)
            proxies[victim].heal()
            both = [oracle.submit(client, slow_prompt(color, steps=40)) for color in (2, 3)]
            oracle.wait_final(*both)
            assert {oracle.holder(each) for each in both} == {1, 2}, "it works again"
            assert oracle.story(task_id) == story, "what it had sent is refused"
        oracle.conclude("F15", f"agent's connections to Redis {how} for 3 leases in mid-run")
