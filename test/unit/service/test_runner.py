"""How the end of a prompt is found, and the small decisions of an attempt."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest

from comfy_service.inputs import InputPlacer
from comfy_service.instance.client import BadAnswer, Instance, Place
from comfy_service.instance.protocol import Ended, Image, NodeRunning, Step
from comfy_service.instance.socket import Socket
from comfy_service.outputs import Collector
from comfy_service.runner import Follower, Forgotten, Run, Workplace, break_cache, task_error
from comfy_shared.claims import Attempt
from comfy_shared.errors import InstanceLost, NodeFailed, PromptRejected, RunError, RunTimeout
from comfy_shared.models import Prompt, Status, Task, TaskError
from comfy_shared.queue import Queue
from test.support.waiting import wait_until

ENTRY = {"status": {"status_str": "success"}, "outputs": {}}
SILENCE = 0.05


class Told:
    """Stands for the instance: says where the prompt is, or fails as told."""

    def __init__(self) -> None:
        self.place = Place.RUNNING
        self.failures: list[RunError] = []
        self.lag = 0  # looks at history until the entry is there
        self.looks = 0
        self.histories = 0

    async def whereabouts(self, prompt_id: str) -> Place:
        assert prompt_id == "p1"
        self.looks += 1
        if self.failures:
            raise self.failures.pop(0)
        return self.place

    async def history(self, prompt_id: str) -> dict[str, Any] | None:
        assert prompt_id == "p1"
        self.histories += 1
        if self.failures:
            raise self.failures.pop(0)
        return ENTRY if self.place is Place.ENDED and self.histories > self.lag else None


@pytest.fixture
def instance() -> Told:
    return Told()


def workplace(instance: Told, *, silence: float = SILENCE) -> Workplace:
    async def at_once() -> None:
        return

    return Workplace(
        agent="gpu-1",
        queue=cast("Queue", None),
        instance=cast("Instance", instance),
        socket=cast("Socket", None),
        placer=cast("InputPlacer", None),
        collector=cast("Collector", None),
        silence=silence,
        suspect=lambda: None,
        judged=lambda error: None,
        sent=lambda: None,
        next_first=at_once,
    )


@asynccontextmanager
async def following(
    instance: Told, *, silence: float = SILENCE, look_first: bool = False
) -> AsyncIterator[tuple[Follower, "asyncio.Task[dict[str, Any]]"]]:
    follower = Follower(workplace(instance, silence=silence), "p1")
    work = asyncio.create_task(follower.follow(look_first=look_first))
    await asyncio.sleep(0)
    try:
        yield follower, work
    finally:
        work.cancel()
        await asyncio.wait([work])


async def test_an_announced_end_is_looked_up_in_history(instance: Told) -> None:
    async with following(instance, silence=60) as (follower, work):
        instance.place = Place.ENDED
        follower.heard(ended=True)
        assert await asyncio.wait_for(work, 2) == ENTRY
    assert (instance.histories, instance.looks) == (1, 0)


async def test_history_may_lag_behind_the_announcement(instance: Told) -> None:
    instance.lag = 3
    async with following(instance, silence=60) as (follower, work):
        instance.place = Place.ENDED
        follower.heard(ended=True)
        assert await asyncio.wait_for(work, 2) == ENTRY
    assert instance.looks == 0


async def test_a_false_announcement_is_not_believed(instance: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("comfy_service.runner.HISTORY_LAG", 0.03)
    async with following(instance, silence=60) as (follower, work):
        follower.heard(ended=True)
        await wait_until(lambda: instance.looks == 1, "it asked where the prompt is")
        assert not work.done()
        instance.place = Place.ENDED
        follower.look()
        assert await asyncio.wait_for(work, 2) == ENTRY


async def test_silence_is_looked_into_again_and_again(instance: Told) -> None:
    async with following(instance) as (_, work):
        await wait_until(lambda: instance.looks == 3, "it looked at each silence")
        instance.place = Place.ENDED
        assert await asyncio.wait_for(work, 2) == ENTRY


async def test_nobody_is_asked_while_frames_come(instance: Told) -> None:
    async with following(instance, silence=0.2) as (follower, work):
        end = time.monotonic() + 0.5
        while time.monotonic() < end:
            follower.heard(ended=False)
            await asyncio.sleep(0.01)  # the frames' own pace
        assert (instance.looks, work.done()) == (0, False)


async def test_a_wish_to_look_is_answered_though_frames_come(instance: Told) -> None:
    async with following(instance, silence=60) as (follower, _):
        follower.heard(ended=False)
        follower.look()
        await wait_until(lambda: instance.looks == 1, "it looked")


async def test_an_adopted_prompt_is_looked_for_first(instance: Told) -> None:
    instance.place = Place.ENDED
    async with following(instance, silence=60, look_first=True) as (_, work):
        assert await asyncio.wait_for(work, 2) == ENTRY


async def test_a_prompt_that_the_instance_forgot_is_lost(instance: Told) -> None:
    instance.place = Place.NOWHERE
    async with following(instance, silence=60) as (follower, work):
        follower.look()
        with pytest.raises(Forgotten) as caught:
            await asyncio.wait_for(work, 2)
    assert (caught.value.code, caught.value.retryable) == ("instance_lost", True)


async def test_one_refused_connection_is_tolerated(instance: Told) -> None:
    instance.failures = [InstanceLost()]
    async with following(instance, silence=60) as (follower, work):
        instance.place = Place.ENDED
        follower.look()
        assert await asyncio.wait_for(work, 2) == ENTRY


async def test_one_refused_connection_at_the_announced_end_is_tolerated(instance: Told) -> None:
    instance.failures = [InstanceLost()]
    async with following(instance, silence=60) as (follower, work):
        instance.place = Place.ENDED
        follower.heard(ended=True)
        assert await asyncio.wait_for(work, 2) == ENTRY


@pytest.mark.parametrize("failures", [[InstanceLost(), InstanceLost()], [BadAnswer()]])
async def test_two_refused_connections_or_one_bad_answer_are_not(instance: Told, failures: list[RunError]) -> None:
    instance.failures = failures
    async with following(instance, silence=60) as (follower, work):
        follower.look()
        with pytest.raises((InstanceLost, BadAnswer)):
            await asyncio.wait_for(work, 2)


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
def run(instance: Told, monkeypatch: pytest.MonkeyPatch) -> Run:
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
    made = Run(Attempt(task=task, session="s1"), workplace(instance))
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
