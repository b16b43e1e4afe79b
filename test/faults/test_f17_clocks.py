"""F17: the clocks of an agent and of the balancer are 10 minutes off: nothing changes, also not when the agent dies."""

import time
from pathlib import Path

from test.cluster import ROOT
from test.faults.conftest import Start, slow
from test.scenario.story import slow_prompt

OFF = 600  # seconds
SHIFT = """import os, time
_time, _time_ns, _shift = time.time, time.time_ns, int(os.environ["CLOCK_SHIFT"])
time.time = lambda: _time() + _shift
time.time_ns = lambda: _time_ns() + _shift * 1_000_000_000
"""


@slow
def test_wrong_clocks_change_nothing(start: Start, tmp_path: Path) -> None:
    folder = tmp_path / "clock"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(SHIFT)  # Python imports it at its start
    shifts = {"agent-1": OFF, "balancer": -OFF}
    own = {name: {"CLOCK_SHIFT": str(by), "PYTHONPATH": f"{folder}:{ROOT}"} for name, by in shifts.items()}
    oracle = start(agents=2, own=own)
    with oracle.client() as client:
        ids = [oracle.submit(client, slow_prompt(color, steps=40)) for color in (1, 2)]
        for task_id in ids:
            oracle.wait_progress(task_id)
        assert abs(oracle.at(ids[0], "claimed") - time.time()) < 10, "the clock of Redis counts"
        on_first = next(task_id for task_id in ids if oracle.holder(task_id) == 1)
        oracle.wait_final(*ids)
        assert {oracle.attempt(task_id) for task_id in ids} == {1}
        assert oracle.holder(on_first) == 1
        again = [oracle.submit(client, slow_prompt(color, steps=30)) for color in (3, 4)]
        for task_id in again:
            oracle.wait_progress(task_id)
        killed = next(task_id for task_id in again if oracle.holder(task_id) == 1)
        oracle.system.processes["agent-1"].kill()
        at = time.time()
        assert oracle.wait_event(killed, "retrying") - at < 5, "swept after a lease by the clock of Redis"
    oracle.conclude("F17", f"clocks of 1 agent and the balancer {OFF // 60} min off, agent SIGKILL")
