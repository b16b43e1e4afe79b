"""Which task next: an agent stays on what is in memory, and loads what is unserved, overdue or worth it."""

from collections.abc import Awaitable, Callable

from redis.asyncio import Redis

from comfy_shared.claims import Nothing
from comfy_shared.keys import Keys
from comfy_shared.models import Needs, Policy
from comfy_shared.needs import lane_of
from comfy_shared.queue import Queue
from comfy_shared.registry import Registry
from test.support.agents import Hand, advance
from test.support.builders import NEEDS_A, NEEDS_B, new_task

HandMaker = Callable[..., Awaitable[Hand]]
LOAD_MS, RUN_MS = 12_000, 8_000


async def put(queue: Queue, *needs: Needs, priority: int = 5) -> list[str]:
    tasks = [new_task(each, priority=priority) for each in needs]
    await queue.submit(tasks, queue_limit=1000)
    return [task.id for task in tasks]


async def work(queue: Queue, agent: Hand, needs: Needs, *, cold: bool) -> None:
    """The agent takes the next task, which is expected to be of this lane, and finishes it."""
    attempt = await agent.take()
    assert attempt.task.lane == lane_of(needs)
    await queue.complete(attempt, [], gpu_ms=RUN_MS + (LOAD_MS if cold else 0), cold=cold)


async def teach(queue: Queue, agent: Hand, *lanes: Needs) -> None:
    """Runs each lane cold and warm once, so that its costs are known; the last one stays in memory."""
    for needs in lanes:
        await put(queue, needs, needs, needs)
        await work(queue, agent, needs, cold=True)
        await work(queue, agent, needs, cold=False)
        await work(queue, agent, needs, cold=False)


async def test_an_agent_stays_on_its_lane_though_another_task_is_older(queue: Queue, hand: HandMaker) -> None:
    agent, other = await hand("gpu-1"), await hand("gpu-2")
    await teach(queue, agent, NEEDS_A)
    await teach(queue, other, NEEDS_B)
    await put(queue, NEEDS_B, NEEDS_A)
    await work(queue, agent, NEEDS_A, cold=False)
    await work(queue, other, NEEDS_B, cold=False)


async def test_a_lane_that_nobody_serves_is_loaded_at_once_by_an_idle_agent(queue: Queue, hand: HandMaker) -> None:
    agent = await hand()
    await teach(queue, agent, NEEDS_A)
    await put(queue, NEEDS_B)
    await work(queue, agent, NEEDS_B, cold=True)


async def test_an_idle_agent_waits_when_the_one_that_has_the_lane_will_be_sooner(queue: Queue, hand: HandMaker) -> None:
    agent, other = await hand("gpu-1"), await hand("gpu-2")
    await teach(queue, other, NEEDS_B)
    await teach(queue, agent, NEEDS_A)
    await put(queue, NEEDS_B)
    assert isinstance(await agent.claim(), Nothing), "one run (8 s) is not worth a load (12 s)"
    await put(queue, NEEDS_B)
    await work(queue, agent, NEEDS_B, cold=True)


async def test_priority_goes_before_memory(queue: Queue, hand: HandMaker) -> None:
    agent = await hand()
    await teach(queue, agent, NEEDS_A)
    await put(queue, NEEDS_A)
    await put(queue, NEEDS_B, priority=9)
    await work(queue, agent, NEEDS_B, cold=True)


async def test_a_lane_that_waits_too_long_is_overdue_and_goes_before_memory(
    queue: Queue, hand: HandMaker, redis: Redis, keys: Keys
) -> None:
    agent = await hand()
    await teach(queue, agent, NEEDS_A)
    await put(queue, NEEDS_B)
    await put(queue, NEEDS_A)
    await advance(redis, keys, 61)
    agent = await hand()  # its heartbeat lapsed meanwhile
    await work(queue, agent, NEEDS_B, cold=True)


async def test_after_a_load_the_agent_stays_until_the_lane_has_paid_for_it(
    queue: Queue, hand: HandMaker, redis: Redis, keys: Keys
) -> None:
    agent = await hand()
    await teach(queue, agent, NEEDS_A, NEEDS_B)
    await put(queue, NEEDS_A, NEEDS_A, NEEDS_A)
    await work(queue, agent, NEEDS_A, cold=True)  # 20 s of work pay for 12 s of load
    await put(queue, NEEDS_B)
    attempt = await agent.take()
    assert attempt.task.lane == lane_of(NEEDS_A)
    await queue.complete(attempt, [], gpu_ms=RUN_MS, cold=False)
    await advance(redis, keys, 100)
    await hand()
    await work(queue, agent, NEEDS_B, cold=True)  # paid, and overdue


async def test_two_lanes_stay_in_memory_once_that_was_observed(queue: Queue, hand: HandMaker) -> None:
    agent, other = await hand("gpu-1"), await hand("gpu-2")
    await teach(queue, agent, NEEDS_A, NEEDS_B)
    await put(queue, NEEDS_A)
    await work(queue, agent, NEEDS_A, cold=False)  # it still was in memory: two fit
    await teach(queue, other, Needs(classes=("Other",)))
    await put(queue, NEEDS_B)
    async with agent.listening() as ears:
        assert isinstance(await other.claim(), Nothing), "gpu-1 has it in memory"
        assert await ears.heard() == []
    await work(queue, agent, NEEDS_B, cold=False)


async def test_the_agent_that_has_the_lane_in_memory_is_woken_first(queue: Queue, hand: HandMaker) -> None:
    first, second = await hand("gpu-1"), await hand("gpu-2")
    await teach(queue, second, NEEDS_B)
    assert isinstance(await first.claim(), Nothing)
    assert isinstance(await second.claim(), Nothing)
    async with first.listening() as ears, second.listening() as others:
        await put(queue, NEEDS_B)
        assert (await ears.heard(), await others.heard()) == ([], ["wake"])


async def test_an_agent_that_is_gone_serves_its_lane_no_more(queue: Queue, hand: HandMaker) -> None:
    agent, other = await hand("gpu-1"), await hand("gpu-2")
    await teach(queue, agent, NEEDS_A)
    await teach(queue, other, NEEDS_B)
    await agent.registry.deregister("gpu-1", "s1")
    await put(queue, NEEDS_A)
    await work(queue, other, NEEDS_A, cold=True)


async def test_the_policy_can_be_switched_to_first_in_first_out(queue: Queue, hand: HandMaker) -> None:
    agent = await hand()
    await teach(queue, agent, NEEDS_A)
    await queue.set_policy(Policy.FIFO)
    await put(queue, NEEDS_B, NEEDS_A)
    await work(queue, agent, NEEDS_B, cold=True)
    await queue.set_policy(Policy.LANE)
    await work(queue, agent, NEEDS_A, cold=True)


async def test_a_lane_in_the_memory_of_an_agent_that_drains_is_nobodys(
    queue: Queue, registry: Registry, hand: HandMaker
) -> None:
    # Its tasks waited a minute and more for the warm agent, which claimed nothing, while another was idle.
    draining, other = await hand("gpu-1"), await hand("gpu-2")
    await teach(queue, draining, NEEDS_B)
    await teach(queue, other, NEEDS_A)
    await put(queue, NEEDS_B)
    assert isinstance(await other.claim(), Nothing)
    await registry.drain("gpu-1", on=True)
    await work(queue, other, NEEDS_B, cold=True)
