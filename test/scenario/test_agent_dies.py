"""An agent is killed while its task runs: another finishes it; or it comes back at once and adopts the running
prompt."""

import signal
from contextlib import suppress

from test.cluster import Cluster, wait_until
from test.scenario.story import (
    agent_number,
    assert_sound_story,
    runs,
    slow_prompt,
    submit,
    wait_completed,
    wait_running,
)


def test_a_task_of_a_killed_agent_completes_elsewhere(system: Cluster) -> None:
    with system.client() as client:
        task_id = submit(client, slow_prompt(1, steps=40))
        first = agent_number(wait_running(client, task_id))
        system.processes[f"agent-{first}"].kill()
        done = wait_completed(client, task_id)
        assert (done["attempt"], agent_number(done)) == (2, 3 - first)
        assert len(done["outputs"]) == 1
        types = assert_sound_story(client, task_id, "completed")
        assert types.count("retrying") == 1


def test_an_agent_that_comes_back_at_once_adopts_its_prompt(system: Cluster) -> None:
    with system.client() as client:
        task_id = submit(client, slow_prompt(2, steps=60))
        first = agent_number(wait_running(client, task_id))
        agent = system.processes[f"agent-{first}"]
        agent.kill()
        agent.start()
        done = wait_completed(client, task_id)
        assert (done["attempt"], agent_number(done)) == (1, first)
        types = assert_sound_story(client, task_id, "completed")
        assert types.count("adopted") == 1
        assert "retrying" not in types
    rendered = [run for number in (1, 2) for run in runs(system, number)]
    assert [run["last_message"] for run in rendered] == ["execution_success"], "one render in all"


def test_a_stopped_agent_gives_its_task_back_uncharged_and_exits_with_zero(system: Cluster) -> None:
    with system.client() as client:
        task_id = submit(client, slow_prompt(3, steps=100))
        first = agent_number(wait_running(client, task_id))
        assert system.processes[f"agent-{first}"].stop(timeout=10) == 0
        done = wait_completed(client, task_id)
        assert agent_number(done) == 3 - first
        assert done["max_attempts"] - done["attempt"] == 2, "the attempt that was given back is not charged"
        assert "released" in assert_sound_story(client, task_id, "completed")


def test_an_agent_that_is_told_to_stop_again_and_again_ends_as_quietly(system: Cluster) -> None:
    """Also when it is told between its last line and its last breath."""
    agent = system.processes["agent-1"]

    def ended() -> bool:
        with suppress(ProcessLookupError):
            agent.signal(signal.SIGTERM)
        return not agent.alive

    wait_until(ended, "the agent ended")
    assert agent.wait(1) == 0
    assert "Traceback" not in agent.tail()
