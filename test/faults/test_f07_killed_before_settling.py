"""F7: the agent is killed after its outputs are stored and before it settles: one result, and no file left over."""

from pathlib import Path

from test.cluster import Cluster, wait_until
from test.faults.conftest import Start
from test.faults.oracle import stored_files
from test.faults.proxy import Proxy
from test.scenario.conftest import SHORT
from test.scenario.story import runs, slow_prompt

COMPLETE = b"$8\r\ncomplete\r\n"  # as an argument of a command to Redis


def test_an_attempt_that_never_settled_leaves_no_file(start: Start, tmp_path: Path) -> None:
    """Broke: the outputs of the killed attempt stayed in the file store until the task was purged."""
    cluster = Cluster(tmp_path, agents=2, settings=SHORT)
    with Proxy(cluster.redis_port) as first, Proxy(cluster.redis_port) as second:
        proxies = {1: first, 2: second}
        own = {f"agent-{number}": {"REDIS_PORT": str(proxy.port)} for number, proxy in proxies.items()}
        oracle = start(cluster=cluster, own=own)
        with oracle.client() as client:
            task_id = oracle.submit(client, slow_prompt(1, steps=10))
            oracle.wait_event(task_id, "claimed")
            victim = oracle.holder(task_id)
            proxies[victim].hold(COMPLETE)
            proxies[victim].wait_held()
            assert len(stored_files(cluster)) == 1
            cluster.processes[f"agent-{victim}"].kill()
            oracle.wait_event(task_id, "completed", attempt=2)
            wait_until(lambda: len(stored_files(cluster)) == 1, "the first attempt's file is gone", 5)
        assert [len(runs(cluster, number)) for number in (1, 2)] == [1, 1]
        oracle.conclude("F7", "agent SIGKILL between storing the output and settling")
