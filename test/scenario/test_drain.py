"""Draining an agent: it finishes what it holds and takes nothing more until it is resumed."""

from test.cluster import Cluster
from test.scenario.story import agent_number, slow_prompt, submit, wait_completed, wait_running


def test_a_drained_agent_takes_nothing_until_it_is_resumed(system: Cluster) -> None:
    with system.client() as client:
        held = submit(client, slow_prompt(1, steps=20))
        drained = agent_number(wait_running(client, held))
        assert client.post(f"/api/v1/agents/agent-{drained}/drain").status_code == 200
        others = [submit(client, slow_prompt(color, steps=4)) for color in range(10, 14)]
        assert agent_number(wait_completed(client, held)) == drained, "what it held it finished"
        assert {agent_number(wait_completed(client, task_id)) for task_id in others} == {3 - drained}
        assert client.post(f"/api/v1/agents/agent-{drained}/resume").status_code == 200
        more = [submit(client, slow_prompt(color, steps=10)) for color in range(20, 24)]
        assert {agent_number(wait_completed(client, task_id)) for task_id in more} == {1, 2}
