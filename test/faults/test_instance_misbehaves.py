"""Further faults of an instance: answers 500, refuses connections, runs out of memory, loses an output, answers from
its cache with names of files that are gone.
"""

import pytest

from test.cluster import wait_until
from test.faults.conftest import Start, slow
from test.faults.oracle import set_faults
from test.scenario.story import runs, slow_prompt

REFUSED = 60.0  # seconds


@pytest.mark.parametrize("how", ["500", pytest.param("garbage", marks=slow)])
def test_an_instance_that_answers_wrongly_loses_its_tasks_to_the_other(start: Start, how: str) -> None:
    oracle = start(agents=2)
    with oracle.client() as client:
        set_faults(oracle.system, 1, wrong_answer=how)
        ids = [oracle.submit(client, slow_prompt(color, steps=4)) for color in range(6)]
        oracle.wait_final()
        assert {oracle.holder(task_id) for task_id in ids} == {2}
        set_faults(oracle.system, 1, reset=True)
        wait_until(lambda: ready(client.get("/api/v1/agents").json()["agents"]) == 2, "it is met again")
        again = [oracle.submit(client, slow_prompt(color, steps=20)) for color in (10, 11)]
        oracle.wait_final(*again)
        assert {oracle.holder(task_id) for task_id in again} == {1, 2}
    oracle.conclude(how, f"1 of 2 instances answers {how} to everything")


def ready(agents: list[dict[str, object]]) -> int:
    return sum(agent["state"] == "ready" for agent in agents)


@slow
def test_an_instance_that_fails_everything_is_left_alone_until_a_probe_succeeds(start: Start) -> None:
    oracle = start(agents=2, settings={"BREAKER_FAILURES": "3", "BREAKER_SECONDS": "2"})
    with oracle.client() as client:

        def state() -> str:
            return str(client.get("/api/v1/agents/agent-1").json()["state"])

        set_faults(oracle.system, 1, wrong_prompt_answer="500")
        ids = [oracle.submit(client, slow_prompt(color, steps=4)) for color in range(30)]
        wait_until(lambda: state() == "waiting", "its breaker is open")
        oracle.wait_final()
        failed = sum(oracle.attempt(task_id) - 1 for task_id in ids)
        set_faults(oracle.system, 1, reset=True)
        wait_until(lambda: state() == "ready", "a probe succeeded", 15)
        both = [oracle.submit(client, slow_prompt(color, steps=20)) for color in (50, 51)]
        oracle.wait_final(*both)
        assert {oracle.holder(task_id) for task_id in both} == {1, 2}
    oracle.conclude(
        "breaker", f"1 of 2 instances fails every prompt: {failed} attempts lost to it among {len(ids)} tasks"
    )


def test_an_answer_that_is_lost_costs_no_second_render(start: Start) -> None:
    oracle = start(agents=1)
    with oracle.client() as client:
        set_faults(oracle.system, 1, wrong_prompt_answer="lost")
        oracle.wait_final(oracle.submit(client, slow_prompt(1, steps=10)))
        set_faults(oracle.system, 1, reset=True)
    assert len(runs(oracle.system, 1)) == 1
    oracle.conclude("lost", "POST /prompt accepted but answered 500")


@slow
def test_an_instance_that_refuses_connections_is_waited_for(start: Start) -> None:
    oracle = start(agents=1)
    with oracle.client() as client:
        set_faults(oracle.system, 1, refuse_seconds=REFUSED)
        ids = [oracle.submit(client, slow_prompt(color, steps=2)) for color in range(3)]
        oracle.wait_final(timeout=REFUSED + 15)
        assert max(oracle.attempt(task_id) for task_id in ids) <= 2, (
            "absence costs the attempt that found out, and no other"
        )
    oracle.conclude("refuse", f"the only instance refuses connections for {REFUSED:g} s")


def test_out_of_memory_frees_and_goes_elsewhere(start: Start) -> None:
    """Broke: only the agent that had to avoid the task was woken; an idle one slept until that time was over."""
    oracle = start(agents=2)
    with oracle.client() as client:
        set_faults(oracle.system, 1, out_of_memory=1)
        set_faults(oracle.system, 2, out_of_memory=1)
        task_id = oracle.submit(client, slow_prompt(1, steps=2))
        oracle.wait_final()
        kinds = [kind for _, kind, _, _ in oracle.story(task_id)]
        assert kinds.count("retrying") == 2
        assert oracle.at(task_id, "claimed", attempt=2) - oracle.at(task_id, "retrying", attempt=1) < 1
    oracle.conclude("memory", "out of memory on both instances, once each")


def test_a_lost_output_is_rendered_again(start: Start) -> None:
    oracle = start(agents=1)
    with oracle.client() as client:
        set_faults(oracle.system, 1, lose_output=1)
        task_id = oracle.submit(client, slow_prompt(1, steps=4))
        oracle.wait_final()
        assert oracle.attempt(task_id) == 2
    oracle.conclude("output", "the instance loses an output file")


def test_a_cached_run_that_names_files_that_are_gone_is_rendered_again(start: Start) -> None:
    oracle = start(agents=1)
    with oracle.client() as client:
        set_faults(oracle.system, 1, keep_cache=True)
        first = oracle.submit(client, slow_prompt(1, steps=4))
        oracle.wait_final(first)
        cached = oracle.submit(client, slow_prompt(1, steps=4))
        oracle.wait_final(cached)
        assert oracle.attempt(cached) == 1, "the file that the cache names is still there"
        for file in (oracle.system.folder / "comfyui-1" / "output").rglob("*.png"):
            file.unlink()
        gone = oracle.submit(client, slow_prompt(1, steps=4))
        oracle.wait_final(gone)
        assert oracle.attempt(gone) == 2
    oracle.conclude("cache", "answers from the cache, with the files there and gone")
