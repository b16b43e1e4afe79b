"""The small decisions of an attempt."""

from typing import cast

import pytest

from comfy_service.inputs import InputPlacer
from comfy_service.instance.client import Instance
from comfy_service.instance.protocol import Ended, Image, NodeRunning, Step
from comfy_service.instance.socket import Socket
from comfy_service.outputs import Collector
from comfy_service.runner import Run, Workplace, break_cache, task_error
from comfy_shared.claims import Attempt
from comfy_shared.errors import NodeFailed, PromptRejected, RunTimeout
from comfy_shared.models import Prompt, Status, Task, TaskError
from comfy_shared.queue import Queue


def workplace() -> Workplace:
    async def at_once() -> None:
        return

    return Workplace(
        agent="gpu-1",
        queue=cast("Queue", None),
        instance=cast("Instance", None),
        socket=cast("Socket", None),
        placer=cast("InputPlacer", None),
        collector=cast("Collector", None),
        silence=60,
        suspect=lambda: None,
        judged=lambda error: None,
        sent=lambda: None,
        next_first=at_once,
    )


PROMPT: Prompt = {
    "1": {"class_type": "EmptyImage", "inputs": {"width": 8}},
    "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "x"}},
    "3": {"class_type": "SaveImageWebsocket", "inputs": {"images": ["1", 0]}},
    "4": {"class_type": "Odd", "inputs": {"filename_prefix": ["1", 0]}},
    "5": {"class_type": "Bare"},
}


def test_breaking_the_cache_renames_the_files_and_changes_nothing_else() -> None:
    broken = break_cache(PROMPT, 2)
    assert broken["2"]["inputs"] == {"images": ["1", 0], "filename_prefix": "x-2"}
    assert {node: broken[node] for node in "1345"} == {node: PROMPT[node] for node in "1345"}
    assert PROMPT["2"]["inputs"]["filename_prefix"] == "x"


def test_an_error_is_kept_with_its_code_and_its_node_apart() -> None:
    details = {"node": "3", "node_class": "KSampler", "exception": "ValueError"}
    error = NodeFailed("it broke", details)
    assert task_error(error) == TaskError(
        code="node_failed",
        message="it broke",
        node="3",
        node_class="KSampler",
        details={"exception": "ValueError"},
    )
    assert error.details == details


def test_an_error_without_a_node_is_kept_with_its_own_words() -> None:
    message = "The task ran longer than its time limit."
    assert task_error(RunTimeout()) == TaskError(code="timeout", message=message)
    kept = task_error(PromptRejected("no", {"node_errors": {}}))
    assert (kept.code, kept.node, kept.details) == ("prompt_rejected", None, {"node_errors": {}})


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Run:
    """A run whose prompt is at the instance."""
    task = Task(
        id="t1",
        owner="ann",
        status=Status.RUNNING,
        priority=5,
        lane="l",
        attempt=1,
        max_attempts=3,
        created_at=1,
        timeout=60,
        prompt_id="p1",
        packed_prompt=b"j{}",
    )
    made = Run(Attempt(task=task, session="s1"), workplace())
    monkeypatch.setattr(made, "_prompt", PROMPT)
    return made


def kept(run: Run) -> list[tuple[str, bytes]]:
    return [(image.node, image.data) for image in run._images]


async def test_the_announced_end_frees_the_gpu(run: Run) -> None:
    run.feed(NodeRunning(prompt_id="p1", node="1"))
    assert not run.gpu_free.is_set()
    run.feed(Ended(prompt_id="p1"))
    assert run.gpu_free.is_set()


async def test_of_the_pictures_in_frames_only_those_of_the_websocket_node_are_kept(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    run.feed(NodeRunning(prompt_id="p1", node="1"))
    run.feed(Image(data=b"preview", content_type="image/jpeg"))
    run.feed(Image(data=b"preview with its node", content_type="image/jpeg", prompt_id="p1", node="1"))
    run.feed(NodeRunning(prompt_id="p1", node="3"))
    run.feed(Image(data=b"output", content_type="image/png"))
    run.feed(Step(prompt_id="p1", node="3", value=1, maximum=1))
    assert kept(run) == [("3", b"output")]
    monkeypatch.setattr("comfy_service.runner.LARGEST_IN_MEMORY", 10)
    run.feed(Image(data=b"too much", content_type="image/png"))
    assert kept(run) == [("3", b"output")]


async def test_a_run_that_has_not_begun_or_has_ended_cannot_be_given_up(run: Run) -> None:
    run.lose(taken=True)
    run.release("the agent stops")
    assert not run.gpu_free.is_set()
    assert run._given_up is None
