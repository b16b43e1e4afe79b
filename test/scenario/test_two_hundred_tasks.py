"""Two hundred tasks at once over two agents: each done exactly once, and each with its own picture."""

from io import BytesIO

from PIL import Image

from test.cluster import Cluster, wait_until
from test.scenario.story import assert_sound_story, runs

COUNT = 200


def test_all_complete_exactly_once_with_the_right_pictures(system: Cluster) -> None:
    with system.client() as client:
        tasks = [{"workflow": "smoke", "parameters": {"color": color}} for color in range(COUNT)]
        answer = client.post("/api/v1/tasks/batch", json={"tasks": tasks})
        assert answer.status_code == 202, answer.text
        ids = [task["id"] for task in answer.json()["tasks"]]
        assert len(set(ids)) == COUNT

        def completed() -> bool:
            page = client.get("/api/v1/tasks", params={"status": "completed", "limit": 200}).json()
            return len(page["tasks"]) == COUNT

        wait_until(completed, "all tasks completed", 25)

        for color, task_id in enumerate(ids):
            found = client.get(f"/api/v1/tasks/{task_id}").json()
            assert found["attempt"] == 1
            picture = Image.open(BytesIO(client.get(found["outputs"][0]["url"]).content)).convert("RGB")
            assert picture.getpixel((0, 0)) == (0, 0, color)
        assert_sound_story(client, ids[0], "completed")
        assert_sound_story(client, ids[-1], "completed")

    rendered = [run["prompt_id"] for number in (1, 2) for run in runs(system, number)]
    assert len(rendered) == len(set(rendered)) == COUNT
    assert all(runs(system, number) for number in (1, 2)), "both agents worked"
