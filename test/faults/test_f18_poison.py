"""F18: a task that takes its instance down, among 100 good ones: given up after two instances, the good ones all
done."""

from test.cluster import answers, wait_until
from test.faults.conftest import Start
from test.scenario.story import slow_prompt

GOOD = 100


def test_the_poison_is_quarantined_and_the_good_complete(start: Start) -> None:
    oracle = start(agents=3)
    with oracle.client() as client:
        good = [slow_prompt(color, steps=1, ms_per_step=5) for color in range(GOOD)]
        first = client.post("/api/v1/tasks/batch", json={"tasks": [{"prompt": prompt} for prompt in good[:50]]})
        poison = oracle.submit(client, slow_prompt(1000, steps=100), "failed")
        second = client.post("/api/v1/tasks/batch", json={"tasks": [{"prompt": prompt} for prompt in good[50:]]})
        assert len(oracle.accepted(first) + oracle.accepted(second)) == GOOD
        taken_down = []
        for attempt in (1, 2):
            oracle.wait_event(poison, "claimed", attempt=attempt)
            taken_down.append(oracle.holder(poison))
            instance = oracle.system.processes[f"comfyui-{taken_down[-1]}"]
            instance.kill()  # as a node that crashes the process would
            oracle.wait_event(poison, "retrying" if attempt == 1 else "failed", attempt=attempt)
            instance.start()
            url = oracle.system.comfyui_urls[taken_down[-1] - 1]
            wait_until(lambda url=url: answers(f"{url}/system_stats"), "the instance is back")  # type: ignore[misc]
        oracle.wait_final()
    task = oracle.record(poison)
    assert task is not None
    assert task.error is not None
    assert (task.attempt, task.error.code) == (2, "instance_lost")
    assert len(set(taken_down)) == 2, "another agent first"
    oracle.conclude("F18", f"1 task takes its instance down, among {GOOD} good ones")
