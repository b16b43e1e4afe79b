"""F12: power loss: the append-only file ends in the middle of its last steps. What was acknowledged before is complete,
and an agent whose lease is unknown now stops its prompt.
"""

import os
from pathlib import Path

from test.cluster import answers, wait_until
from test.faults.conftest import Start, slow
from test.faults.oracle import instance_runs
from test.scenario.story import slow_prompt


def append_only_file(folder: Path) -> Path:
    """The file that Redis appends to now."""
    return max((folder / "redis" / "appendonlydir").glob("*.incr.aof"))


@slow
def test_only_what_came_after_the_last_sync_is_missing(start: Start) -> None:
    oracle = start(agents=2)
    redis = oracle.system.processes["redis"]
    file = append_only_file(oracle.system.folder)
    with oracle.client() as client:
        kept = oracle.submit(client, slow_prompt(1, steps=60))
        oracle.wait_progress(kept)
        synced = file.stat().st_size
        lost = [oracle.submit(client, slow_prompt(color, steps=400)) for color in (2, 3)]
        oracle.wait_progress(lost[0])
        unknown = oracle.holder(lost[0])
        redis.kill()
        os.truncate(file, synced + 7)  # in the middle of a step
        redis.start()
        wait_until(lambda: answers(f"{oracle.system.url}/readyz"), "ready again", 5)
        wait_until(lambda: not instance_runs(oracle.system, unknown), "the prompt of the unknown lease is stopped", 5)
        for task_id in lost:
            assert oracle.record(task_id) is None
            oracle.forget(task_id)
        oracle.wait_final(oracle.submit(client, slow_prompt(4, steps=2)), kept)
        assert oracle.attempt(kept) == 1
    oracle.conclude("F12", "Redis SIGKILL, append-only file cut in the middle of a step")
