"""F4: the instance is killed while it renders: noticed, and its task given back without waiting for the lease."""

import time

from test.cluster import wait_until
from test.faults.conftest import Start, bar
from test.scenario.story import slow_prompt


def test_its_task_is_given_back_and_its_offer_withdrawn_at_once(start: Start) -> None:
    oracle = start(agents=2, usual={})
    with oracle.client() as client:

        def state(number: int) -> str:
            return str(client.get(f"/api/v1/agents/agent-{number}").json()["state"])

        ids = [oracle.submit(client, slow_prompt(color, steps=40)) for color in (1, 2)]
        for task_id in ids:
            oracle.wait_progress(task_id)
        victim = oracle.holder(ids[0])
        instance = oracle.system.processes[f"comfyui-{victim}"]
        instance.kill()
        at = time.time()
        wait_until(lambda: state(victim) == "waiting", "its offer is withdrawn", bar(2))
        noticed = time.time() - at
        released = oracle.wait_event(ids[0], "retrying") - at
        assert released < bar(3), "not only when the lease ends"
        oracle.wait_final()
        assert oracle.holder(ids[0]) != victim
        instance.start()
        wait_until(lambda: state(victim) == "ready", "it offers again", 10)
    times = f"noticed after {noticed:.1f} s, released {released:.1f} s"
    oracle.conclude("F4", f"1 of 2 instances SIGKILL in mid-run: {times}")
