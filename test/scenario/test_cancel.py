"""Cancel while running: the GPU is free within two seconds, and the neighbour goes on."""

import time

from test.cluster import Cluster
from test.scenario.story import agent_number, assert_sound_story, slow_prompt, submit, wait_completed, wait_running


def test_the_gpu_is_free_at_once_and_the_neighbour_goes_on(system: Cluster) -> None:
    with system.client() as client:
        running = [submit(client, slow_prompt(color, steps=200)) for color in (1, 2)]
        waiting = submit(client, slow_prompt(3, steps=2))
        seen = [wait_running(client, task_id) for task_id in running]
        assert {agent_number(item) for item in seen} == {1, 2}
        canceled_at = time.monotonic()
        answer = client.post(f"/api/v1/tasks/{running[0]}/cancel")
        assert answer.status_code == 200
        assert answer.json()["status"] == "canceled"
        done = wait_completed(client, waiting, timeout=3)
        assert time.monotonic() - canceled_at < 3
        assert done["agent"] == seen[0]["agent"], "the freed GPU took the next task"
        assert client.get(f"/api/v1/tasks/{running[1]}").json()["status"] == "running"
        assert client.post(f"/api/v1/tasks/{running[0]}/cancel").status_code == 200, "canceling again is fine"
        assert_sound_story(client, running[0], "canceled")
        assert client.post(f"/api/v1/tasks/{running[1]}/cancel").status_code == 200
