"""Leases that ran out, agents that are gone, tasks past their retention; time is the clock of Redis, moved forward."""

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from redis.asyncio import Redis

from comfy_shared.claims import Nothing
from comfy_shared.errors import LeaseLost, NotFound
from comfy_shared.keys import Keys
from comfy_shared.models import InputFile, Status
from comfy_shared.queue import Queue
from comfy_shared.registry import Registry
from test.support.agents import Hand, advance
from test.support.builders import NEEDS_A, new_task, problem

HandMaker = Callable[..., Awaitable[Hand]]
DAY = 86_400


async def pass_time(queue: Queue, seconds: float) -> dict[str, Status]:
    """Time goes by in steps of 5 s, each with a sweep, as with living balancers; what the sweeps put back."""
    found: dict[str, Status] = {}
    await queue.sweep()
    while seconds > 0:
        await advance(queue.redis, queue.keys, min(5, seconds))
        seconds -= 5
        found |= (await queue.sweep()).statuses
    return found


class TestLeases:
    async def test_a_lease_that_ran_out_puts_the_task_back_and_fences_the_holder(
        self, queue: Queue, hand: HandMaker
    ) -> None:
        agent = await hand()
        await queue.submit([new_task(), new_task()], queue_limit=10)
        attempt = await agent.take()
        assert await pass_time(queue, 10) == {}
        assert await pass_time(queue, 6) == {attempt.id: Status.PENDING}
        task = await queue.get(attempt.id)
        assert (task.attempt, task.position, task.error and task.error.code) == (1, 0, "agent_lost")
        assert await queue.held(agent.name) == ()
        with pytest.raises(LeaseLost):
            await queue.complete(attempt, [])
        await agent.register(takeover=False)
        assert (await agent.take()).number == 2

    async def test_the_last_attempt_fails_for_good(self, queue: Queue, hand: HandMaker) -> None:
        await queue.submit([new_task(max_attempts=1)], queue_limit=10)
        attempt = await (await hand()).take()
        assert await pass_time(queue, 20) == {attempt.id: Status.FAILED}
        assert await queue.redis.hget(queue.keys.task(attempt.id), "dead") == b"1"

    async def test_a_task_that_was_put_back_wakes_another_agent(self, queue: Queue, hand: HandMaker) -> None:
        await queue.submit([new_task()], queue_limit=10)
        await (await hand("gpu-1")).take()
        await queue.sweep()
        await pass_time(queue, 10)
        other = await hand("gpu-2")
        assert isinstance(await other.claim(), Nothing)
        async with other.listening() as ears:
            await pass_time(queue, 6)
            assert await ears.heard() == ["wake"]
        assert (await other.take()).number == 2

    async def test_the_next_lease_is_told(self, queue: Queue, hand: HandMaker) -> None:
        assert (await queue.sweep()).next_lease is None
        await queue.submit([new_task()], queue_limit=10)
        await (await hand()).take()
        told = (await queue.sweep()).next_lease
        assert told is not None
        assert 14 < told <= 15

    async def test_after_a_long_time_without_sweeps_holders_get_half_a_lease_to_renew(
        self, queue: Queue, hand: HandMaker
    ) -> None:
        """Redis was away, so nobody could renew: no attempt is charged."""
        agent = await hand()
        await queue.submit([new_task(), new_task()], queue_limit=10)
        kept, lost = await agent.take(), await agent.take()
        await queue.sweep()
        await advance(queue.redis, queue.keys, 60)
        swept = await queue.sweep()
        assert swept.statuses == {}
        assert swept.next_lease is not None
        assert 7 < swept.next_lease <= 7.5
        assert await queue.renew(agent.session, {kept.id: 1}) == frozenset()
        await advance(queue.redis, queue.keys, 7)
        await queue.sweep()
        await advance(queue.redis, queue.keys, 1)
        assert (await queue.sweep()).statuses == {lost.id: Status.PENDING}

    async def test_a_repeated_sweep_puts_nothing_back_twice(self, queue: Queue, hand: HandMaker) -> None:
        await queue.submit([new_task()], queue_limit=10)
        await (await hand()).take()
        await pass_time(queue, 20)
        assert await pass_time(queue, 20) == {}


class TestAgents:
    async def test_an_agent_is_forgotten_after_the_retention(
        self, queue: Queue, registry: Registry, redis: Redis, keys: Keys, hand: HandMaker
    ) -> None:
        agent = await hand()
        await queue.submit([new_task()], queue_limit=10)
        await agent.take()
        await agent.claim()
        await advance(redis, keys, 15 + 3590)
        await queue.sweep()
        assert [(known.record.id, known.alive) for known in await registry.agents()] == [("gpu-1", False)]
        await advance(redis, keys, 20)
        await queue.sweep()
        assert await registry.agents() == []
        for name in (keys.agents, keys.idle, keys.agent("gpu-1"), keys.verdicts_prefix + "gpu-1"):
            assert await redis.exists(name) == 0, name


class TestPurge:
    async def finish(self, queue: Queue, hand: HandMaker, **changes: Any) -> str:
        await queue.submit([new_task(**changes)], queue_limit=10)
        attempt = await (await hand()).take()
        await queue.complete(attempt, [])
        return attempt.id

    async def test_a_task_past_its_retention_leaves_nothing(
        self, queue: Queue, redis: Redis, keys: Keys, hand: HandMaker
    ) -> None:
        task_id = await self.finish(queue, hand, workflow="portrait", workflow_digest="d", labels={"team": "blüe"})
        indexes = ["all", "status:completed", "owner:ann", "workflow:portrait", "label:team=blüe"]
        for index in indexes:
            assert await redis.zscore(keys.index(index), task_id) is not None, index
        await advance(redis, keys, 6 * DAY)
        assert await queue.purge(input_retention_ms=DAY * 1000) == ((), (), ())
        await advance(redis, keys, 1 * DAY + 1)
        assert await queue.purge(input_retention_ms=DAY * 1000) == ((task_id,), (), (task_id,))
        with pytest.raises(NotFound):
            await queue.get(task_id)
        for index in indexes:
            assert await redis.exists(keys.index(index)) == 0, index
        assert await redis.exists(keys.story(task_id), keys.finished) == 0

    async def test_waiting_and_running_tasks_are_never_purged(
        self, queue: Queue, redis: Redis, keys: Keys, hand: HandMaker
    ) -> None:
        await queue.submit([new_task(), new_task()], queue_limit=10)
        running = await (await hand()).take()
        await advance(redis, keys, 30 * DAY)
        assert await queue.purge(input_retention_ms=1000) == ((), (), ())
        assert (await queue.get(running.id)).status is Status.RUNNING

    async def test_a_task_that_was_retried_by_hand_is_not_purged(
        self, queue: Queue, redis: Redis, keys: Keys, hand: HandMaker
    ) -> None:
        await queue.submit([new_task()], queue_limit=10)
        attempt = await (await hand()).take()
        await queue.fail(attempt, problem())
        await queue.retry(attempt.task, NEEDS_A, attempts=1, queue_limit=10)
        await advance(redis, keys, 30 * DAY)
        assert await queue.purge(input_retention_ms=1000) == ((), (), ())

    async def test_a_portion_is_at_most_the_limit(self, queue: Queue, redis: Redis, keys: Keys) -> None:
        tasks = [new_task() for _ in range(5)]
        await queue.submit(tasks, queue_limit=10)
        for task in tasks:
            await queue.cancel(task.id)
        await advance(redis, keys, 8 * DAY)
        sizes = [len((await queue.purge(input_retention_ms=1000, limit=2))[0]) for _ in range(4)]
        assert sizes == [2, 2, 1, 0]

    async def test_an_input_goes_when_no_task_names_it_any_more(
        self, queue: Queue, redis: Redis, keys: Keys, hand: HandMaker
    ) -> None:
        shared, unused = "a" * 64, "b" * 64
        clock = (await redis.time())[0] * 1000
        await redis.zadd(keys.inputs, {shared: clock, unused: clock})
        file = InputFile(node="1", input="image", sha256=shared, extension=".png", size=3)
        first = await self.finish(queue, hand, inputs=(file, file))
        waiting = new_task(inputs=(file,))
        await queue.submit([waiting], queue_limit=10)
        await advance(redis, keys, 8 * DAY)
        assert await queue.purge(input_retention_ms=DAY * 1000) == ((first,), (unused,), (first,))
        assert await redis.hget(keys.input_uses, shared) == b"1"
        await queue.cancel(waiting.id)
        await advance(redis, keys, 8 * DAY)
        assert await queue.purge(input_retention_ms=DAY * 1000) == ((waiting.id,), (), (waiting.id,))
        assert await redis.exists(keys.input_uses) == 0
        await advance(redis, keys, 2 * DAY)
        assert await queue.purge(input_retention_ms=DAY * 1000) == ((), (shared,), ())
