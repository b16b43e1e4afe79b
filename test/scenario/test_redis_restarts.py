"""Redis is killed while tasks wait and run, and comes back with its append-only file: nothing that was accepted is
lost."""

import httpx

from test.cluster import Cluster, wait_until
from test.scenario.story import assert_sound_story, runs, slow_prompt, submit, wait_completed, wait_running


def test_accepted_tasks_complete_once_and_submits_meanwhile_answer_503(system: Cluster) -> None:
    with system.client() as client:
        ids = [submit(client, slow_prompt(color, steps=30)) for color in range(6)]
        wait_running(client, ids[0])
        redis = system.processes["redis"]
        redis.kill()
        refused = client.post("/api/v1/tasks", json={"prompt": slow_prompt(99, steps=1)})
        assert refused.status_code == 503
        assert int(refused.headers["retry-after"]) > 0
        assert httpx.get(f"{system.url}/healthz", trust_env=False).status_code == 200
        assert httpx.get(f"{system.url}/readyz", trust_env=False).status_code == 503
        redis.start()
        wait_until(lambda: httpx.get(f"{system.url}/readyz", trust_env=False).status_code == 200, "ready again", 5)
        for task_id in ids:
            done = wait_completed(client, task_id)
            assert done["attempt"] == 1
            assert_sound_story(client, task_id, "completed")
    rendered = [run for number in (1, 2) for run in runs(system, number)]
    assert len(rendered) == len(ids), "no prompt was rendered twice"
