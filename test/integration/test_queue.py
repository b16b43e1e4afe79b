"""Submitting, waking and claiming, on a real Redis."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from redis.asyncio import Redis

from comfy_shared.claims import Attempt, Draining, Idempotency, Nothing, Submitted, UnknownLanes, Unregistered
from comfy_shared.errors import IdempotencyConflict, InvalidTask, NotFound, QueueFull
from comfy_shared.keys import Keys
from comfy_shared.models import InputFile, Needs, NewTask, Status
from comfy_shared.queue import Queue
from comfy_shared.registry import Registry, Vitals, pack_offer
from test.support.agents import Hand, advance
from test.support.builders import NEEDS_A, NEEDS_B, agent_record, new_task, problem

HandMaker = Callable[..., Awaitable[Hand]]
INPUT = InputFile(node="1", input="image", sha256="a" * 64, extension=".png", size=3)


async def submit(queue: Queue, *tasks: NewTask, limit: int = 1000, idempotency: Idempotency | None = None) -> Submitted:
    return await queue.submit(tasks, queue_limit=limit, idempotency=idempotency)


async def claimed_ids(hand: Hand, count: int) -> list[str]:
    return [(await hand.take()).id for _ in range(count)]


class TestSubmit:
    async def test_a_task_is_kept_as_it_was_given(self, queue: Queue) -> None:
        task = new_task(
            priority=7,
            workflow="portrait",
            workflow_digest="d1",
            parameters={"text": "Grüße, \x00 🎨", "seed": 2**63, "steps": 20},
            labels={"team": "blue"},
            timeout=0.1,
            max_attempts=2,
        )
        submitted = await submit(queue, task)
        kept = await queue.get(task.id)
        assert kept.created_at == submitted.created_at > 0
        assert kept.prompt == task.prompt
        for field in ("owner", "lane", "priority", "workflow", "workflow_digest", "parameters", "labels", "timeout"):
            assert getattr(kept, field) == getattr(task, field), field
        assert (kept.status, kept.attempt, kept.max_attempts, kept.position) == (Status.PENDING, 0, 2, 0)

    async def test_higher_priority_goes_first_then_first_in_first_out(self, queue: Queue, hand: HandMaker) -> None:
        """The positions tell the same order as the claims."""
        tasks = [new_task(priority=priority) for priority in (5, 0, 9, 5, 9, 1)]
        for task in tasks:
            await submit(queue, task)
        wanted = [tasks[index].id for index in (2, 4, 0, 3, 5, 1)]
        positions = {task.id: (await queue.get(task.id)).position for task in tasks}
        assert sorted(positions, key=lambda task_id: positions[task_id] or 0) == wanted
        assert sorted(position for position in positions.values() if position is not None) == list(range(6))
        assert await claimed_ids(await hand(), 6) == wanted

    async def test_the_order_holds_across_lanes(self, queue: Queue, hand: HandMaker) -> None:
        tasks = [new_task(needs, priority=p) for needs, p in ((NEEDS_A, 5), (NEEDS_B, 9), (NEEDS_A, 9), (NEEDS_B, 5))]
        await submit(queue, *tasks)
        assert await claimed_ids(await hand(), 4) == [tasks[index].id for index in (1, 2, 0, 3)]

    async def test_a_batch_tells_the_position_of_each(self, queue: Queue) -> None:
        first = await submit(queue, new_task(), new_task(priority=9), new_task())
        assert (first.known, first.positions) == (False, (0, 0, 2))

    async def test_all_or_none_are_accepted_at_the_limit(self, queue: Queue) -> None:
        await submit(queue, new_task(), limit=3)
        batch = [new_task() for _ in range(3)]
        with pytest.raises(QueueFull, match="1 tasks wait already; the limit is 3"):
            await submit(queue, *batch, limit=3)
        for task in batch:
            with pytest.raises(NotFound):
                await queue.get(task.id)
        await submit(queue, *batch[:2], limit=3)

    async def test_running_tasks_do_not_count_for_the_limit(self, queue: Queue, hand: HandMaker) -> None:
        await submit(queue, new_task(), limit=1)
        await (await hand()).take()
        assert not (await submit(queue, new_task(), limit=1)).known

    async def test_the_same_id_again_is_known_and_not_queued_twice(self, queue: Queue, hand: HandMaker) -> None:
        """As after a lost reply: the client library repeats the call."""
        tasks = [new_task(), new_task()]
        await submit(queue, *tasks)
        again = await submit(queue, *tasks)
        assert (again.known, again.ids) == (True, tuple(task.id for task in tasks))
        agent = await hand()
        await claimed_ids(agent, 2)
        assert isinstance(await agent.claim(), Nothing)

    async def test_an_idempotency_key_gives_the_ids_of_the_first_call(self, queue: Queue) -> None:
        key = Idempotency(owner="ann", key="k", fingerprint="f")
        first = await submit(queue, new_task(), new_task(), idempotency=key)
        again = await submit(queue, new_task(), new_task(), idempotency=key)
        assert (first.known, again.known) == (False, True)
        assert again.ids == first.ids
        assert await queue.redis.zcard(queue.keys.queue) == 2

    async def test_an_idempotency_key_with_another_body_is_a_conflict(self, queue: Queue) -> None:
        await submit(queue, new_task(), idempotency=Idempotency(owner="ann", key="k", fingerprint="f"))
        with pytest.raises(IdempotencyConflict):
            await submit(queue, new_task(), idempotency=Idempotency(owner="ann", key="k", fingerprint="g"))

    async def test_an_idempotency_key_belongs_to_its_owner(self, queue: Queue) -> None:
        for owner in ("ann", "bob"):
            key = Idempotency(owner=owner, key="k", fingerprint="f")
            assert not (await submit(queue, new_task(), idempotency=key)).known

    async def test_a_refused_submit_does_not_use_up_its_idempotency_key(self, queue: Queue) -> None:
        key = Idempotency(owner="ann", key="k", fingerprint="f")
        with pytest.raises(QueueFull):
            await submit(queue, new_task(), limit=0, idempotency=key)
        assert not (await submit(queue, new_task(), idempotency=key)).known

    async def test_50_equal_submits_at_once_make_one_task(self, queue: Queue) -> None:
        key = Idempotency(owner="ann", key="k", fingerprint="f")
        answers = await asyncio.gather(*(submit(queue, new_task(), idempotency=key) for _ in range(50)))
        assert sum(not answer.known for answer in answers) == 1
        assert len({answer.ids for answer in answers}) == 1

    async def test_a_missing_input_file_is_named_and_nothing_is_queued(self, queue: Queue) -> None:
        good, bad = new_task(), new_task(inputs=(INPUT,))
        with pytest.raises(InvalidTask, match="a" * 64):
            await submit(queue, good, bad)
        assert await queue.redis.zcard(queue.keys.queue) == 0

    async def test_an_input_file_is_counted_once_per_use(self, queue: Queue, redis: Redis, keys: Keys) -> None:
        await redis.zadd(keys.inputs, {INPUT.sha256: 1})
        await submit(queue, new_task(inputs=(INPUT,)), new_task(inputs=(INPUT, INPUT)))
        assert await redis.hget(keys.input_uses, INPUT.sha256) == b"3"


class TestWake:
    async def idle(self, hand: Hand) -> None:
        assert isinstance(await hand.claim(), Nothing)

    async def test_one_submit_wakes_one_idle_agent_once(self, queue: Queue, hand: HandMaker) -> None:
        """The one that has been idle longest."""
        first, second = await hand("gpu-1"), await hand("gpu-2")
        await self.idle(first)
        await advance(queue.redis, queue.keys, 1)
        await self.idle(second)
        async with first.listening() as one, second.listening() as two:
            await submit(queue, new_task())
            assert (await one.heard(), await two.heard()) == (["wake"], [])
            await submit(queue, new_task())
            assert (await one.heard(), await two.heard()) == ([], ["wake"])
            await submit(queue, new_task())
            assert (await one.heard(), await two.heard()) == ([], [])

    async def test_a_batch_wakes_as_many_as_it_needs(self, queue: Queue, hand: HandMaker) -> None:
        agents = [await hand(f"gpu-{number}") for number in range(3)]
        for agent in agents:
            await self.idle(agent)
        await submit(queue, new_task(), new_task())
        assert await queue.redis.zcard(queue.keys.idle) == 1

    async def test_an_agent_that_is_known_to_be_unable_sleeps_on(self, queue: Queue, hand: HandMaker) -> None:
        unable, able = await hand("gpu-1", serves=[NEEDS_A]), await hand("gpu-2", serves=[NEEDS_B])
        await submit(queue, new_task(NEEDS_B))
        await self.idle(unable)
        await able.take()
        await advance(queue.redis, queue.keys, 1)
        await self.idle(able)
        async with unable.listening() as one, able.listening() as two:
            await submit(queue, new_task(NEEDS_B))
            assert (await one.heard(), await two.heard()) == ([], ["wake"])

    async def test_a_mixed_batch_wakes_for_each_of_its_lanes(self, queue: Queue, hand: HandMaker) -> None:
        # Waking stopped at the first task whose lane no idle agent can serve.
        able = await hand("gpu-1", serves=[NEEDS_A])
        await submit(queue, new_task(NEEDS_B))
        await self.idle(able)
        async with able.listening() as ears:
            await submit(queue, new_task(NEEDS_B), new_task(NEEDS_A))
            assert await ears.heard() == ["wake"]

    async def test_a_dead_idle_agent_is_skipped(self, queue: Queue, hand: HandMaker) -> None:
        dead, alive = await hand("gpu-1"), await hand("gpu-2")
        await self.idle(dead)
        await self.idle(alive)
        await advance(queue.redis, queue.keys, 20)
        await alive.register(takeover=False)
        async with dead.listening() as one, alive.listening() as two:
            await submit(queue, new_task())
            assert (await one.heard(), await two.heard()) == ([], ["wake"])

    async def test_an_agent_that_cannot_serve_passes_the_wake_on(self, queue: Queue, hand: HandMaker) -> None:
        unable, able = await hand("gpu-1", serves=[NEEDS_B]), await hand("gpu-2", serves=[NEEDS_A])
        await self.idle(unable)
        await advance(queue.redis, queue.keys, 1)
        await self.idle(able)
        async with unable.listening() as one, able.listening() as two:
            await submit(queue, new_task(NEEDS_A))
            assert (await one.heard(), await two.heard()) == (["wake"], [])
            await self.idle(unable)
            assert (await one.heard(), await two.heard()) == ([], ["wake"])

    async def test_a_sweep_wakes_idle_agents_while_tasks_wait(self, queue: Queue, hand: HandMaker) -> None:
        """For a wake-up that got lost on its way."""
        agent = await hand()
        await submit(queue, new_task())
        await queue.redis.zadd(queue.keys.idle, {agent.name: 1})
        async with agent.listening() as ears:
            await queue.sweep()
            assert await ears.heard() == ["wake"]


class TestClaim:
    async def test_an_unknown_lane_is_judged_once(self, queue: Queue, hand: HandMaker) -> None:
        agent = await hand(serves=[NEEDS_A])
        task = new_task()
        await submit(queue, task, new_task(NEEDS_B))
        reply = await queue.claim(agent.name, agent.session, prompt_id="p1")
        assert isinstance(reply, UnknownLanes)
        assert set(reply.needs.values()) == {NEEDS_A, NEEDS_B}
        verdicts = {lane: needs == NEEDS_A for lane, needs in reply.needs.items()}
        claimed = await queue.claim(agent.name, agent.session, prompt_id="p1", verdicts=verdicts)
        assert isinstance(claimed, Attempt)
        assert claimed.id == task.id
        assert isinstance(await queue.claim(agent.name, agent.session, prompt_id="p2"), Nothing)

    async def test_more_than_a_hundred_unknown_lanes_come_in_portions(self, queue: Queue, hand: HandMaker) -> None:
        wanted = Needs(classes=("Z",))
        agent = await hand(serves=[wanted])
        await submit(queue, *(new_task(Needs(classes=(f"C{number:03}",))) for number in range(150)))
        task = new_task(wanted)
        await submit(queue, task)
        assert (await agent.take()).id == task.id

    async def test_a_claim_starts_the_attempt_under_a_lease(self, queue: Queue, hand: HandMaker) -> None:
        agent = await hand("gpu-7")
        task = new_task()
        await submit(queue, task)
        attempt = await agent.take()
        kept = await queue.get(task.id)
        assert (kept.status, kept.attempt, kept.agent, kept.position) == (Status.RUNNING, 1, "gpu-7", None)
        assert kept.prompt_id == attempt.task.prompt_id
        assert kept.prompt_id.startswith("prompt-")
        assert attempt.task.prompt == task.prompt
        assert await queue.held("gpu-7") == (task.id,)
        assert (await queue.redis.zscore(queue.keys.leases, task.id)) == kept.started_at + queue.lease_ms

    async def test_the_number_grows_with_each_attempt(self, queue: Queue, hand: HandMaker) -> None:
        agent = await hand()
        await submit(queue, new_task())
        numbers = []
        for _ in range(3):
            attempt = await agent.take()
            numbers.append(attempt.number)
            await queue.release(attempt, "test")
        assert numbers == [1, 2, 3]

    async def test_a_claim_that_is_repeated_gives_the_same_attempt(self, queue: Queue, hand: HandMaker) -> None:
        # The client library repeats a call whose reply was lost: a second task was then claimed, and the first one
        # belonged to nobody until its lease ran out, which cost it an attempt.
        agent = await hand()
        await submit(queue, new_task(), new_task())
        first = await agent.take()
        again = await queue.claim(agent.name, agent.session, prompt_id=first.task.prompt_id)
        assert isinstance(again, Attempt)
        assert (again.id, again.number) == (first.id, first.number)
        assert (await agent.take()).id != first.id

    async def test_every_task_goes_to_one_agent_only(self, queue: Queue, hand: HandMaker) -> None:
        agents = [await hand(f"gpu-{number}") for number in range(8)]
        tasks = [new_task() for _ in range(40)]
        await submit(queue, *tasks)
        took = await asyncio.gather(*(claimed_ids(agent, 5) for agent in agents))
        assert sorted(task_id for ids in took for task_id in ids) == sorted(task.id for task in tasks)

    async def test_a_draining_agent_gets_nothing_until_it_resumes(
        self, queue: Queue, registry: Registry, hand: HandMaker
    ) -> None:
        agent = await hand()
        await submit(queue, new_task())
        await registry.drain(agent.name, on=True)
        assert isinstance(await agent.claim(), Draining)
        await registry.drain(agent.name, on=False)
        await agent.take()

    async def test_an_unknown_session_has_to_register_first(self, queue: Queue, hand: HandMaker) -> None:
        await submit(queue, new_task())
        agent = await hand(session="new")
        assert isinstance(await queue.claim("nobody", "s1", prompt_id="p"), Unregistered)
        assert isinstance(await queue.claim(agent.name, "old", prompt_id="p"), Unregistered)

    async def test_a_verdict_is_forgotten_when_the_offer_changes(self, queue: Queue, hand: HandMaker) -> None:
        agent = await hand(serves=[])
        await submit(queue, new_task())
        assert isinstance(await agent.claim(), Nothing)
        offer = pack_offer({"CheckpointLoaderSimple": {}})
        await agent.registry.register(
            agent_record(agent.name), Vitals(), session=agent.session, offer=offer, takeover=False
        )
        assert isinstance(await queue.claim(agent.name, agent.session, prompt_id="p"), UnknownLanes)

    async def test_after_a_failed_attempt_another_agent_goes_first(self, queue: Queue, hand: HandMaker) -> None:
        first, second = await hand("gpu-1"), await hand("gpu-2")
        task, other = new_task(), new_task()
        await submit(queue, task, other)
        await queue.try_again(await first.take(), problem())
        assert (await first.take()).id == other.id
        assert (await second.take()).id == task.id

    async def test_the_same_agent_may_try_again_when_the_time_is_over(self, queue: Queue, hand: HandMaker) -> None:
        first, second = await hand("gpu-1"), await hand("gpu-2")
        await submit(queue, new_task())
        await queue.try_again(await first.take(), problem())
        assert isinstance(await first.claim(), Nothing)
        await advance(queue.redis, queue.keys, queue.avoid_ms / 1000)
        for agent in (first, second):
            await agent.register(takeover=False)
        assert (await first.take()).number == 2

    async def test_an_agent_that_is_alone_tries_again_at_once(self, queue: Queue, hand: HandMaker) -> None:
        agent = await hand()
        await submit(queue, new_task())
        await queue.try_again(await agent.take(), problem())
        assert (await agent.take()).number == 2
