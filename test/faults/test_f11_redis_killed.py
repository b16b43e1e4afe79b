"""F11: Redis is killed and comes back after 5 s: nothing acknowledged is lost, and everybody is back within 5 s."""

import threading
import time

import httpx

from test.cluster import answers, wait_until
from test.faults.conftest import Start, slow
from test.scenario.story import runs, slow_prompt

AWAY = 5.0  # seconds; the lease is longer


@slow
def test_nothing_acknowledged_is_lost_and_all_reconnect(start: Start) -> None:
    oracle = start(agents=2, usual={})
    redis = oracle.system.processes["redis"]
    answered: list[httpx.Response] = []
    enough = threading.Event()
    stop = threading.Event()

    def submit_on() -> None:
        with oracle.client() as client:
            while not stop.is_set():
                body = {"prompt": slow_prompt(len(answered), steps=10, ms_per_step=10)}
                answered.append(client.post("/api/v1/tasks", json=body))
                if len(answered) == 40:
                    enough.set()
                stop.wait(0.02)

    with oracle.client() as client:
        long = [oracle.submit(client, slow_prompt(color, steps=120)) for color in (1000, 1001)]
        for task_id in long:
            oracle.wait_progress(task_id)
        submitter = threading.Thread(target=submit_on, daemon=True)
        submitter.start()
        assert enough.wait(10)
        redis.kill()
        at = time.monotonic()
        wait_until(lambda: client.get("/readyz").status_code == 503, "readiness is red", 3)
        assert client.get("/healthz").status_code == 200, "liveness is green"
        wait_until(lambda: time.monotonic() > at + AWAY, "Redis was away long enough")
        refused = {answer.status_code for answer in answered[-5:]}
        redis.start()
        at = time.monotonic()
        wait_until(lambda: answers(f"{oracle.system.url}/readyz"), "ready again", 5)
        before = len(answered)
        wait_until(lambda: any(a.status_code == 202 for a in answered[before:]), "submits are accepted again", 5)
        stop.set()
        submitter.join(10)
        assert refused == {503}
        for answer in answered:
            oracle.accepted(answer)
        everybody = {"agent-1", "agent-2"}
        wait_until(lambda: registered(oracle.redis.zrange(oracle.keys.idle, 0, -1)) == everybody, "all are back", 20)
        oracle.wait_final()
    assert {answer.status_code for answer in answered} == {202, 503}
    for task_id in long:
        assert oracle.attempt(task_id) == 1, "its run went on meanwhile"
    total = sum(len(runs(oracle.system, number)) for number in (1, 2))
    known = int(str(oracle.redis.zcard(oracle.keys.index("all"))))
    assert total == known, "no prompt was rendered twice"
    oracle.conclude("F11", f"Redis SIGKILL during submits and 2 runs, back after {AWAY:g} s")


def registered(names: object) -> set[str]:
    assert isinstance(names, list)
    return {name.decode() for name in names}
