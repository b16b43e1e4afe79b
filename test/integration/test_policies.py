"""The policies to compare with: they bind a task to an agent when it comes; and more VRAM after a lack of it."""

from collections import Counter
from collections.abc import Awaitable, Callable
from typing import cast

import pytest
from redis.asyncio import Redis

from comfy_shared.claims import Nothing
from comfy_shared.keys import Keys
from comfy_shared.models import Policy
from comfy_shared.queue import Queue
from comfy_shared.registry import Device, Registry, Vitals
from test.support.agents import Hand, advance
from test.support.builders import NEEDS_A, NEEDS_B, agent_record, new_task, problem

HandMaker = Callable[..., Awaitable[Hand]]
EARLY = [Policy.ROUND_ROBIN, Policy.LEAST_LOADED, Policy.WEIGHTED_ROUND_ROBIN]
GIB = 1024**3


async def put(queue: Queue, number: int) -> list[str]:
    tasks = [new_task() for _ in range(number)]
    await queue.submit(tasks, queue_limit=1000)
    return [task.id for task in tasks]


async def bound(queue: Queue) -> Counter[str]:
    """How many waiting tasks are bound to each agent."""
    found = Counter[str]()
    for raw in cast("list[bytes]", await queue.redis.zrange(queue.keys.queue, 0, -1)):
        agent = cast("bytes | None", await queue.redis.hget(queue.keys.task(raw.decode()), "assigned"))
        found[agent.decode() if agent else ""] += 1
    return found


@pytest.mark.parametrize("policy", EARLY)
async def test_tasks_are_spread_when_they_come(queue: Queue, hand: HandMaker, policy: Policy) -> None:
    await queue.set_policy(policy)
    for number in range(3):
        await hand(f"gpu-{number}")
    await put(queue, 9)
    assert await bound(queue) == {"gpu-0": 3, "gpu-1": 3, "gpu-2": 3}


@pytest.mark.parametrize("policy", EARLY)
async def test_an_agent_takes_only_what_is_bound_to_it(queue: Queue, hand: HandMaker, policy: Policy) -> None:
    await queue.set_policy(policy)
    first, second = await hand("gpu-1"), await hand("gpu-2")
    ids = await put(queue, 2)
    taken = [(await first.take()).id, (await second.take()).id]
    assert sorted(taken) == ids
    assert isinstance(await first.claim(), Nothing)
    assert not await queue.redis.exists(queue.keys.assigned_prefix + "gpu-1", queue.keys.assigned_prefix + "gpu-2")


async def test_the_least_loaded_agent_is_given_the_task(queue: Queue, hand: HandMaker) -> None:
    await queue.set_policy(Policy.LEAST_LOADED)
    busy = await hand("gpu-1")
    await put(queue, 2)
    await busy.take()
    await hand("gpu-2")
    await put(queue, 2)
    assert await bound(queue) == {"gpu-1": 1, "gpu-2": 2}


async def test_free_memory_weighs(queue: Queue, registry: Registry) -> None:
    await queue.set_policy(Policy.WEIGHTED_ROUND_ROBIN)
    for name, free in (("small", 8 * GIB), ("large", 24 * GIB)):
        vitals = Vitals(vram_free=free)
        await registry.register(agent_record(name), vitals, session="s", offer=None, takeover=True)
    await put(queue, 8)
    assert await bound(queue) == {"small": 2, "large": 6}


async def test_an_idle_agent_hears_of_what_is_bound_to_it(queue: Queue, hand: HandMaker) -> None:
    await queue.set_policy(Policy.ROUND_ROBIN)
    agent = await hand()
    assert isinstance(await agent.claim(), Nothing)
    async with agent.listening() as ears:
        await put(queue, 1)
        assert await ears.heard() == ["wake"]


async def test_what_an_agent_cannot_serve_goes_to_another(queue: Queue, hand: HandMaker) -> None:
    await queue.set_policy(Policy.ROUND_ROBIN)
    only_b, both = await hand("gpu-1", serves=[NEEDS_B]), await hand("gpu-2")
    await put(queue, 4)
    assert isinstance(await only_b.claim(), Nothing)
    assert await bound(queue) == {"gpu-2": 4}
    await both.take()


@pytest.mark.parametrize("how", ["lapses", "drains"])
async def test_what_is_bound_to_an_agent_that_is_gone_is_bound_anew(
    queue: Queue, hand: HandMaker, redis: Redis, keys: Keys, how: str
) -> None:
    await queue.set_policy(Policy.ROUND_ROBIN)
    await hand("gpu-1")
    await put(queue, 4)
    if how == "lapses":
        await advance(redis, keys, 16)
    other = await hand("gpu-2")
    if how == "drains":
        await other.registry.drain("gpu-1", on=True)
    await queue.sweep()
    assert await bound(queue) == {"gpu-2": 4}


async def test_a_switch_leaves_no_task_behind(queue: Queue, hand: HandMaker) -> None:
    agent = await hand()
    await put(queue, 2)
    await queue.set_policy(Policy.ROUND_ROBIN)
    assert isinstance(await agent.claim(), Nothing)
    await queue.sweep()
    await agent.take()
    await queue.set_policy(Policy.LANE)
    await agent.take()
    assert await queue.redis.zcard(queue.keys.queue) == 0


async def roomy(registry: Registry, queue: Queue, name: str, vram: int) -> Hand:
    record = agent_record(name, devices=(Device(name=name, type="cuda", vram_total=vram),))
    await registry.register(record, Vitals(), session="s1", offer=None, takeover=True)
    return Hand(queue, registry, name)


async def test_after_out_of_memory_an_agent_with_more_vram_goes_first(
    queue: Queue, registry: Registry, redis: Redis, keys: Keys
) -> None:
    small = await roomy(registry, queue, "small", 8 * GIB)
    alike = await roomy(registry, queue, "alike", 8 * GIB)
    (task_id,) = await put(queue, 1)
    attempt = await small.take()
    large = await roomy(registry, queue, "large", 24 * GIB)
    for agent in (alike, large):
        assert isinstance(await agent.claim(), Nothing)
    async with alike.listening() as ears, large.listening() as others:
        await queue.try_again(attempt, problem("out_of_memory"))
        assert (await ears.heard(), await others.heard()) == ([], ["wake"])
    assert isinstance(await alike.claim(), Nothing)
    await advance(redis, keys, 12)  # longer than it is avoided
    assert isinstance(await small.claim(), Nothing)
    assert (await large.take()).id == task_id


async def test_without_a_roomier_agent_any_other_tries(
    queue: Queue, registry: Registry, redis: Redis, keys: Keys
) -> None:
    small, alike = await roomy(registry, queue, "small", 8 * GIB), await roomy(registry, queue, "alike", 8 * GIB)
    large = await roomy(registry, queue, "large", 24 * GIB)
    (task_id,) = await put(queue, 1)
    attempt = await small.take()
    await queue.try_again(attempt, problem("out_of_memory"))
    await large.registry.deregister("large", "s1")
    assert (await alike.take()).id == task_id
    assert attempt.task.lane == new_task(NEEDS_A).lane
