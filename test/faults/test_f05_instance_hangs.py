"""F5: an instance hangs: the task's time limit fires, another agent tries; two hanging instances fail the task."""

from test.faults.conftest import Start, slow
from test.faults.oracle import set_faults
from test.scenario.story import slow_prompt

LIMIT = 3


@slow
def test_the_time_limit_moves_the_task_and_then_fails_it(start: Start) -> None:
    oracle = start(agents=2)
    with oracle.client() as client:
        moved = oracle.submit(client, slow_prompt(1, steps=10), timeout=LIMIT)
        oracle.wait_event(moved, "claimed")
        first = oracle.holder(moved)
        set_faults(oracle.system, first, hang=True)
        oracle.wait_final(moved)
        assert oracle.holder(moved) == 3 - first
        assert abs(oracle.at(moved, "retrying") - oracle.at(moved, "claimed", attempt=1) - LIMIT) < 2

        failed = oracle.submit(client, slow_prompt(2, steps=40), "failed", timeout=LIMIT)
        oracle.wait_event(failed, "claimed")
        assert oracle.holder(failed) == 3 - first, "what hangs is not given another task"
        set_faults(oracle.system, 3 - first, hang=True)
        oracle.wait_event(failed, "retrying")
        set_faults(oracle.system, first, reset=True)
        oracle.wait_event(failed, "claimed", attempt=2)
        set_faults(oracle.system, oracle.holder(failed), hang=True)
        oracle.wait_final(failed)
        task = oracle.record(failed)
        assert task is not None
        assert task.error is not None
        assert (task.error.code, task.attempt) == ("timeout", 2)
        for number in (1, 2):
            set_faults(oracle.system, number, reset=True)
        both = [oracle.submit(client, slow_prompt(color, steps=20)) for color in (3, 4)]
        oracle.wait_final(*both)
        assert {oracle.holder(task_id) for task_id in both} == {1, 2}, "both work again"
    oracle.conclude("F5", "instances hang in mid-run, time limit 3 s")
