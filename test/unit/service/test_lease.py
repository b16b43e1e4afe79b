"""Leases are renewed together; a lost one is told at once, one that cannot be renewed is given up before it ends."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import cast

import pytest

from comfy_service.lease import LeaseKeeper
from comfy_shared.claims import Attempt
from comfy_shared.errors import Unavailable
from comfy_shared.lifecycle import Loops
from comfy_shared.models import Status, Task
from comfy_shared.queue import Queue
from test.support.waiting import wait_until

LEASE = 1.0  # seconds
Answer = Callable[[Mapping[str, int]], Awaitable[frozenset[str]]]


class Renewals:
    """Stands for the queue: answers renewals as it is told."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.asked: list[dict[str, int]] = []

    async def renew(self, session: str, attempts: Mapping[str, int]) -> frozenset[str]:
        assert session == "s1"
        self.asked.append(dict(attempts))
        return await self.answer(attempts)


async def all_fine(_: Mapping[str, int]) -> frozenset[str]:
    return frozenset()


async def away(_: Mapping[str, int]) -> frozenset[str]:
    raise Unavailable


async def stalled(_: Mapping[str, int]) -> frozenset[str]:
    await asyncio.Event().wait()
    raise AssertionError("never")


def attempt(task_id: str = "t1", number: int = 1) -> Attempt:
    task = Task(
        id=task_id,
        owner="ann",
        status=Status.RUNNING,
        priority=5,
        lane="l",
        attempt=number,
        max_attempts=3,
        created_at=1,
        timeout=60,
    )
    return Attempt(task=task, session="s1")


def keeper_of(renewals: Renewals, lost: list[str], lease: float = LEASE) -> LeaseKeeper:
    return LeaseKeeper(
        cast("Queue", renewals),
        "s1",
        lease=lease,
        on_lost=lambda task_id, told: lost.append(f"{task_id} {'told' if told else 'late'}"),
    )


async def test_all_attempts_are_renewed_in_one_call() -> None:
    lost: list[str] = []
    renewals = Renewals(all_fine)
    keeper = keeper_of(renewals, lost)
    keeper.hold(attempt("t1", 1))
    keeper.hold(attempt("t2", 3))
    assert await keeper.renew()
    assert (renewals.asked, lost) == ([{"t1": 1, "t2": 3}], [])


async def test_without_an_attempt_nobody_is_asked() -> None:
    renewals = Renewals(all_fine)
    assert await keeper_of(renewals, []).renew()
    assert renewals.asked == []


async def test_a_lost_lease_is_told_once_and_not_asked_for_again() -> None:
    async def t1_is_lost(_: Mapping[str, int]) -> frozenset[str]:
        return frozenset({"t1"})

    lost: list[str] = []
    renewals = Renewals(t1_is_lost)
    keeper = keeper_of(renewals, lost)
    keeper.hold(attempt("t1"))
    keeper.hold(attempt("t2"))
    for _ in range(2):
        await keeper.renew()
    assert lost == ["t1 told"]
    assert renewals.asked == [{"t1": 1, "t2": 1}, {"t2": 1}]


async def test_dropping_an_older_attempt_leaves_a_later_one_of_the_same_task() -> None:
    """Attempt 1 still stored when attempt 2 was claimed by the same agent: its end took the lease of the second."""
    renewals = Renewals(all_fine)
    keeper = keeper_of(renewals, [])
    keeper.hold(attempt("t1", 1))
    keeper.hold(attempt("t1", 2))
    keeper.drop("t1", 1)
    await keeper.renew()
    keeper.drop("t1", 2)
    await keeper.renew()
    assert renewals.asked == [{"t1": 2}]


async def test_an_answer_about_an_older_attempt_does_not_lose_a_later_one() -> None:
    lost: list[str] = []

    async def claimed_again(_: Mapping[str, int]) -> frozenset[str]:
        keeper.drop("t1", 1)
        keeper.hold(attempt("t1", 2))
        return frozenset({"t1"})

    renewals = Renewals(claimed_again)
    keeper = keeper_of(renewals, lost)
    keeper.hold(attempt("t1", 1))
    await keeper.renew()
    assert lost == []


async def test_an_attempt_dropped_while_redis_thinks_is_not_held_again() -> None:
    async def dropped(_: Mapping[str, int]) -> frozenset[str]:
        keeper.drop("t1", 1)
        return frozenset()

    renewals = Renewals(dropped)
    keeper = keeper_of(renewals, [])
    keeper.hold(attempt())
    assert await keeper.renew()
    assert await keeper.renew()
    assert len(renewals.asked) == 1


def refused_then_stalled() -> Answer:
    """The worst moment: it still refuses just before the time to give up, then the next question hangs."""
    until = time.monotonic() + LEASE * 0.79

    async def answer(attempts: Mapping[str, int]) -> frozenset[str]:
        return await (away if time.monotonic() < until else stalled)(attempts)

    return answer


@pytest.mark.parametrize(
    "answer", [lambda: away, lambda: stalled, refused_then_stalled], ids=["away", "stalled", "both"]
)
async def test_what_cannot_be_renewed_is_given_up_before_the_lease_ends(answer: Callable[[], Answer]) -> None:
    """With a Redis that first refused and then hung, it was given up only after the end of the lease."""
    given_up: list[float] = []

    def note(_: str, told: bool) -> None:
        assert not told
        given_up.append(time.monotonic())

    renewals = Renewals(answer())
    keeper = LeaseKeeper(cast("Queue", renewals), "s1", lease=LEASE, on_lost=note)
    began_at = time.monotonic()
    keeper.hold(attempt())
    async with Loops(lambda _: None) as loops:
        loops.start("leases", lambda: keeper.run(loops))
        await wait_until(lambda: bool(given_up), "the lease is given up")
    after = given_up[0] - began_at
    assert LEASE * 0.5 < after < LEASE
    assert len(renewals.asked) > 1  # it tried more than once


async def test_a_redis_that_comes_back_in_time_costs_nothing() -> None:
    lost: list[str] = []
    renewals = Renewals(away)
    keeper = keeper_of(renewals, lost)
    async with Loops(lambda _: None) as loops:
        keeper.hold(attempt())
        loops.start("leases", lambda: keeper.run(loops))
        await wait_until(lambda: len(renewals.asked) == 2, "two renewals failed")
        renewals.answer = all_fine
        await wait_until(lambda: len(renewals.asked) == 6, "renewals go on beyond the first lease")
    assert lost == []
