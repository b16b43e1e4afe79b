"""The border to Redis: refused, stalled, full, read-only and busy become `Unavailable`, bugs do not."""

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from redis.asyncio import Redis
from redis.exceptions import OutOfMemoryError, ReadOnlyError, ResponseError

from comfy_shared.errors import Unavailable
from comfy_shared.keys import Keys
from comfy_shared.models import Status
from comfy_shared.queue import Queue
from comfy_shared.registry import Registry
from comfy_shared.settings import SharedSettings
from comfy_shared.store import border, connect
from test.cluster import free_port
from test.support.agents import Hand
from test.support.builders import new_task
from test.support.redis_server import RedisServer
from test.support.settings import settings_for

Make = Callable[..., SharedSettings]


@pytest.fixture
def own_settings(own_redis: RedisServer, tmp_path: Path) -> SharedSettings:
    return settings_for(own_redis.port, "own", tmp_path, redis_timeout=0.5)


def queue_on(client: Redis, settings: SharedSettings) -> Queue:
    return Queue(client, Keys(settings.redis_namespace), settings)


async def test_a_refused_connection_is_unavailable_at_once(tmp_path: Path) -> None:
    settings = settings_for(free_port(), "x", tmp_path)
    client = connect(settings)
    began = time.monotonic()
    with pytest.raises(Unavailable):
        await queue_on(client, settings).submit([new_task()], queue_limit=10)
    assert time.monotonic() - began < 1
    await client.aclose()


@pytest.mark.parametrize("connected", [True, False], ids=["connected-before", "new-connection"])
async def test_a_stalled_redis_is_unavailable_within_the_time_limit(
    own_redis: RedisServer, own_settings: SharedSettings, connected: bool
) -> None:
    client = connect(own_settings)
    queue = queue_on(client, own_settings)
    if connected:
        await queue.submit([new_task()], queue_limit=10)
    own_redis.freeze()
    began = time.monotonic()
    with pytest.raises(Unavailable):
        await queue.submit([new_task()], queue_limit=10)
    assert time.monotonic() - began < 1.5 * own_settings.redis_timeout + 0.5
    own_redis.thaw()
    task = new_task()
    await queue.submit([task], queue_limit=10)
    assert (await queue.get(task.id)).id == task.id
    await client.aclose()


async def test_a_client_recovers_by_itself_when_redis_is_back(
    own_redis: RedisServer, own_settings: SharedSettings
) -> None:
    """What was acknowledged before the kill is there; scripts load again."""
    client = connect(own_settings)
    queue = queue_on(client, own_settings)
    task = new_task()
    await queue.submit([task], queue_limit=10)
    own_redis.kill()
    with pytest.raises(Unavailable):
        await queue.get(task.id)
    own_redis.start()
    assert (await queue.get(task.id)).position == 0
    await queue.submit([new_task()], queue_limit=10)
    await client.aclose()


async def test_a_full_redis_refuses_submits_and_lets_running_tasks_finish(
    own_redis: RedisServer, own_settings: SharedSettings
) -> None:
    # The client library strips the word OOM from the error: a full Redis looked like a bug of ours (500, no retry).
    # And no running task could renew its lease or end.
    client = connect(own_settings)
    queue = queue_on(client, own_settings)
    agent = Hand(queue, Registry(client, queue.keys, heartbeat_ttl=60, retention=600), "gpu-1")
    await agent.register()
    await queue.submit([new_task(), new_task()], queue_limit=10)
    first, second = await agent.take(), await agent.take()
    await client.config_set("maxmemory", "1")
    with pytest.raises(Unavailable, match="OOM"):
        await queue.submit([new_task()], queue_limit=10)
    assert await queue.renew(agent.session, {first.id: 1, second.id: 1}) == frozenset()
    await queue.complete(first, [])
    await queue.release(second, "test")
    assert (await queue.get(first.id)).status is Status.COMPLETED
    assert (await queue.get(second.id)).status is Status.PENDING
    await client.config_set("maxmemory", "0")
    await queue.submit([new_task()], queue_limit=10)
    await client.aclose()


async def test_a_replica_is_unavailable(own_redis: RedisServer, own_settings: SharedSettings) -> None:
    client = connect(own_settings)
    queue = queue_on(client, own_settings)
    await client.replicaof("127.0.0.1", str(free_port()))
    with pytest.raises(Unavailable):
        await queue.submit([new_task()], queue_limit=10)
    await client.replicaof("NO", "ONE")
    await queue.submit([new_task()], queue_limit=10)
    await client.aclose()


@pytest.mark.parametrize(
    ("error", "word"),
    [
        (OutOfMemoryError("command not allowed when used memory > 'maxmemory'.", status_code="OOM"), "OOM"),
        (ReadOnlyError("You can't write against a read only replica.", status_code="READONLY"), "READONLY"),
        (ResponseError("MISCONF Redis is configured to save RDB snapshots"), "MISCONF"),
        (ResponseError("BUSY Redis is busy running a script."), "BUSY"),
        (ResponseError("Error running script (call to f_1): @user_script:3: -OOM command not allowed"), "OOM"),
    ],
)
def test_states_that_pass_are_unavailable(error: ResponseError, word: str) -> None:
    with pytest.raises(Unavailable, match=word), border():
        raise error


@pytest.mark.parametrize(
    "error",
    [
        ResponseError("WRONGTYPE Operation against a key holding the wrong kind of value"),
        ResponseError("value 'LOADING' is not an integer, or BUSY"),
        ResponseError("user_script:3: attempt to index a nil value"),
        ValueError("not of Redis at all"),
    ],
)
def test_bugs_stay_what_they_are(error: Exception) -> None:
    # "BUSY" anywhere in an error, a client's own bytes included, made it an Unavailable.
    with pytest.raises(type(error)) as caught, border():
        raise error
    assert caught.value is error


async def test_more_commands_than_connections_wait_for_their_turn(
    redis_server: RedisServer, settings: SharedSettings, tmp_path: Path
) -> None:
    # The 65th concurrent command of a process was refused as if Redis were away.
    narrow = settings_for(redis_server.port, "x", tmp_path, redis_connections=4)
    client = connect(narrow)
    replies = await asyncio.gather(*(client.echo(str(number)) for number in range(100)))
    assert replies == [str(number).encode() for number in range(100)]
    await client.aclose()


async def test_a_stall_between_claim_and_reply_costs_no_second_task(
    own_redis: RedisServer, own_settings: SharedSettings
) -> None:
    """The claim may have happened although its caller heard `Unavailable`; the same prompt id finds it again."""
    client = connect(own_settings)
    queue = queue_on(client, own_settings)
    registry = Registry(client, queue.keys, heartbeat_ttl=60, retention=600)
    agent = Hand(queue, registry, "gpu-1")
    await agent.register()
    tasks = [new_task(), new_task()]
    await queue.submit([new_task()], queue_limit=10)
    await agent.take()
    await queue.submit(tasks, queue_limit=10)
    own_redis.freeze()
    with pytest.raises(Unavailable):
        await queue.claim(agent.name, agent.session, prompt_id="p")
    own_redis.thaw()
    reply = await queue.claim(agent.name, agent.session, prompt_id="p")
    assert getattr(reply, "id", None) == tasks[0].id
    assert len(await queue.held(agent.name)) == 2
    await client.aclose()
