"""From the claim to the end of a task: renew, report, settle, adopt, cancel and retry by hand, on a real Redis."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from redis.asyncio import Redis

from comfy_shared.claims import Attempt, Nothing
from comfy_shared.errors import Conflict, LeaseLost, NotFound, QueueFull
from comfy_shared.events import EventHub
from comfy_shared.keys import Keys
from comfy_shared.models import EventType, Progress, Status
from comfy_shared.queue import Queue
from test.support.agents import Hand, advance
from test.support.builders import NEEDS_A, new_task, output, problem

HandMaker = Callable[..., Awaitable[Hand]]


async def started(queue: Queue, hand: Hand, **changes: Any) -> Attempt:
    """A task on its first attempt."""
    task = new_task(**changes)
    await queue.submit([task], queue_limit=1000)
    attempt = await hand.take()
    assert attempt.id == task.id
    return attempt


async def story(queue: Queue, task_id: str) -> list[str]:
    """The types of the task's events; their numbers are checked to have no gaps."""
    events = await EventHub(queue.redis, queue.keys).story(task_id)
    assert [event.seq for event in events] == list(range(1, len(events) + 1))
    assert (await queue.get(task_id)).events == len(events)
    return [event.type.value for event in events]


async def status(queue: Queue, task_id: str) -> Status:
    return (await queue.get(task_id)).status


class TestRenew:
    async def test_a_renewed_lease_does_not_run_out(self, queue: Queue, hand: HandMaker) -> None:
        attempt = await started(queue, await hand())
        for _ in range(5):
            await advance(queue.redis, queue.keys, 7)
            assert await queue.renew(attempt.session, {attempt.id: 1}) == frozenset()
            assert (await queue.sweep()).statuses == {}
        assert await status(queue, attempt.id) is Status.RUNNING

    async def test_what_is_lost_is_told_and_the_rest_renewed(self, queue: Queue, hand: HandMaker) -> None:
        agent = await hand()
        kept, canceled, older = [await started(queue, agent) for _ in range(3)]
        await queue.cancel(canceled.id)
        await queue.release(older, "test")
        await agent.take()
        held = {kept.id: 1, canceled.id: 1, older.id: 1, "no-such-task": 1}
        assert await queue.renew(agent.session, held) == {canceled.id, older.id, "no-such-task"}

    async def test_another_session_renews_nothing(self, queue: Queue, hand: HandMaker) -> None:
        attempt = await started(queue, await hand())
        assert await queue.renew("s2", {attempt.id: 1}) == {attempt.id}

    async def test_the_number_of_an_attempt_that_redis_forgot_is_not_given_again(
        self, queue: Queue, redis: Redis, keys: Keys, hand: HandMaker
    ) -> None:
        # After the promotion of a replica that lagged, another attempt got the number, and the folder, of a live one.
        agent = await hand()
        await queue.submit([new_task(max_attempts=9)], queue_limit=10)
        attempt = await agent.take()
        assert await queue.renew(agent.session, {attempt.id: 3}) == {attempt.id}
        assert (await queue.get(attempt.id)).attempt == 3
        with pytest.raises(LeaseLost):
            await queue.complete(attempt, [])
        await advance(redis, keys, 16)
        await queue.sweep()
        assert (await agent.take()).number == 4


class TestReport:
    async def test_a_report_becomes_an_event_and_progress_is_recorded(self, queue: Queue, hand: HandMaker) -> None:
        attempt = await started(queue, await hand())
        await queue.report(attempt, EventType.STARTED, {})
        progress = Progress(fraction=0.5, node="4", value=10, maximum=20)
        await queue.report(attempt, EventType.PROGRESS, {"fraction": 0.5}, progress=progress)
        assert (await queue.get(attempt.id)).progress == progress
        assert await story(queue, attempt.id) == ["queued", "claimed", "started", "progress"]

    async def test_a_stale_attempt_or_session_is_refused(self, queue: Queue, hand: HandMaker) -> None:
        agent = await hand()
        first = await started(queue, agent)
        await queue.release(first, "test")
        second = await agent.take()
        with pytest.raises(LeaseLost):
            await queue.report(first, EventType.STARTED, {})
        with pytest.raises(LeaseLost):
            await queue.report(Attempt(task=second.task, session="s2"), EventType.STARTED, {})
        assert await story(queue, first.id) == ["queued", "claimed", "released", "claimed"]


class TestSettle:
    async def test_complete_keeps_the_outputs_and_tells_each(self, queue: Queue, hand: HandMaker) -> None:
        attempt = await started(queue, await hand("gpu-1"))
        outputs = (output("a.png"), output("b ü.png"))
        await queue.complete(attempt, outputs)
        task = await queue.get(attempt.id)
        assert (task.status, task.outputs, task.error) == (Status.COMPLETED, outputs, None)
        assert task.finished_at >= task.started_at >= task.created_at
        assert await story(queue, task.id) == ["queued", "claimed", "output", "output", "completed"]
        assert await queue.held("gpu-1") == ()

    async def test_fail_keeps_the_error(self, queue: Queue, hand: HandMaker) -> None:
        attempt = await started(queue, await hand())
        error = problem("node_failed", node="4", node_class="KSampler", details={"type": "ValueError"})
        await queue.fail(attempt, error)
        task = await queue.get(attempt.id)
        assert (task.status, task.error) == (Status.FAILED, error)
        assert await story(queue, task.id) == ["queued", "claimed", "failed"]

    async def test_another_attempt_goes_to_the_head_of_its_lane(self, queue: Queue, hand: HandMaker) -> None:
        agent = await hand()
        attempt = await started(queue, agent)
        await queue.submit([new_task(), new_task()], queue_limit=1000)
        assert await queue.try_again(attempt, problem()) is Status.PENDING
        task = await queue.get(attempt.id)
        assert (task.position, task.progress, task.error) == (0, None, problem())
        assert (await agent.take()).id == attempt.id
        assert await story(queue, task.id) == ["queued", "claimed", "retrying", "claimed"]

    async def test_after_the_last_attempt_the_task_is_dead(self, queue: Queue, hand: HandMaker) -> None:
        agent = await hand()
        attempt = await started(queue, agent, max_attempts=2)
        assert await queue.try_again(attempt, problem()) is Status.PENDING
        assert await queue.try_again(await agent.take(), problem("output_missing")) is Status.FAILED
        task = await queue.get(attempt.id)
        assert (task.status, task.attempt, task.error) == (Status.FAILED, 2, problem("output_missing"))
        assert await queue.redis.hget(queue.keys.task(task.id), "dead") == b"1"

    @pytest.mark.parametrize("code", ["instance_lost", "timeout"])
    async def test_two_of_a_kind_are_enough(self, queue: Queue, hand: HandMaker, code: str) -> None:
        """A task that took two instances down, or timed out twice, is not given to a third."""
        agent = await hand()
        attempt = await started(queue, agent, max_attempts=9)
        assert await queue.try_again(attempt, problem(code)) is Status.PENDING
        assert await queue.try_again(await agent.take(), problem("out_of_memory")) is Status.PENDING
        assert await queue.try_again(await agent.take(), problem(code)) is Status.FAILED
        assert await queue.redis.hget(queue.keys.task(attempt.id), "dead") == b"1"

    async def test_one_crash_and_one_timeout_are_not_two_of_a_kind(self, queue: Queue, hand: HandMaker) -> None:
        agent = await hand()
        await queue.try_again(await started(queue, agent), problem("instance_lost"))
        assert await queue.try_again(await agent.take(), problem("timeout")) is Status.PENDING

    async def test_release_costs_no_attempt(self, queue: Queue, hand: HandMaker) -> None:
        agent = await hand()
        attempt = await started(queue, agent, max_attempts=1)
        for _ in range(3):
            await queue.release(attempt, "draining")
            attempt = await agent.take()
        assert (attempt.number, attempt.task.max_attempts) == (4, 4)
        assert await queue.try_again(attempt, problem()) is Status.FAILED

    async def test_each_outcome_twice_is_fine_and_counts_once(self, queue: Queue, hand: HandMaker) -> None:
        """As after a lost reply."""
        agent = await hand()
        first = await started(queue, agent)
        for _ in range(2):
            await queue.release(first, "test")
        second = await agent.take()
        for _ in range(2):
            assert await queue.try_again(second, problem()) is Status.PENDING
        third = await agent.take()
        for _ in range(2):
            await queue.complete(third, [output()])
        other = await started(queue, agent)
        for _ in range(2):
            await queue.fail(other, problem())
        assert await story(queue, first.id) == [
            "queued", "claimed", "released", "claimed", "retrying", "claimed", "output", "completed",
        ]  # fmt: skip
        assert await story(queue, other.id) == ["queued", "claimed", "failed"]

    async def test_50_equal_completions_at_once_make_one_end(self, queue: Queue, hand: HandMaker) -> None:
        attempt = await started(queue, await hand())
        await asyncio.gather(*(queue.complete(attempt, [output()]) for _ in range(50)))
        assert await story(queue, attempt.id) == ["queued", "claimed", "output", "completed"]

    async def test_no_other_outcome_follows_an_end(self, queue: Queue, hand: HandMaker) -> None:
        attempt = await started(queue, await hand())
        await queue.complete(attempt, [])
        for late in (
            queue.fail(attempt, problem()),
            queue.try_again(attempt, problem()),
            queue.release(attempt, "test"),
        ):
            with pytest.raises(LeaseLost):
                await late
        assert await story(queue, attempt.id) == ["queued", "claimed", "completed"]

    async def test_nothing_settles_with_an_old_number_session_or_after_cancel(
        self, queue: Queue, hand: HandMaker
    ) -> None:
        agent = await hand()
        first = await started(queue, agent)
        await queue.release(first, "test")
        second = await agent.take()
        for stale in (first, Attempt(task=second.task, session="s2")):
            with pytest.raises(LeaseLost):
                await queue.complete(stale, [])
        await queue.cancel(second.id)
        with pytest.raises(LeaseLost):
            await queue.complete(second, [output()])
        task = await queue.get(second.id)
        assert (task.status, task.outputs) == (Status.CANCELED, ())


class TestAdopt:
    async def test_a_new_process_goes_on_with_the_same_attempt(self, queue: Queue, hand: HandMaker) -> None:
        attempt = await started(queue, await hand("gpu-1", session="s1"))
        await hand("gpu-1", session="s2")
        assert await queue.held("gpu-1") == (attempt.id,)
        adopted = await queue.adopt("gpu-1", "s2", attempt.id)
        assert isinstance(adopted, Attempt)
        assert (adopted.number, adopted.session, adopted.task.prompt_id) == (1, "s2", attempt.task.prompt_id)
        with pytest.raises(LeaseLost):
            await queue.complete(attempt, [])
        await queue.complete(adopted, [])
        assert await story(queue, attempt.id) == ["queued", "claimed", "adopted", "completed"]

    async def test_what_ended_or_runs_elsewhere_is_gone(self, queue: Queue, hand: HandMaker) -> None:
        first, second = await hand("gpu-1"), await hand("gpu-2")
        ended, moved = await started(queue, first), await started(queue, first)
        await queue.complete(ended, [])
        await queue.try_again(moved, problem())
        assert (await second.take()).id == moved.id
        for task_id in (ended.id, moved.id, "no-such-task"):
            assert await queue.adopt("gpu-1", "s2", task_id) is None
        assert await queue.renew("s1", {moved.id: 2}) == frozenset()

    async def test_a_lease_that_ran_out_unswept_is_prolonged(self, queue: Queue, hand: HandMaker) -> None:
        attempt = await started(queue, await hand("gpu-1"))
        await queue.sweep()
        await advance(queue.redis, queue.keys, 20)
        assert await queue.adopt("gpu-1", "s2", attempt.id) is not None
        swept = await queue.sweep()
        assert swept.statuses == {}
        assert swept.next_lease is not None
        assert swept.next_lease > 14, "more than the half lease that everybody gets after a long silence"


class TestCancel:
    async def test_a_pending_task_is_never_claimed(self, queue: Queue, hand: HandMaker) -> None:
        agent = await hand()
        task = new_task()
        await queue.submit([task], queue_limit=1000)
        await queue.cancel(task.id)
        assert isinstance(await agent.claim(), Nothing)
        assert await status(queue, task.id) is Status.CANCELED
        assert await story(queue, task.id) == ["queued", "canceled"]

    async def test_the_agent_of_a_running_task_is_told_which_attempt(self, queue: Queue, hand: HandMaker) -> None:
        agent = await hand()
        attempt = await started(queue, agent)
        async with agent.listening() as ears:
            await queue.cancel(attempt.id)
            assert await ears.heard() == [f"cancel {attempt.id} 1"]
        assert await queue.renew(agent.session, {attempt.id: 1}) == {attempt.id}
        assert await queue.held(agent.name) == ()

    async def test_a_second_cancel_is_fine_and_tells_nothing(self, queue: Queue, hand: HandMaker) -> None:
        agent = await hand()
        attempt = await started(queue, agent)
        await queue.cancel(attempt.id)
        async with agent.listening() as ears:
            await queue.cancel(attempt.id)
            assert await ears.heard() == []
        assert await story(queue, attempt.id) == ["queued", "claimed", "canceled"]

    async def test_an_ended_or_unknown_task_is_refused(self, queue: Queue, hand: HandMaker) -> None:
        agent = await hand()
        completed, failed = await started(queue, agent), await started(queue, agent)
        await queue.complete(completed, [])
        await queue.fail(failed, problem())
        with pytest.raises(Conflict, match="completed"):
            await queue.cancel(completed.id)
        with pytest.raises(Conflict, match="failed"):
            await queue.cancel(failed.id)
        with pytest.raises(NotFound):
            await queue.cancel("no-such-task")

    async def test_neighbours_are_untouched(self, queue: Queue, hand: HandMaker) -> None:
        """In the lane, in the queue and on the same agent."""
        agent = await hand()
        runs, neighbour = await started(queue, agent), await started(queue, agent)
        waiting = [new_task() for _ in range(3)]
        await queue.submit(waiting, queue_limit=1000)
        await queue.cancel(runs.id)
        await queue.cancel(waiting[1].id)
        await queue.complete(neighbour, [])
        assert [(await agent.take()).id for _ in range(2)] == [waiting[0].id, waiting[2].id]

    async def test_between_complete_and_cancel_one_wins(self, queue: Queue, hand: HandMaker) -> None:
        """200 races; the answers agree with the end."""
        agent = await hand()
        await queue.submit([new_task() for _ in range(200)], queue_limit=1000)
        attempts = [await agent.take() for _ in range(200)]

        async def race(attempt: Attempt, number: int) -> Status:
            calls = [queue.complete(attempt, [output()]), queue.cancel(attempt.id)]
            answers = await asyncio.gather(*calls[:: 1 if number % 2 else -1], return_exceptions=True)
            completed, canceled = answers[:: 1 if number % 2 else -1]
            task = await queue.get(attempt.id)
            if task.status is Status.COMPLETED:
                assert completed is None
                assert isinstance(canceled, Conflict)
            else:
                assert isinstance(completed, LeaseLost)
                assert canceled is None
                assert task.outputs == ()
            assert sum(name in ("completed", "canceled") for name in await story(queue, attempt.id)) == 1
            return task.status

        ends = await asyncio.gather(*(race(attempt, number) for number, attempt in enumerate(attempts)))
        assert set(ends) == {Status.COMPLETED, Status.CANCELED}


class TestRetryByHand:
    async def test_a_failed_task_starts_over_with_fresh_attempts(self, queue: Queue, hand: HandMaker) -> None:
        agent = await hand()
        attempt = await started(queue, agent, max_attempts=1)
        await queue.try_again(attempt, problem("instance_lost"))
        await queue.retry(await queue.get(attempt.id), NEEDS_A, attempts=3, queue_limit=10)
        task = await queue.get(attempt.id)
        assert (task.status, task.attempt, task.max_attempts) == (Status.PENDING, 1, 4)
        assert (task.error, task.finished_at, task.position) == (None, 0, 0)
        second = await agent.take()
        assert second.number == 2
        assert await queue.try_again(second, problem("instance_lost")) is Status.PENDING, "crashes count anew"
        assert await story(queue, attempt.id) == ["queued", "claimed", "failed", "queued", "claimed", "retrying"]

    async def test_a_canceled_task_can_be_retried_and_its_old_attempt_stays_stale(
        self, queue: Queue, hand: HandMaker
    ) -> None:
        agent = await hand()
        attempt = await started(queue, agent)
        await queue.cancel(attempt.id)
        await queue.retry(await queue.get(attempt.id), NEEDS_A, attempts=3, queue_limit=10)
        with pytest.raises(LeaseLost):
            await queue.complete(attempt, [])
        assert (await agent.take()).number == 2
        with pytest.raises(LeaseLost):
            await queue.complete(attempt, [])

    async def test_other_states_unknown_tasks_and_a_full_queue_are_refused(self, queue: Queue, hand: HandMaker) -> None:
        agent = await hand()
        attempt = await started(queue, agent)
        task = await queue.get(attempt.id)
        with pytest.raises(Conflict, match="running"):
            await queue.retry(task, NEEDS_A, attempts=3, queue_limit=10)
        await queue.fail(attempt, problem())
        with pytest.raises(QueueFull):
            await queue.retry(task, NEEDS_A, attempts=3, queue_limit=0)
        await queue.retry(task, NEEDS_A, attempts=3, queue_limit=10)
        with pytest.raises(Conflict, match="pending"):
            await queue.retry(task, NEEDS_A, attempts=3, queue_limit=10)
        await queue.complete(await agent.take(), [])
        with pytest.raises(Conflict, match="completed"):
            await queue.retry(task, NEEDS_A, attempts=3, queue_limit=10)
        await queue.redis.delete(queue.keys.task(task.id))
        with pytest.raises(NotFound):
            await queue.retry(task, NEEDS_A, attempts=3, queue_limit=10)
        await queue.redis.delete(*[key async for key in queue.redis.scan_iter(queue.keys.index("*"))])

    async def test_a_retried_task_wakes_an_idle_agent_and_lives_again(
        self, queue: Queue, redis: Redis, keys: Keys, hand: HandMaker
    ) -> None:
        agent = await hand()
        attempt = await started(queue, agent)
        await queue.fail(attempt, problem())
        assert await redis.pttl(keys.task(attempt.id)) > queue.retention_ms
        assert isinstance(await agent.claim(), Nothing)
        async with agent.listening() as ears:
            await queue.retry(attempt.task, NEEDS_A, attempts=3, queue_limit=10)
            assert await ears.heard() == ["wake"]
        assert await redis.pttl(keys.task(attempt.id)) == await redis.pttl(keys.story(attempt.id)) == -1
        assert await redis.zscore(keys.finished, attempt.id) is None
