"""F20: Redis is at maxmemory (noeviction): submits answer 503, running tasks still finish, and it recovers."""

from test.cluster import wait_until
from test.faults.conftest import Start
from test.scenario.story import slow_prompt


def test_running_tasks_finish_and_submits_wait(start: Start) -> None:
    oracle = start(agents=2)
    with oracle.client() as client:
        ids = [oracle.submit(client, slow_prompt(color, steps=40)) for color in (1, 2)]
        for task_id in ids:
            oracle.wait_progress(task_id)
        oracle.redis.config_set("maxmemory", 1)
        answer = client.post("/api/v1/tasks", json={"prompt": slow_prompt(3, steps=1)})
        assert answer.status_code == 503
        assert client.get(f"/api/v1/tasks/{ids[0]}").status_code == 200, "reading goes on"
        oracle.wait_final(*ids)
        assert {oracle.attempt(task_id) for task_id in ids} == {1}
        oracle.redis.config_set("maxmemory", 0)

        def accepted() -> bool:
            return bool(oracle.accepted(client.post("/api/v1/tasks", json={"prompt": slow_prompt(4, steps=1)})))

        wait_until(accepted, "submits are accepted again", 5)
    oracle.conclude("F20", "Redis at maxmemory while 2 tasks run")
