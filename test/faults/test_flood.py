"""10,000 tasks are submitted while agents die and return at random for two minutes: each completes once."""

import random
import threading
import time

import pytest

from test.faults.conftest import Start, slow
from test.scenario.story import slow_prompt

TASKS, BATCH = 10_000, 100
SECONDS = 120.0


@slow
@pytest.mark.timeout(1500)
def test_ten_thousand_tasks_among_dying_agents(start: Start) -> None:
    oracle = start(agents=4, settings={"QUEUE_LIMIT": "20000"})
    chance = random.Random(10)
    agents = [oracle.system.processes[f"agent-{number}"] for number in range(1, 5)]
    kills = 0
    at = time.monotonic()
    with oracle.client() as client:
        for batch in range(TASKS // BATCH):
            tasks = [
                {"prompt": slow_prompt(batch * BATCH + number, steps=1, ms_per_step=1), "max_attempts": 10}
                for number in range(BATCH)
            ]
            answer = client.post("/api/v1/tasks/batch", json={"tasks": tasks})
            assert len(oracle.accepted(answer)) == BATCH
            agent = chance.choice(agents)
            if agent.alive:
                agent.kill()
                kills += 1
            else:
                agent.start()
            threading.Event().wait(max(0.0, at + (batch + 1) * SECONDS / (TASKS // BATCH) - time.monotonic()))
        for agent in agents:
            if not agent.alive:
                agent.start()
        took = time.monotonic() - at
        oracle.conclude("flood", f"{kills} agent SIGKILLs within {took:.0f} s of submits, 4 agents", timeout=1200)
