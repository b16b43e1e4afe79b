"""F19: cancel at random moments: canceled or completed and never both, and the answer agrees with the end; the GPU is
free at once; a cancel survives the agent's death.
"""

import random
import threading
from concurrent.futures import ThreadPoolExecutor

import httpx

from test.cluster import wait_until
from test.faults.conftest import ALL, Start, bar
from test.faults.oracle import Oracle, instance_runs
from test.scenario.story import runs, slow_prompt

MOMENTS = 1000 if ALL else 40


def cancel_once(oracle: Oracle, client: httpx.Client, number: int, delay: float) -> None:
    """Submits, cancels `delay` seconds later, and holds the answer against the end."""
    task_id = oracle.submit(client, slow_prompt(number, steps=4, ms_per_step=20), "canceled", "completed")
    threading.Event().wait(delay)  # a moment of its life
    answer = client.post(f"/api/v1/tasks/{task_id}/cancel")
    assert answer.status_code in (200, 409), answer.text
    oracle.may_end(task_id, "canceled" if answer.status_code == 200 else "completed")
    assert oracle.status(task_id) in ("canceled", "completed"), "the answer is the end"


def test_canceled_or_completed_and_never_both(start: Start) -> None:
    oracle = start(agents=2)
    chance = random.Random(19)
    with oracle.client() as client, ThreadPoolExecutor(4) as pool:
        tries = [pool.submit(cancel_once, oracle, client, number, chance.uniform(0, 0.45)) for number in range(MOMENTS)]
        for each in tries:
            each.result()
    wait_until(lambda: not any(instance_runs(oracle.system, number) for number in (1, 2)), "both GPUs are free", 2)
    oracle.conclude("F19", f"cancel at {MOMENTS} random moments")
    assert oracle.row is not None
    assert oracle.row.canceled > MOMENTS / 10
    assert oracle.row.completed > MOMENTS / 10


def test_the_gpu_is_free_at_once_and_the_next_task_runs(start: Start) -> None:
    oracle = start(agents=1)
    with oracle.client() as client:
        task_id = oracle.submit(client, slow_prompt(1, steps=400), "canceled")
        neighbour = oracle.submit(client, slow_prompt(2, steps=2))
        oracle.wait_progress(task_id)
        client.post(f"/api/v1/tasks/{task_id}/cancel").raise_for_status()
        oracle.wait_final(neighbour, timeout=bar(2))
    assert [run["last_message"] for run in runs(oracle.system, 1)] == ["execution_interrupted", "execution_success"]
    oracle.conclude("F19", "cancel in mid-run, a neighbour waits")


def test_a_cancel_survives_the_death_of_the_agent(start: Start) -> None:
    oracle = start(agents=1)
    with oracle.client() as client:
        task_id = oracle.submit(client, slow_prompt(1, steps=400), "canceled")
        oracle.wait_progress(task_id)
        agent = oracle.system.processes["agent-1"]
        agent.kill()
        client.post(f"/api/v1/tasks/{task_id}/cancel").raise_for_status()
        assert instance_runs(oracle.system, 1), "nobody stopped the prompt yet"
        agent.start()
        wait_until(lambda: not instance_runs(oracle.system, 1), "the agent that came back stopped it", 10)
        oracle.wait_final(oracle.submit(client, slow_prompt(2, steps=2)))
    assert [run["last_message"] for run in runs(oracle.system, 1)] == ["execution_interrupted", "execution_success"]
    oracle.conclude("F19", "cancel while its agent is dead")
