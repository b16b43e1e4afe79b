"""A ComfyUI is killed while it renders: its task goes elsewhere, and its agent joins again when it is back."""

from test.cluster import Cluster, wait_until
from test.scenario.story import agent_number, assert_sound_story, slow_prompt, submit, wait_completed, wait_running


def agent_state(system: Cluster, number: int) -> str:
    with system.client() as client:
        return str(client.get(f"/api/v1/agents/agent-{number}").json()["state"])


def test_the_task_goes_to_the_other_instance_and_the_agent_joins_again(system: Cluster) -> None:
    with system.client() as client:
        task_id = submit(client, slow_prompt(1, steps=40))
        first = agent_number(wait_running(client, task_id))
        instance = system.processes[f"comfyui-{first}"]
        instance.kill()
        wait_until(lambda: agent_state(system, first) == "waiting", "the agent says that its instance is absent", 5)
        done = wait_completed(client, task_id, timeout=10)
        assert (done["attempt"], agent_number(done)) == (2, 3 - first)
        assert_sound_story(client, task_id, "completed")
        instance.start()
        wait_until(lambda: agent_state(system, first) == "ready", "the agent joins again", 10)
        again = [submit(client, slow_prompt(color, steps=10)) for color in (10, 11)]
        assert {agent_number(wait_completed(client, task_id)) for task_id in again} == {1, 2}
