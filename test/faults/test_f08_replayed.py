"""F8: the agent's own completion is replayed 50 times at once, byte for byte: one is accepted."""

import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from test.cluster import Cluster
from test.faults.conftest import Start
from test.faults.proxy import Proxy
from test.faults.test_f07_killed_before_settling import COMPLETE
from test.scenario.conftest import SHORT
from test.scenario.story import slow_prompt

TIMES = 50
SAME = b"*1\r\n$9\r\ncompleted\r\n"  # of one call in its command


def replay(port: int, command: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
        connection.sendall(command)
        return connection.recv(200)


def test_fifty_replays_of_one_completion_are_one_completion(start: Start, tmp_path: Path) -> None:
    cluster = Cluster(tmp_path, agents=1, settings=SHORT)
    with Proxy(cluster.redis_port) as proxy, ThreadPoolExecutor(TIMES) as pool:
        oracle = start(cluster=cluster, own={"agent-1": {"REDIS_PORT": str(proxy.port)}})
        with oracle.client() as client:
            task_id = oracle.submit(client, slow_prompt(1, steps=5))
            proxy.hold(COMPLETE)
            proxy.wait_held()
            answers = set(pool.map(lambda _: replay(cluster.redis_port, proxy.held), range(TIMES)))
            assert answers == {SAME}, "whoever repeats a call whose answer was lost is told the same"
            proxy.heal()
            oracle.wait_final(oracle.submit(client, slow_prompt(2, steps=5)))
        assert [kind for _, kind, _, _ in oracle.story(task_id)].count("completed") == 1
        oracle.conclude("F8", f"one completion replayed {TIMES} times at once")
