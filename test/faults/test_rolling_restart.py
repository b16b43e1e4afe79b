"""A rolling restart of the agents under load: one after the other is drained, stopped, started and resumed,
and no task is lost, runs twice or costs an attempt.
"""

import threading
from typing import Any

import httpx

from test.cluster import wait_until
from test.faults.conftest import ALL, Start
from test.faults.oracle import Oracle
from test.scenario.story import runs, slow_prompt

AGENTS = 3 if ALL else 2


def restart(oracle: Oracle, client: httpx.Client, name: str) -> None:
    """What an operator does with one agent."""

    def view() -> dict[str, Any]:
        found: dict[str, Any] = client.get(f"/api/v1/agents/{name}").json()
        return found

    wait_until(lambda: view()["running"], f"{name} works")
    client.post(f"/api/v1/agents/{name}/drain").raise_for_status()
    wait_until(lambda: not oracle.redis.exists(oracle.keys.held(name)), f"{name} holds nothing")
    assert oracle.system.processes[name].stop() == 0
    oracle.system.processes[name].start()
    wait_until(lambda: view().get("state") == "draining", f"{name} is back, and drains still")
    client.post(f"/api/v1/agents/{name}/resume").raise_for_status()
    wait_until(lambda: view()["running"], f"{name} works again")


def test_no_task_is_lost_or_rendered_twice(start: Start) -> None:
    oracle = start(agents=AGENTS)
    stop = threading.Event()

    def submit_on() -> None:
        with oracle.client() as client:
            number = 0
            while not stop.wait(0.2):
                number += 1
                oracle.submit(client, slow_prompt(number, steps=10))

    submitter = threading.Thread(target=submit_on, daemon=True)
    submitter.start()
    with oracle.client() as client:
        for number in range(1, AGENTS + 1):
            restart(oracle, client, f"agent-{number}")
        stop.set()
        submitter.join(10)
        oracle.wait_final()
    ids = oracle.known()
    assert {oracle.attempt(task_id) for task_id in ids} == {1}
    assert sum(len(runs(oracle.system, number)) for number in range(1, AGENTS + 1)) == len(ids)
    oracle.conclude("rolling", f"{AGENTS} agents drained, SIGTERM, started and resumed in turn, under load")
