"""Transitions that share a command leave the same behind as the same transitions one after the other."""

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import pytest
from redis.asyncio import Redis

from comfy_shared.batches import NewBatch
from comfy_shared.batching import LEAST
from comfy_shared.claims import Attempt
from comfy_shared.events import EventHub, _as_it_comes
from comfy_shared.keys import Keys
from comfy_shared.models import NewTask
from comfy_shared.needs import lane_of
from comfy_shared.queue import Queue
from comfy_shared.registry import Registry, Vitals
from test.support.builders import NEEDS_A, NEEDS_B, agent_record, new_task, output, problem
from test.support.redis_server import RedisServer
from test.support.settings import settings_for

Call = Coroutine[Any, Any, Any]
Run = Callable[[Sequence[Call]], Call]
Story = Callable[[Queue, Registry, Run], Call]
OTHERS = {b"created_at", b"started_at", b"finished_at", b"order", b"avoid_until"}  # each time


async def one_by_one(calls: Sequence[Call]) -> list[Any]:
    return [outcome for call in calls for outcome in await together([call])]


async def together(calls: Sequence[Call]) -> list[Any]:
    outcomes: list[Any] = await asyncio.gather(*calls, return_exceptions=True)
    return outcomes


def tasks() -> list[NewTask]:
    """As many as go in one batch to Redis: of several owners, lanes and priorities, with labels, some joined."""
    owners = ("ann", "ann", "bob", "cho")
    return [
        new_task(
            NEEDS_B if number % 3 == 0 else NEEDS_A,
            id=f"task-{number}",
            owner=owners[number % 4],
            priority=(5, 9)[number % 2],
            workflow="portrait" if number % 2 else "",
            labels={"series": str(number % 3)},
            reuse="same" if number in (1, 5) else "",
            front=number == 6,
        )
        for number in range(LEAST)
    ]


async def story(queue: Queue, registry: Registry, run: Run) -> list[Any]:
    """What each call came to: tasks are accepted, claimed, and end in all ways; a batch is canceled."""
    names = [f"gpu-{number}" for number in range(LEAST)]
    for name in names:
        await registry.register(agent_record(name), Vitals(), session="s1", offer=None, takeover=True)

    def claims(number: int) -> list[Call]:
        verdicts = {lane_of(needs): True for needs in (NEEDS_A, NEEDS_B)}
        return [queue.claim(name, "s1", prompt_id=f"{name}-{number}", verdicts=verdicts) for name in names]

    await run(claims(0))
    outcome: list[Any] = await run([queue.submit([task], queue_limit=LEAST - 1) for task in tasks()])
    outcome += await run([queue.submit([task], queue_limit=LEAST) for task in tasks()])  # once more, with one that fits
    attempts = [each for number in (1, 2) for each in await run(claims(number)) if isinstance(each, Attempt)]
    assert len(attempts) == LEAST - 1, "one joined another"
    outcome += [(attempt.id, attempt.task.owner) for attempt in attempts]
    done = [queue.complete(each, [output(), output("b.png")], gpu_ms=100, cold=False) for each in attempts[:4]]
    outcome += await run(done)
    outcome += await run([queue.complete(attempts[0], []), queue.fail(attempts[4], problem("node_error"))])
    outcome += await run([queue.release(attempts[5], "test"), queue.try_again(attempts[6], problem())])
    batch = NewBatch(id="batch-1", owner="ann")
    series = [new_task(id=f"part-{number}") for number in range(40)]
    await queue.submit(series, batch=batch, queue_limit=100)
    outcome += await run([queue.cancel(task.id) for task in series])
    outcome += await run([queue.cancel(task.id) for task in series])
    return outcome


async def one_agents_story(queue: Queue, registry: Registry, run: Run) -> list[Any]:
    """The same with all claims by one agent: what it has in memory, whom it serves and whether it idles changes from
    call to call of one command, as do the limits of an owner."""
    await registry.register(agent_record("gpu"), Vitals(), session="s1", offer=None, takeover=True)
    lanes = [lane_of(needs) for needs in (NEEDS_A, NEEDS_B)]
    outcome: list[Any] = await run(
        [queue.submit([task], queue_limit=100, owner_limit=LEAST // 2 - 2) for task in tasks()]
    )

    async def claims(number: int, verdicts: dict[str, bool] | None = None, session: str = "s1") -> list[Attempt]:
        nonlocal outcome
        calls = [
            queue.claim("gpu", session, prompt_id=f"p-{number}-{at}", verdicts=verdicts if at == 1 else None)
            for at in range(LEAST // 2)
        ]
        replies = await run(calls)
        outcome += [type(each).__name__ for each in replies]
        return [each for each in replies if isinstance(each, Attempt)]

    assert await claims(0) == [], "it has to judge the lanes"
    attempts = await claims(1, {lanes[0]: True, lanes[1]: False})
    assert attempts, "one lane it can serve"
    await claims(2, session="s0")
    queue.running_limit = 4
    attempts += await claims(3, {lanes[1]: True})
    queue.running_limit = 0
    outcome += await run([queue.complete(each, [], gpu_ms=100, cold=at == 0) for at, each in enumerate(attempts)])
    assert await queue.redis.zscore(queue.keys.queue, "task-0") is not None, "it still waits"
    await cast("Any", queue.redis.hset(queue.keys.task("task-0"), "lane", "another"))  # broken bytes
    await queue.submit([new_task(NEEDS_A, id=f"more-{number}") for number in range(4)], queue_limit=100)
    attempts += await claims(4)
    assert await queue.redis.zscore(queue.keys.damaged, "task:task-0") is not None, "it was set aside"
    await registry.drain("gpu", on=True)
    attempts += await claims(5)
    return [*outcome, *[(each.id, each.task.owner, each.task.attempt) for each in attempts]]


@asynccontextmanager
async def queue_of(server: RedisServer, folder: Path) -> AsyncIterator[tuple[Queue, Registry]]:
    """A Redis emptied for it."""
    client = Redis(port=server.port)
    await client.flushall()
    keys = Keys("one")
    yield (
        Queue(client, keys, settings_for(server.port, "one", folder)),
        Registry(client, keys, heartbeat_ttl=1000, retention=1000),
    )
    await client.aclose()


async def left_behind(redis: Redis) -> dict[str, Any]:
    """All keys and what they hold, but for times and what comes of them."""
    found: dict[str, Any] = {}
    async for key in redis.scan_iter(count=1000):
        kind, name = await redis.type(key), key.decode()
        if kind == b"hash":
            fields = cast("dict[bytes, bytes]", await redis.hgetall(key))
            names_only = name.endswith(":usage") or ":agent:" in name
            found[name] = set(fields) if names_only else {k: v for k, v in fields.items() if k not in OTHERS}
        elif kind == b"zset":
            found[name] = set(await redis.zrange(key, 0, -1))
        elif kind == b"set":
            found[name] = await cast("Any", redis.smembers(key))
        elif kind == b"list":
            found[name] = [told(line) for line in await cast("Any", redis.lrange(key, 0, -1))]
        elif kind == b"string":
            found[name] = None
    return found


def told(line: bytes) -> tuple[bytes, ...]:
    number, kind, _, attempt, data = line.split(b" ", 4)
    return number, kind, attempt, data


async def heard(redis: Redis, keys: Keys) -> tuple[dict[str, list[tuple[bytes, ...]]], int]:
    """What a balancer hears of each task; and in how many entries of the stream."""
    lines: dict[str, list[tuple[bytes, ...]]] = {}
    hub = EventHub(redis, keys)
    redis.set_response_callback("XRANGE", _as_it_comes)
    entries = cast("list[tuple[bytes, list[bytes]]]", await redis.xrange(keys.events))
    with hub.listened(lambda task_id, line: lines.setdefault(task_id, []).append(told(line)), lambda: True):
        for _, fields in entries:
            hub._hear(zip(fields[::2], fields[1::2], strict=True))
    return lines, len(entries)


@pytest.mark.parametrize("story", [story, one_agents_story])
async def test_transitions_that_share_a_command_do_what_they_do_alone(
    own_redis: RedisServer, tmp_path: Path, story: Story
) -> None:
    seen = []
    for run in (one_by_one, together):
        async with queue_of(own_redis, tmp_path) as (queue, registry):
            outcome = await story(queue, registry, run)
            commands = (await queue.redis.info("commandstats"))["cmdstat_evalsha"]["calls"]
            await queue.redis.config_resetstat()
            left = await left_behind(queue.redis)
            lines, entries = await heard(queue.redis, queue.keys)
        seen.append(([re.sub(r"created_at=\d+", "", repr(each)) for each in outcome], left, lines, commands, entries))
    alone, shared = seen
    assert shared[0] == alone[0]
    assert shared[1] == alone[1]
    assert shared[2] == alone[2]
    assert shared[3] < alone[3] / 2, "they did share commands"
    assert shared[4] < alone[4] / 2, "and entries of the stream"
