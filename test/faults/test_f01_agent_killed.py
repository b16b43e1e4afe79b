"""F1: agents are killed, one as soon as it has claimed and one late in its run: their tasks run elsewhere in time."""

import time

from test.faults.conftest import Start
from test.scenario.story import slow_prompt

LEASE, SWEEP = 3, 1


def test_the_tasks_of_killed_agents_run_elsewhere_after_a_lease(start: Start) -> None:
    oracle = start(agents=3)
    killed: dict[str, float] = {}
    with oracle.client() as client:
        late = oracle.submit(client, slow_prompt(1, steps=30))
        oracle.wait_progress(late, 20)
        early = oracle.submit(client, slow_prompt(2, steps=30))
        oracle.wait_event(early, "claimed")
        for task_id in (early, late):
            oracle.system.processes[f"agent-{oracle.holder(task_id)}"].kill()
            killed[task_id] = time.time()
        oracle.wait_final()
    for task_id, at in killed.items():
        assert oracle.wait_event(task_id, "retrying") - at < LEASE + SWEEP + 1
        assert oracle.attempt(task_id) == 2
    again = min(oracle.at(task_id, "claimed", attempt=2) - at for task_id, at in killed.items())
    assert again < LEASE + SWEEP + 1, "the agent that was idle took the first at once"
    oracle.conclude("F1", "2 of 3 agents SIGKILL: just claimed, at 2/3 of the run")
