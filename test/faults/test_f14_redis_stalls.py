"""F14: Redis stalls (SIGSTOP) for less than a lease: no second render, no attempt charged, submits answer 503."""

import signal
import time

from test.cluster import answers, wait_until
from test.faults.conftest import Start, slow
from test.scenario.story import runs, slow_prompt

STALL = 10.0  # seconds


@slow
def test_a_stall_costs_no_attempt_and_no_render(start: Start) -> None:
    oracle = start(agents=2, usual={})
    redis = oracle.system.processes["redis"]
    with oracle.client() as client:
        ending, going_on = (oracle.submit(client, slow_prompt(steps, steps=steps)) for steps in (40, 200))
        for task_id in (ending, going_on):
            oracle.wait_progress(task_id)
        redis.signal(signal.SIGSTOP)
        at = time.monotonic()
        answer = client.post("/api/v1/tasks", json={"prompt": slow_prompt(9, steps=1)})
        assert answer.status_code == 503
        assert time.monotonic() - at < 5
        assert client.get("/healthz").status_code == 200
        assert client.get("/readyz").status_code == 503
        wait_until(lambda: time.monotonic() > at + STALL, "Redis stalled long enough")
        redis.signal(signal.SIGCONT)
        wait_until(lambda: answers(f"{oracle.system.url}/readyz"), "ready again", 5)
        oracle.wait_final()
        for task_id in (ending, going_on):
            task = oracle.record(task_id)
            assert task is not None
            assert (task.attempt, task.max_attempts) == (1, 3)
    rendered = [run["prompt_id"] for number in (1, 2) for run in runs(oracle.system, number)]
    assert len(set(rendered)) == len(rendered) == oracle.redis.zcard(oracle.keys.index("all"))
    oracle.conclude("F14", f"Redis SIGSTOP for {STALL:g} s, one run ends meanwhile")
