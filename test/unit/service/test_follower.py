"""How the end of a prompt is found."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest

from comfy_service.follower import Follower, Forgotten
from comfy_service.instance.client import BadAnswer, Instance, Place
from comfy_shared.errors import InstanceLost, RunError
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


async def at_once() -> None:
    """No next prompt is waited for."""


@asynccontextmanager
async def following(
    instance: Told, *, silence: float = SILENCE, look_first: bool = False
) -> AsyncIterator[tuple[Follower, "asyncio.Task[dict[str, Any]]"]]:
    follower = Follower(cast("Instance", instance), "p1", silence=silence, next_first=at_once)
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
    monkeypatch.setattr("comfy_service.follower.HISTORY_LAG", 0.03)
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
