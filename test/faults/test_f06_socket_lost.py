"""F6: the instance's websocket drops for a while, or stays open and silent: history is believed, nothing runs twice."""

import pytest

from test.cluster import wait_until
from test.faults.conftest import Start, slow
from test.faults.oracle import Oracle, set_faults
from test.scenario.story import runs, slow_prompt


def socket_ends(oracle: Oracle) -> int:
    """How often a socket ended or was refused, by the agent's log."""
    return oracle.system.processes["agent-1"].log.read_text().count('"action":"instance.socket"')


@pytest.mark.parametrize("ends_meanwhile", [True, pytest.param(False, marks=slow)])
def test_a_dropped_socket_costs_no_second_render(start: Start, ends_meanwhile: bool) -> None:
    oracle = start(agents=1)
    with oracle.client() as client:
        task_id = oracle.submit(client, slow_prompt(1, steps=40))
        oracle.wait_progress(task_id)
        set_faults(oracle.system, 1, drop_websockets=True, refuse_websockets=True)
        wait_until(lambda: socket_ends(oracle) > 1, "no socket is open")
        if ends_meanwhile:
            wait_until(lambda: runs(oracle.system, 1), "the prompt ends while no socket is open")
            oracle.wait_final(timeout=8)
        set_faults(oracle.system, 1, reset=True)
        oracle.wait_final()
        oracle.wait_final(oracle.submit(client, slow_prompt(2, steps=4)), timeout=5)
    assert len(runs(oracle.system, 1)) == 2, "each prompt was rendered once"
    when = "over the end of the run" if ends_meanwhile else "in mid-run"
    oracle.conclude("F6", f"websocket dropped and refused {when}")


@slow
def test_a_silent_socket_costs_no_second_render(start: Start) -> None:
    oracle = start(agents=1)
    with oracle.client() as client:
        task_id = oracle.submit(client, slow_prompt(1, steps=20))
        oracle.wait_progress(task_id)
        set_faults(oracle.system, 1, silent_websocket=True)
        oracle.wait_final(task_id, timeout=8)
        oracle.wait_final(oracle.submit(client, slow_prompt(2, steps=4)), timeout=8)
        set_faults(oracle.system, 1, reset=True)
        oracle.wait_final(oracle.submit(client, slow_prompt(3, steps=4)), timeout=5)
    assert len(runs(oracle.system, 1)) == 3, "each prompt was rendered once"
    oracle.conclude("F6", "websocket open and silent over two ends")
