"""The hub: live events, resuming, slow watchers, a Redis that dies under them."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import cast

import pytest
from redis.asyncio import Redis
from structlog.testing import capture_logs

from comfy_shared.claims import Attempt
from comfy_shared.events import BEHIND, PAGE, EventHub
from comfy_shared.keys import Keys
from comfy_shared.models import Event, EventType
from comfy_shared.queue import Queue
from comfy_shared.registry import Registry
from comfy_shared.store import connect
from test.support.agents import Hand
from test.support.builders import NEEDS_A, new_task, output, problem
from test.support.redis_server import RedisServer
from test.support.settings import settings_for
from test.support.waiting import wait_until

HandMaker = Callable[..., Awaitable[Hand]]


@asynccontextmanager
async def tailing(hub: EventHub) -> AsyncIterator[None]:
    stop = asyncio.Event()
    tail = asyncio.create_task(hub.tail(stop))
    yield
    stop.set()
    await hub._redis.xadd(hub._keys.events, {"type": "nothing"})  # it need not wait out its read
    await tail


@pytest.fixture
async def hub(redis: Redis, keys: Keys) -> AsyncIterator[EventHub]:
    hub = EventHub(redis, keys)
    async with tailing(hub):
        yield hub


async def running(queue: Queue, hand: HandMaker) -> Attempt:
    await queue.submit([new_task()], queue_limit=1000)
    return await (await hand()).take()


async def step(queue: Queue, attempt: Attempt, number: int) -> None:
    await queue.report(attempt, EventType.PROGRESS, {"step": number})


async def collect(hub: EventHub, task_id: str, after: int = 0) -> list[Event]:
    return [event async for event in hub.watch(task_id, after=after)]


def kinds(events: list[Event]) -> list[str]:
    return [event.type.value for event in events]


def assert_whole(events: list[Event], first: int, last: int) -> None:
    """No event is missing, none came twice."""
    assert [event.seq for event in events] == list(range(first, last + 1))


async def test_a_watch_tells_the_past_then_what_happens_and_ends_with_the_task(
    hub: EventHub, queue: Queue, hand: HandMaker
) -> None:
    attempt = await running(queue, hand)
    seen: list[Event] = []

    async def watch() -> None:
        async for event in hub.watch(attempt.id):
            seen.append(event)

    watching = asyncio.create_task(watch())
    await wait_until(lambda: len(seen) == 2, "the past is told")
    await step(queue, attempt, 1)
    await wait_until(lambda: len(seen) == 3, "the live event is told")
    await queue.complete(attempt, [output("a.png")])
    await watching
    assert kinds(seen) == ["queued", "claimed", "progress", "output", "completed"]
    assert_whole(seen, 1, 5)
    assert seen[2].data == {"step": 1}
    assert (seen[3].attempt, seen[3].data["output"]["name"]) == (1, "a.png")


async def test_a_watch_resumes_after_the_number_that_was_seen_last(
    hub: EventHub, queue: Queue, hand: HandMaker
) -> None:
    attempt = await running(queue, hand)
    watching = asyncio.create_task(collect(hub, attempt.id, after=1))
    await step(queue, attempt, 1)
    await queue.complete(attempt, [])
    assert_whole(await watching, 2, 4)


async def test_a_watch_that_resumes_after_the_end_ends(hub: EventHub, queue: Queue, hand: HandMaker) -> None:
    # A client that reconnected with the number of the final event waited for ever.
    attempt = await running(queue, hand)
    await queue.complete(attempt, [])
    assert await collect(hub, attempt.id, after=3) == []


async def test_a_watch_of_a_task_that_is_not_there_ends(hub: EventHub) -> None:
    # It waited for ever: a task may be purged while somebody reconnects.
    assert await collect(hub, "no-such-task") == []


async def test_a_retried_task_is_told_with_its_whole_past(hub: EventHub, queue: Queue, hand: HandMaker) -> None:
    attempt = await running(queue, hand)
    await queue.fail(attempt, problem())
    assert kinds(await collect(hub, attempt.id)) == ["queued", "claimed", "failed"]
    await queue.retry(attempt.task, NEEDS_A, attempts=1, queue_limit=10)
    watching = asyncio.create_task(collect(hub, attempt.id))
    await queue.cancel(attempt.id)
    assert kinds(await watching) == ["queued", "claimed", "failed", "queued", "canceled"]


async def test_a_past_longer_than_a_page_is_told_whole(hub: EventHub, queue: Queue, hand: HandMaker) -> None:
    attempt = await running(queue, hand)
    for number in range(PAGE * 2 - 3):  # the final event is the last of the second page
        await step(queue, attempt, number)
    await queue.complete(attempt, [])
    assert_whole(await collect(hub, attempt.id), 1, PAGE * 2)


async def test_a_damaged_event_is_logged_and_skipped(
    hub: EventHub, queue: Queue, redis: Redis, keys: Keys, hand: HandMaker
) -> None:
    # A page of a story with one damaged entry counted as the last one: the watcher waited for ever.
    attempt = await running(queue, hand)
    for number in range(PAGE + 10):
        await step(queue, attempt, number)
    await redis.hincrby(keys.task(attempt.id), "events", 2)
    last = PAGE + 12
    deep = b'%d progress 1 1 {"a":' % (last + 2) + b"[" * 100_000
    await redis.rpush(keys.story(attempt.id), b"%d \xff" % (last + 1), deep)
    await redis.xadd(keys.events, {"task": attempt.id, "line": deep})
    await redis.xadd(keys.events, {b"\xff": b"\xff"})
    await redis.xadd(keys.events, {"task": attempt.id, "line": "x progress"})
    await cast("Awaitable[str]", redis.ltrim(keys.story(attempt.id), -PAGE, -1))
    with capture_logs() as logs:
        watching = asyncio.create_task(collect(hub, attempt.id))
        await queue.complete(attempt, [])
        events = await watching
    assert [event.seq for event in events] == [*range(last - PAGE + 3, last + 1), last + 3]
    assert {line["action"] for line in logs} == {"events.damaged"}


async def test_a_slow_watcher_falls_behind_and_still_gets_everything(
    hub: EventHub, queue: Queue, hand: HandMaker
) -> None:
    attempt = await running(queue, hand)
    watch = hub.watch(attempt.id)
    slow = [await anext(watch), await anext(watch)]
    fast = asyncio.create_task(collect(hub, attempt.id))
    count = BEHIND * 2 + 50
    for number in range(count):
        await step(queue, attempt, number)
    await queue.complete(attempt, [])
    assert_whole(await fast, 1, count + 3)
    slow += [event async for event in watch]
    assert_whole(slow, 1, count + 3)


async def test_a_watcher_that_never_reads_keeps_a_bounded_number(hub: EventHub, queue: Queue, hand: HandMaker) -> None:
    attempt = await running(queue, hand)
    with hub.subscribed(attempt.id) as idle:
        assert await idle.take() is None, "the story first"
        reader = asyncio.create_task(collect(hub, attempt.id))
        for number in range(BEHIND * 3):
            await step(queue, attempt, number)
        await queue.complete(attempt, [])
        await reader
        kept = 0
        while await idle.take() is not None:
            kept += 1
        assert kept == 0, "what it did not read was dropped, and it is told to read the story"


async def test_200_watchers_share_one_tail_and_few_connections(queue: Queue, redis: Redis, keys: Keys) -> None:
    hub = EventHub(redis, keys)
    tasks = [new_task() for _ in range(20)]
    await queue.submit(tasks, queue_limit=100)
    async with tailing(hub):
        watching = [asyncio.create_task(collect(hub, tasks[number % 20].id)) for number in range(200)]
        await wait_until(lambda: len(hub._watchers) == 20, "all subscribed")
        for task in tasks:
            await queue.cancel(task.id)
        for events in await asyncio.gather(*watching):
            # Sometimes "canceled" was missing: a watcher ended when the task did while it looked at the story.
            assert kinds(events) == ["queued", "canceled"]
        assert hub._watchers == {}


async def test_the_number_of_connections_does_not_grow_with_the_watchers(
    queue: Queue, redis: Redis, redis_server: RedisServer, tmp_path: Path, keys: Keys
) -> None:
    # 200 watchers that began at once asked for 200 connections: beyond the limit they were told that Redis is away.
    settings = settings_for(redis_server.port, keys.namespace, tmp_path, redis_connections=8)
    client = connect(settings)
    hub = EventHub(client, keys)
    tasks = [new_task() for _ in range(10)]
    await queue.submit(tasks, queue_limit=100)
    before = (await redis.info("clients"))["connected_clients"]
    async with tailing(hub):
        with capture_logs() as logs:
            watching = [asyncio.create_task(collect(hub, tasks[number % 10].id)) for number in range(200)]
            await wait_until(lambda: len(hub._watchers) == 10, "all subscribed")
            stories = await asyncio.gather(*(hub.story(task.id) for task in tasks * 20))
            assert all(kinds(events) == ["queued"] for events in stories)
            assert (await redis.info("clients"))["connected_clients"] <= before + 8
            for task in tasks:
                await queue.cancel(task.id)
            for events in await asyncio.gather(*watching):
                assert kinds(events) == ["queued", "canceled"]
        assert logs == []
    await client.aclose()


async def test_the_tail_ends_when_it_is_told_to(redis: Redis, keys: Keys) -> None:
    heard: list[str] = []
    stop = asyncio.Event()
    tail = asyncio.create_task(EventHub(redis, keys, on_news=heard.append).tail(stop))
    await wait_until(lambda: len(heard) == 2, "it reads")
    stop.set()
    async with asyncio.timeout(5):
        await tail


async def test_other_news_is_told_by_kind(redis: Redis, keys: Keys, registry: Registry, hand: HandMaker) -> None:
    heard: list[str] = []
    hub = EventHub(redis, keys, on_news=heard.append)
    async with tailing(hub):
        await wait_until(lambda: heard == ["agents", "workflow"], "both are told at the start")
        await hand()
        await wait_until(lambda: heard == ["agents", "workflow", "agents"], "the agent is news")
        await registry.drain("gpu-1", on=True)
        await wait_until(lambda: len(heard) == 4, "the drain is news")
        await registry.drain("gpu-1", on=False)


async def test_no_event_is_missed_or_repeated_over_a_restart_of_redis(own_redis: RedisServer, tmp_path: Path) -> None:
    """Redis is killed under 20 watchers and comes back; events happen before they notice that it is back."""
    settings = settings_for(own_redis.port, "restart", tmp_path / "files")
    names = Keys("restart")
    client, writer = connect(settings), connect(settings)
    queue, heard = Queue(writer, names, settings), list[str]()
    hub = EventHub(client, names, on_news=heard.append)
    agent = Hand(queue, Registry(writer, names, heartbeat_ttl=60, retention=3600), "gpu-1")
    await agent.register()
    await queue.submit([new_task()], queue_limit=10)
    attempt = await agent.take()
    async with tailing(hub):
        seen: list[list[Event]] = [[] for _ in range(20)]

        async def watch(into: list[Event]) -> None:
            async for event in hub.watch(attempt.id):
                into.append(event)

        watching = [asyncio.create_task(watch(events)) for events in seen]
        for number in range(10):
            await step(queue, attempt, number)
        await wait_until(lambda: all(len(events) == 12 for events in seen), "all are live")
        for _ in range(2):
            heard.clear()
            await asyncio.to_thread(own_redis.kill)
            await asyncio.to_thread(own_redis.start)
            for number in range(10):
                await step(queue, attempt, number)
            await wait_until(lambda: "workflow" in heard, "the hub noticed and reads again")
        for number in range(10):
            await step(queue, attempt, number)
        await queue.complete(attempt, [])
        await asyncio.gather(*watching)
    for events in seen:
        assert_whole(events, 1, 2 + 40 + 1)
    await client.aclose()
    await writer.aclose()


async def test_an_end_that_a_watcher_is_ahead_of_ends_its_watch(
    hub: EventHub, queue: Queue, redis: Redis, keys: Keys, hand: HandMaker
) -> None:
    # It waited for ever: a promoted replica had told less of the story than the watcher had seen.
    attempt = await running(queue, hand)
    for number in range(6):
        await step(queue, attempt, number)
    watching = asyncio.create_task(collect(hub, attempt.id, after=8))
    await wait_until(lambda: len(hub._watchers[attempt.id]) == 1, "it watches")
    await redis.ltrim(keys.story(attempt.id), 0, 2)
    await redis.hset(keys.task(attempt.id), "events", 3)
    await queue.complete(attempt, [])
    assert await asyncio.wait_for(watching, 5) == []
