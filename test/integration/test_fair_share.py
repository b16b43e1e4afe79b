"""Whose turn it is: fair share between owners within a lane, limits of one owner, priorities and their ageing."""

from collections.abc import Awaitable, Callable

import pytest
from redis.asyncio import Redis

from comfy_shared.claims import Attempt, Nothing
from comfy_shared.errors import QueueFull
from comfy_shared.keys import Keys
from comfy_shared.models import Needs
from comfy_shared.queue import Queue
from comfy_shared.settings import SharedSettings
from test.support.agents import Hand, advance
from test.support.builders import NEEDS_A, NEEDS_B, new_task

HandMaker = Callable[..., Awaitable[Hand]]
HOUR = 3600


async def put(queue: Queue, owner: str, number: int = 1, *, needs: Needs = NEEDS_A, priority: int = 5) -> list[str]:
    tasks = [new_task(needs, owner=owner, priority=priority) for _ in range(number)]
    await queue.submit(tasks, queue_limit=1000)
    return [task.id for task in tasks]


async def work(queue: Queue, agent: Hand, *, gpu_ms: int = 8000) -> str:
    """The agent takes the next task and finishes it; whose it was."""
    attempt = await agent.take()
    await queue.complete(attempt, [], gpu_ms=gpu_ms, cold=False)
    return attempt.task.owner


async def test_an_owner_who_floods_a_lane_does_not_keep_others_out(queue: Queue, hand: HandMaker) -> None:
    agent = await hand()
    await put(queue, "flooder", 20)
    assert await work(queue, agent) == "flooder"
    await put(queue, "ann", 3)
    await put(queue, "bob", 3)
    owners = [await work(queue, agent) for _ in range(8)]
    assert owners[:2] == ["ann", "bob"], "they used no GPU yet"
    assert sorted(owners) == ["ann"] * 3 + ["bob"] * 3 + ["flooder"] * 2


async def test_the_share_is_of_gpu_time_not_of_tasks(queue: Queue, hand: HandMaker) -> None:
    agent = await hand()
    await put(queue, "long", 10)
    await put(queue, "short", 10)
    owners = [await work(queue, agent, gpu_ms=8000)]
    for _ in range(5):
        attempt = await agent.take()
        owners.append(attempt.task.owner)
        await queue.complete(attempt, [], gpu_ms=8000 if attempt.task.owner == "long" else 2000, cold=False)
    assert owners == ["long", "short", "short", "short", "short", "long"]


async def test_what_an_owner_runs_now_counts_already(queue: Queue, hand: HandMaker) -> None:
    agents = [await hand(f"gpu-{number}") for number in range(1, 5)]
    await put(queue, "ann", 4)
    await put(queue, "bob", 4)
    owners = [(await agent.take()).task.owner for agent in agents]
    assert sorted(owners) == ["ann", "ann", "bob", "bob"]


async def test_old_use_is_forgotten(queue: Queue, hand: HandMaker, redis: Redis, keys: Keys) -> None:
    agent = await hand()
    await put(queue, "night", 1)
    await work(queue, agent, gpu_ms=HOUR * 1000)
    await advance(redis, keys, 12 * HOUR)
    agent = await hand(session="s2")
    await put(queue, "day", 1)
    await work(queue, agent, gpu_ms=60_000)
    await put(queue, "day", 1)
    await put(queue, "night", 1)
    assert await work(queue, agent) == "night", "an hour of last night counts for a second now"


async def test_priority_goes_before_fair_share(queue: Queue, hand: HandMaker) -> None:
    agent = await hand()
    await put(queue, "heavy")
    await work(queue, agent, gpu_ms=HOUR * 1000)
    await put(queue, "light", 1)
    await put(queue, "heavy", 1, priority=9)
    assert [await work(queue, agent), await work(queue, agent)] == ["heavy", "light"]


async def test_what_waits_long_rises_by_a_level_an_hour(
    queue: Queue, hand: HandMaker, redis: Redis, keys: Keys
) -> None:
    agent = await hand()
    await put(queue, "low", 1, priority=3)
    await advance(redis, keys, 2.5 * HOUR)
    agent = await hand(session="s2")
    await put(queue, "high", 1, priority=6)
    await put(queue, "even", 1, priority=5)
    assert [await work(queue, agent) for _ in range(3)] == ["high", "low", "even"]


async def test_a_lane_of_low_priority_is_not_starved_for_ever(
    queue: Queue, hand: HandMaker, redis: Redis, keys: Keys
) -> None:
    agent = await hand()
    await put(queue, "low", 1, needs=NEEDS_B, priority=0)
    await put(queue, "high", 1, priority=9)
    assert await work(queue, agent) == "high"
    await put(queue, "high", 1, priority=9)
    assert await work(queue, agent) == "high"
    await advance(redis, keys, 9.5 * HOUR)
    agent = await hand(session="s2")
    await put(queue, "high", 1, priority=9)
    assert await work(queue, agent) == "low"


async def test_equal_tasks_stay_in_order_though_the_clock_stands(queue: Queue, hand: HandMaker) -> None:
    agent = await hand()
    ids = await put(queue, "ann", 50)
    for expected in ids:
        attempt = await agent.take()
        assert attempt.id == expected
        await queue.complete(attempt, [])


async def test_an_owner_may_have_only_so_many_tasks_waiting(queue: Queue, hand: HandMaker) -> None:
    async def submit(owner: str, number: int) -> None:
        await queue.submit([new_task(owner=owner) for _ in range(number)], queue_limit=1000, owner_limit=3)

    await submit("ann", 2)
    with pytest.raises(QueueFull, match="2 tasks of ann wait already; the limit is 3"):
        await submit("ann", 2)
    await submit("bob", 3)
    await submit("ann", 1)
    agent = await hand()
    await agent.take()
    await submit("ann", 1)
    with pytest.raises(QueueFull):
        await submit("ann", 1)


async def test_an_owner_may_have_only_so_many_tasks_running(
    queue: Queue, redis: Redis, keys: Keys, settings: SharedSettings, hand: HandMaker
) -> None:
    queue.running_limit = 2
    agents = [await hand(f"gpu-{number}") for number in range(1, 5)]
    await put(queue, "ann", 4)
    running = [await agents[0].take(), await agents[1].take()]
    assert isinstance(await agents[2].claim(), Nothing)
    await put(queue, "bob", 1)
    assert (await agents[2].take()).task.owner == "bob"
    assert isinstance(await agents[3].claim(), Nothing)
    await queue.complete(running[0], [])
    reply = await agents[3].claim()
    assert isinstance(reply, Attempt)
    assert reply.task.owner == "ann"
    await queue.cancel(reply.id)
    assert (await agents[0].take()).task.owner == "ann", "a canceled one does not count"
