"""Hostile or broken bytes under the keys of one task, lane or agent: it is set aside, everything else goes on.

Each of these stopped every claim, sweep or renewal of the namespace at first: the script failed on the broken record
again and again.
"""

from collections.abc import Awaitable, Callable
from typing import cast

import pytest
from redis.asyncio import Redis

from comfy_shared.claims import Attempt, BrokenAttempt, Idempotency, Nothing, Unregistered
from comfy_shared.errors import Damaged, LeaseLost
from comfy_shared.keys import Keys
from comfy_shared.models import EventType, Status
from comfy_shared.needs import lane_of
from comfy_shared.queue import Queue
from test.support.agents import Hand, advance
from test.support.builders import NEEDS_A, NEEDS_B, new_task, problem

HandMaker = Callable[..., Awaitable[Hand]]
DEEP = b"[" * 100_000
DAY = 86_400

# What no transition can work with: field → bytes (None: the field is missing).
UNSOUND: list[dict[str, bytes | None]] = [
    {"id": None},
    {"id": b"another"},
    {"owner": None},
    {"lane": None},
    {"attempt": b"x"},
    {"attempt": b"1.5"},
    {"attempt": b"9" * 40},
    {"max_attempts": None},
    {"created_at": b"nan"},
    {"order": b"\xff"},
    {"events": b"-1"},
    {"priority": b"high"},
    {"crashes": b"many"},
    {"avoid": b"gpu-1", "avoid_until": b"soon"},
]
# What the transitions never look at, but Python cannot read.
UNREADABLE: list[dict[str, bytes | None]] = [
    {"parameters": b"{"},
    {"parameters": b'{"a":' + DEEP},
    {"labels": b"[1]"},
    {"timeout": b"long"},
    {"workflow": b"\xff\xfe"},
]


async def spoil(redis: Redis, key: str, fields: dict[str, bytes | None]) -> None:
    for name, value in fields.items():
        await (redis.hdel(key, name) if value is None else redis.hset(key, name, value))


async def wrong_type(redis: Redis, key: str) -> None:
    await redis.delete(key)
    await redis.set(key, b"\x00\xff garbage")


async def clear_indexes(queue: Queue, task_id: str) -> None:
    """The purge reads in the record which indexes name the task; what it could not read stays there as a bare name."""
    assert await queue.redis.zscore(queue.keys.index("all"), task_id) is None
    for index in (queue.keys.index("owner", "ann"), queue.keys.index("status", "pending")):
        await queue.redis.zrem(index, task_id)


async def story_of(queue: Queue, task_id: str) -> list[str]:
    """Number and kind of each event."""
    lines = cast("list[bytes]", await queue.redis.lrange(queue.keys.story(task_id), 0, -1))
    return [" ".join(line.decode().split()[:2]) for line in lines]


async def two_waiting(queue: Queue) -> tuple[str, str]:
    """A task to spoil and a good one behind it in the same lane."""
    bad, good = new_task(), new_task()
    await queue.submit([bad, good], queue_limit=10)
    return bad.id, good.id


class TestWaitingTask:
    @pytest.mark.parametrize("fields", UNSOUND, ids=str)
    async def test_an_unsound_record_is_set_aside_and_purged(
        self, queue: Queue, hand: HandMaker, fields: dict[str, bytes | None]
    ) -> None:
        bad, good = await two_waiting(queue)
        await hand("gpu-2")  # so that gpu-1 is not alone, and `avoid` counts
        await spoil(queue.redis, queue.keys.task(bad), fields)
        agent = await hand("gpu-1")
        assert (await agent.take()).id == good
        assert await queue.redis.zscore(queue.keys.damaged, f"task:{bad}") is not None
        assert await queue.redis.zscore(queue.keys.queue, bad) is None
        with pytest.raises(Damaged):
            await queue.cancel(bad)
        await advance(queue.redis, queue.keys, 8 * DAY)
        assert (await queue.purge(input_retention_ms=DAY))[0] == (bad,)
        assert await queue.redis.exists(queue.keys.task(bad), queue.keys.story(bad)) == 0
        await clear_indexes(queue, bad)

    async def test_a_record_of_the_wrong_type_is_set_aside(self, queue: Queue, hand: HandMaker) -> None:
        bad, good = await two_waiting(queue)
        await wrong_type(queue.redis, queue.keys.task(bad))
        assert (await (await hand()).take()).id == good
        await advance(queue.redis, queue.keys, 8 * DAY)
        assert (await queue.purge(input_retention_ms=DAY))[0] == (bad,)
        await clear_indexes(queue, bad)

    async def test_a_story_of_the_wrong_type_is_told_from_there_on(self, queue: Queue, hand: HandMaker) -> None:
        task, _ = await two_waiting(queue)
        await wrong_type(queue.redis, queue.keys.story(task))
        agent = await hand()
        attempt = await agent.take()
        assert attempt.id == task
        await queue.complete(attempt, [])
        assert await story_of(queue, task) == ["2 claimed", "3 completed"]

    async def test_a_count_that_lags_behind_the_story_does_not_number_twice(
        self, queue: Queue, hand: HandMaker
    ) -> None:
        task, _ = await two_waiting(queue)
        await spoil(queue.redis, queue.keys.task(task), {"events": b"0"})
        agent = await hand()
        await queue.complete(await agent.take(), [])
        assert await story_of(queue, task) == ["1 queued", "2 claimed", "3 completed"]

    async def test_a_key_of_the_wrong_type_reads_as_damaged(self, queue: Queue) -> None:
        bad, _ = await two_waiting(queue)
        await wrong_type(queue.redis, queue.keys.task(bad))
        with pytest.raises(Damaged):
            await queue.get(bad)
        with pytest.raises(Damaged):
            await queue.cancel(bad)

    @pytest.mark.parametrize("fields", UNREADABLE, ids=lambda fields: str(fields)[:30])
    async def test_a_record_that_python_cannot_read_can_be_failed(
        self, queue: Queue, hand: HandMaker, fields: dict[str, bytes | None]
    ) -> None:
        bad, good = await two_waiting(queue)
        await spoil(queue.redis, queue.keys.task(bad), fields)
        with pytest.raises(Damaged):
            await queue.get(bad)
        agent = await hand()
        reply = await agent.claim()
        assert isinstance(reply, BrokenAttempt)
        assert (reply.id, reply.number) == (bad, 1)
        await queue.fail(reply, problem("damaged"))
        assert await queue.redis.hget(queue.keys.task(bad), "status") == b"failed"
        assert (await agent.take()).id == good

    async def test_a_name_in_a_lane_without_a_record_is_dropped(self, queue: Queue, hand: HandMaker) -> None:
        _, good = await two_waiting(queue)
        lane = lane_of(NEEDS_A)
        await queue.redis.zadd(queue.keys.lane_prefix + lane, {b"\xff\x00ghost": 1})
        agent = await hand()
        assert (await agent.take()).id != good
        assert (await agent.take()).id == good


class TestRunningTask:
    @pytest.mark.parametrize("fields", UNSOUND, ids=str)
    async def test_an_unsound_record_does_not_stop_the_sweep(
        self, queue: Queue, hand: HandMaker, fields: dict[str, bytes | None]
    ) -> None:
        agent = await hand()
        bad, good = await self.two_running(queue, agent)
        await spoil(queue.redis, queue.keys.task(bad.id), fields)
        await self.run_out(queue)
        assert (await queue.sweep()).statuses == {good.id: Status.PENDING}
        assert await queue.redis.zscore(queue.keys.damaged, f"task:{bad.id}") is not None
        assert await queue.held(agent.name) == ()

    async def test_a_record_of_the_wrong_type_harms_its_own_attempt_only(self, queue: Queue, hand: HandMaker) -> None:
        agent = await hand()
        bad, good = await self.two_running(queue, agent)
        await wrong_type(queue.redis, queue.keys.task(bad.id))
        assert good.id not in await queue.renew(agent.session, {bad.id: 1, good.id: 1})
        for call in (
            queue.report(bad, EventType.STARTED, {}),
            queue.complete(bad, []),
            queue.fail(bad, problem()),
            queue.release(bad, "test"),
        ):
            with pytest.raises(LeaseLost):
                await call
        assert await queue.adopt(agent.name, "s2", bad.id) is None
        await self.run_out(queue)
        assert (await queue.sweep()).statuses == {good.id: Status.PENDING}

    async def two_running(self, queue: Queue, agent: Hand) -> tuple[Attempt, Attempt]:
        await two_waiting(queue)
        return await agent.take(), await agent.take()

    async def run_out(self, queue: Queue) -> None:
        for _ in range(4):
            await queue.redis.set(queue.keys.swept, 2**52)  # nobody was away
            await advance(queue.redis, queue.keys, 5)

    async def test_a_retry_by_hand_of_a_broken_task_is_refused(self, queue: Queue, hand: HandMaker) -> None:
        attempt, _ = await self.two_running(queue, await hand())
        await queue.fail(attempt, problem())
        await spoil(queue.redis, queue.keys.task(attempt.id), {"order": b"x"})
        with pytest.raises(Damaged):
            await queue.retry(attempt.task, NEEDS_A, attempts=1, queue_limit=10)


class TestOthers:
    async def test_needs_that_cannot_be_read_are_tried(self, queue: Queue, hand: HandMaker) -> None:
        for content in (b"{", DEEP, b"\xff"):
            task = new_task()
            await queue.submit([task], queue_limit=10)
            await queue.redis.set(queue.keys.needs_prefix + task.lane, content)
            assert (await (await hand()).take()).id == task.id

    async def test_needs_and_lanes_of_the_wrong_type_do_not_stop_others(self, queue: Queue, hand: HandMaker) -> None:
        await queue.submit([new_task(NEEDS_A)], queue_limit=10)
        good = new_task(NEEDS_B)
        await queue.submit([good], queue_limit=10)
        for prefix in (queue.keys.needs_prefix, queue.keys.lane_prefix):
            await queue.redis.delete(prefix + lane_of(NEEDS_A))
            await queue.redis.hset(prefix + lane_of(NEEDS_A), "x", "y")
        assert (await (await hand()).take()).id == good.id
        await queue.redis.zadd(queue.keys.idle, {"gpu-1": 1})
        await queue.sweep()

    @pytest.mark.parametrize("prefix", ["agent_prefix", "verdicts_prefix", "held_prefix"])
    async def test_an_agent_with_broken_keys_works_again_after_it_registered(
        self, queue: Queue, hand: HandMaker, prefix: str
    ) -> None:
        agent = await hand()
        await queue.submit([new_task(), new_task()], queue_limit=10)
        await agent.take()
        await wrong_type(queue.redis, getattr(queue.keys, prefix) + agent.name)
        await queue.redis.zadd(queue.keys.idle, {agent.name: 1})
        await queue.submit([new_task()], queue_limit=10)
        if isinstance(await queue.claim(agent.name, agent.session, prompt_id="p"), Unregistered):
            assert not await agent.register(takeover=False)
        await agent.take()
        await queue.redis.delete(queue.keys.held(agent.name))

    async def test_held_of_the_wrong_type_does_not_stop_a_sweep(self, queue: Queue, hand: HandMaker) -> None:
        agent = await hand()
        await queue.submit([new_task()], queue_limit=10)
        attempt = await agent.take()
        await wrong_type(queue.redis, queue.keys.held(agent.name))
        await TestRunningTask().run_out(queue)
        assert (await queue.sweep()).statuses == {attempt.id: Status.PENDING}
        await queue.redis.delete(queue.keys.held(agent.name))

    async def test_a_broken_time_of_the_last_sweep_is_replaced(self, queue: Queue) -> None:
        await queue.redis.set(queue.keys.swept, b"yesterday")
        await queue.sweep()
        assert int(await queue.redis.get(queue.keys.swept) or 0) > 0

    async def test_a_broken_idempotency_record_is_replaced(self, queue: Queue) -> None:
        idempotency = Idempotency(owner="ann", key="k", fingerprint="f")
        key = queue.keys.idempotency("ann", "k")
        for content in (b"", b"\xc1", b"\x93", b"\x01"):
            await queue.redis.set(key, content)
            task = new_task()
            assert not (await queue.submit([task], queue_limit=10, idempotency=idempotency)).known
            again = await queue.submit([new_task()], queue_limit=10, idempotency=idempotency)
            assert again.ids == (task.id,)

    async def test_ghosts_among_the_idle_and_the_leases_are_dropped(
        self, queue: Queue, redis: Redis, keys: Keys, hand: HandMaker
    ) -> None:
        await redis.zadd(keys.idle, {b"\xff": 1})
        await redis.zadd(keys.leases, {b"\xff": 1})
        await queue.submit([new_task()], queue_limit=10)
        await queue.sweep()
        await TestRunningTask().run_out(queue)
        await queue.sweep()
        assert await redis.exists(keys.idle, keys.leases) == 0
        agent = await hand()
        await agent.take()
        assert isinstance(await agent.claim(), Nothing)
