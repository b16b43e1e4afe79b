"""F1: agents are killed at random points of a run: their tasks run elsewhere in time; one that comes back in time
adopts its prompt, which is not rendered again.
"""

import random
import time

from test.faults.conftest import ALL, LEASE, SWEEP, USUAL, Start, bar
from test.scenario.story import runs, slow_prompt

STEPS = 60  # of 50 ms
ROUNDS = 4 if ALL else 1


def test_the_tasks_of_killed_agents_run_elsewhere_after_a_lease(start: Start) -> None:
    oracle = start(agents=3, usual=USUAL)
    chance = random.Random(1)
    took: list[float] = []
    with oracle.client() as client:
        for number in range(ROUNDS):
            point = chance.randrange(1, STEPS)
            late = oracle.submit(client, slow_prompt(2 * number, steps=STEPS))
            oracle.wait_progress(late, point)
            early = oracle.submit(client, slow_prompt(2 * number + 1, steps=STEPS))
            oracle.wait_event(early, "claimed")
            killed = {task_id: oracle.system.processes[f"agent-{oracle.holder(task_id)}"] for task_id in (early, late)}
            at = time.time()
            for process in killed.values():
                process.kill()
            retried = [oracle.wait_event(task_id, "retrying", timeout=LEASE + 10) - at for task_id in killed]
            assert max(retried) < bar(LEASE + SWEEP + 1)
            took.append(min(oracle.wait_event(task_id, "claimed", attempt=2) for task_id in killed) - at)
            assert took[-1] < bar(LEASE + SWEEP + 1), "the agent that was idle took the first at once"
            for process in killed.values():
                process.start()
            oracle.wait_final()
            assert {oracle.attempt(task_id) for task_id in killed} == {2}
    what = f"2 of 3 agents SIGKILL, {ROUNDS} times: just claimed, mid-run; elsewhere after at most {max(took):.1f} s"
    oracle.conclude("F1", f"{what}, lease {LEASE:g} s")


def test_an_agent_that_comes_back_in_time_adopts_its_prompt(start: Start) -> None:
    oracle = start(agents=2, usual=USUAL)
    with oracle.client() as client:
        task_id = oracle.submit(client, slow_prompt(1, steps=STEPS))
        oracle.wait_progress(task_id)
        agent = oracle.system.processes[f"agent-{oracle.holder(task_id)}"]
        agent.kill()
        agent.start()
        oracle.wait_final()
        assert oracle.attempt(task_id) == 1
    assert sum(len(runs(oracle.system, number)) for number in (1, 2)) == 1, "one render"
    oracle.conclude("F1", "agent SIGKILL in mid-run and back at once: adopted")
