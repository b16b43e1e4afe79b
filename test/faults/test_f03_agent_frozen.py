"""F3: an agent is frozen (SIGSTOP) for 3 leases: its task is done elsewhere, and when it thaws it is refused."""

import signal
import time

from test.cluster import wait_until
from test.faults.conftest import LEASE, SWEEP, Start, bar, slow
from test.faults.oracle import instance_runs, set_faults
from test.scenario.story import slow_prompt


@slow
def test_a_thawed_agent_is_refused_and_stops_its_prompt(start: Start) -> None:
    oracle = start(agents=2, usual={})
    with oracle.client() as client:
        task_id = oracle.submit(client, slow_prompt(1, steps=80))
        oracle.wait_progress(task_id)
        frozen = oracle.holder(task_id)
        set_faults(oracle.system, frozen, slow=20.0)  # so that its prompt still runs when it thaws
        agent = oracle.system.processes[f"agent-{frozen}"]
        agent.signal(signal.SIGSTOP)
        at = time.time()
        oracle.wait_final(task_id, timeout=LEASE + 20)
        elsewhere = oracle.at(task_id, "claimed", attempt=2) - at
        assert elsewhere < bar(LEASE + SWEEP + 1)
        wait_until(lambda: time.time() > at + 3 * LEASE, "3 leases have passed", 3 * LEASE + 5)
        assert instance_runs(oracle.system, frozen), "the old prompt still runs"
        story = oracle.story(task_id)
        agent.signal(signal.SIGCONT)
        at = time.time()
        wait_until(lambda: not instance_runs(oracle.system, frozen), "it has interrupted its instance", bar(2))
        stopped = time.time() - at
        set_faults(oracle.system, frozen, reset=True)
        assert oracle.story(task_id) == story, "its late reports are refused"
        both = [oracle.submit(client, slow_prompt(color, steps=20)) for color in (2, 3)]
        oracle.wait_final(*both)
        assert {oracle.holder(task_id) for task_id in both} == {1, 2}, "it works again"
    times = f"elsewhere after {elsewhere:.1f} s, stopped {stopped:.1f} s after SIGCONT"
    oracle.conclude("F3", f"agent SIGSTOP for 3 leases in mid-run: {times}")
