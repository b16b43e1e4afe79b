"""F23: an agent dies and comes back again and again: no leftovers, and nobody starves."""

import pytest

from test.faults.conftest import Start, slow
from test.scenario.story import slow_prompt

FLAPS = 50


@slow
@pytest.mark.timeout(900)
def test_a_flapping_agent_leaves_nothing_and_starves_nobody(start: Start) -> None:
    oracle = start(agents=2)
    flapping = oracle.system.processes["agent-1"]
    with oracle.client() as client:
        for flap in range(FLAPS):
            ids = [
                oracle.submit(client, slow_prompt(10 * flap + number, steps=10), max_attempts=10) for number in range(4)
            ]
            oracle.wait_event(ids[0], "claimed")
            flapping.kill()
            oracle.wait_final(*ids[:2], timeout=15)
            flapping.start()
    oracle.conclude("F23", f"one of 2 agents SIGKILL and back {FLAPS} times", timeout=60)
