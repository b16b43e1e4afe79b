"""F13: Redis comes back empty: no crash loop, scripts reload, agents register, work flows within 5 s."""

import shutil

from test.cluster import answers, wait_until
from test.faults.conftest import Start
from test.faults.oracle import instance_runs
from test.scenario.story import slow_prompt


def test_work_flows_again_within_five_seconds(start: Start) -> None:
    oracle = start(agents=2)
    redis = oracle.system.processes["redis"]
    with oracle.client() as client:
        gone = oracle.submit(client, slow_prompt(1, steps=400))
        oracle.wait_progress(gone)
        redis.kill()
        shutil.rmtree(oracle.system.folder / "redis")
        (oracle.system.folder / "redis").mkdir()
        redis.start()
        wait_until(lambda: answers(f"{oracle.system.url}/readyz"), "the balancer is ready", 5)
        ids: list[str] = []

        def accepted() -> bool:
            ids.extend(oracle.accepted(client.post("/api/v1/tasks", json={"prompt": slow_prompt(2, steps=2)})))
            return bool(ids)

        wait_until(accepted, "a task is accepted", 5)
        oracle.wait_final(*ids, timeout=5)
        wait_until(lambda: client.get("/api/v1/workflows/smoke").status_code == 200, "the workflows are back", 5)
        oracle.forget(gone)
        both = [oracle.submit(client, slow_prompt(color, steps=20)) for color in (3, 4)]
        oracle.wait_final(*both)
        assert {oracle.holder(task_id) for task_id in both} == {1, 2}, "both agents registered"
        wait_until(
            lambda: not any(instance_runs(oracle.system, number) for number in (1, 2)), "the lost task is stopped"
        )
        assert client.get(f"/api/v1/tasks/{gone}").status_code == 404
    assert all(process.alive for process in oracle.system.processes.values())
    oracle.conclude("F13", "Redis SIGKILL and back empty, 1 task running")
