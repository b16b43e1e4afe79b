"""F2: SIGINT and SIGTERM while running: no new claim; the short run is finished, the long one given back uncharged."""

import signal
import time

from test.faults.conftest import Start, bar
from test.scenario.story import slow_prompt

GRACE = 2  # seconds, of these settings


def test_a_stopped_agent_finishes_or_gives_back_and_takes_nothing_new(start: Start) -> None:
    oracle = start(agents=2)
    with oracle.client() as client:
        long = oracle.submit(client, slow_prompt(1, steps=160))
        oracle.wait_progress(long)
        short = oracle.submit(client, slow_prompt(2, steps=30))
        oracle.wait_progress(short)
        waiting = [oracle.submit(client, slow_prompt(color, steps=2)) for color in (3, 4, 5)]
        stopped = [oracle.system.processes[f"agent-{oracle.holder(task_id)}"] for task_id in (long, short)]
        at = time.time()
        stopped[0].signal(signal.SIGTERM)
        stopped[1].signal(signal.SIGINT)
        assert [process.wait(10) for process in stopped] == [0, 0]
        assert oracle.status(short) == "completed", "finished within the grace period"
        assert oracle.at(long, "released") - at < bar(GRACE + 1), "given back within 1 s after it"
        assert {oracle.status(task_id) for task_id in waiting} == {"pending"}, "nothing new was claimed"
        for process in stopped:
            process.start()
        oracle.wait_final(*waiting)
        client.post(f"/api/v1/tasks/{long}/cancel").raise_for_status()
        oracle.may_end(long, "canceled")
    task = oracle.record(long)
    assert task is not None
    assert task.max_attempts - task.attempt in (2, 3), "the attempt that was given back is not charged"
    oracle.conclude("F2", "both agents SIGTERM/SIGINT, 1 run shorter, 1 longer than the grace period")
