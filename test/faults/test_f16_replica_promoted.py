"""F16: Redis dies and its replica, which lags, is promoted: everybody goes on within 10 s; what is lost is what was
accepted within the lag, and no attempt's number goes back.
"""

import time
from pathlib import Path

import httpx
from redis import Redis

from test.cluster import Cluster, Process, answers, free_port, redis_binary, wait_until
from test.faults.conftest import Start, slow
from test.faults.oracle import Oracle
from test.faults.proxy import Proxy
from test.scenario.conftest import SHORT
from test.scenario.story import slow_prompt


def replica_of(cluster: Cluster, link: int, folder: Path) -> tuple[Process, int]:
    """A second Redis that copies the first through the port `link`."""
    port = free_port()
    folder.mkdir()
    place = ["--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder), "--repl-diskless-sync-delay", "0"]
    command = [redis_binary(), *place, "--appendonly", "yes", "--replicaof", "127.0.0.1", str(link)]
    process = Process("replica", command, {}, cluster.folder)
    process.start()
    return process, port


@slow
def test_work_goes_on_and_only_the_lag_is_lost(start: Start, tmp_path: Path) -> None:
    """Broke: the next claim gave a number that a lost attempt had, and a watcher ahead of the promoted replica's story
    waited for ever.
    """
    cluster = Cluster(tmp_path, agents=3, settings=SHORT)
    with Proxy(cluster.redis_port) as address, Proxy(cluster.redis_port) as link:
        # Everybody reaches Redis by an address that moves with the promotion, as with a virtual IP or Sentinel's proxy.
        ours = [name for name in cluster.processes if name.startswith(("agent", "balancer"))]
        oracle = start(cluster=cluster, own={name: {"REDIS_PORT": str(address.port)} for name in ours})
        replica, port = replica_of(cluster, link.port, tmp_path / "replica")
        copy = Redis(port=port)
        try:
            with oracle.client() as client:
                kept = [oracle.submit(client, slow_prompt(color, steps=200)) for color in (1, 2)]
                for task_id in kept:
                    oracle.wait_progress(task_id)
                wait_until(lambda: copy.exists(oracle.keys.task(kept[1])), "the replica has followed")
                link.freeze()
                seen, lost = lag(oracle, client, kept[0])
                cluster.processes["redis"].kill()
                address.target = port
                copy.replicaof("NO", "ONE")
                link.cut()
                at = time.monotonic()
                oracle.redis = copy
                cluster.processes["redis"] = replica  # which is judged, and stopped, from now on
                address.cut()
                address.heal()
                wait_until(lambda: answers(f"{cluster.url}/readyz"), "ready again", 10)
                oracle.wait_final(oracle.submit(client, slow_prompt(9, steps=1)), timeout=10)
                took = time.monotonic() - at
                missing = [task_id for task_id in oracle.known() if oracle.record(task_id) is None]
                assert set(missing) <= set(lost), "loss at most the lag"
                for task_id in missing:
                    oracle.forget(task_id)
                oracle.wait_final(timeout=60)
                assert oracle.attempt(kept[0]) > seen, "numbers of attempts never go back"
            what = f"replica promoted {took:.1f} s after Redis SIGKILL: lost in the lag {len(missing)} of {len(lost)}"
            oracle.conclude("F16", f"{what}: {', '.join(missing)}")
        finally:
            replica.kill()


def lag(oracle: Oracle, client: httpx.Client, task_id: str) -> tuple[int, list[str]]:
    """What the replica misses: an attempt that began anew elsewhere, and two tasks. Its number, and their ids."""
    victim = oracle.system.processes[f"agent-{oracle.holder(task_id)}"]
    victim.kill()
    oracle.wait_event(task_id, "claimed", attempt=2)
    lost = [oracle.submit(client, slow_prompt(color, steps=2)) for color in (5, 6)]
    return oracle.attempt(task_id), lost
