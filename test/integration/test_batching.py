"""Calls that share batches: each gets its own reply, whatever becomes of its neighbours, and none is left waiting."""

import asyncio
from pathlib import Path
from typing import Any, cast

import pytest
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError

from comfy_shared.batching import LARGEST, LEAST, MOST, Batcher, batcher_of
from comfy_shared.store import connect
from comfy_shared.wire import Wire
from test.support.redis_server import RedisServer
from test.support.settings import settings_for
from test.support.waiting import wait_until


def echo(batcher: Batcher, number: int) -> asyncio.Task[object]:
    return asyncio.create_task(batcher.call("ECHO", str(number)))


@pytest.mark.parametrize("number", [1, LEAST, LEAST * MOST + 1, 10 * LARGEST])
async def test_each_call_gets_its_own_reply(redis: Redis, number: int) -> None:
    batcher = Batcher(redis)
    replies = await asyncio.gather(*[echo(batcher, each) for each in range(number)])
    assert replies == [str(each).encode() for each in range(number)]


async def test_a_call_that_comes_while_it_connects_is_sent(redis: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    batcher, connects, may = Batcher(redis), asyncio.Event(), asyncio.Event()
    pool: Any = redis.connection_pool
    get_connection = pool.get_connection

    async def slow() -> Any:
        connects.set()
        await may.wait()
        return await get_connection()

    monkeypatch.setattr(pool, "get_connection", slow)
    first = echo(batcher, 1)
    await connects.wait()
    second = echo(batcher, 2)
    await asyncio.sleep(0)
    may.set()
    assert [await first, await second] == [b"1", b"2"]


async def test_a_refused_call_does_not_spoil_its_neighbours(redis: Redis) -> None:
    batcher = Batcher(redis)
    calls = [echo(batcher, 1), asyncio.create_task(batcher.call("NO-SUCH")), echo(batcher, 2)]
    first, refused, second = await asyncio.gather(*calls, return_exceptions=True)
    assert (first, second) == (b"1", b"2")
    assert isinstance(refused, ResponseError)


async def test_a_call_that_cannot_be_written_down_does_not_spoil_those_that_share_its_command(redis: Redis) -> None:
    batcher = Batcher(redis)
    head = ("EVAL", "return {ARGV[2], ARGV[4]}", 0)
    calls = [batcher.share(head, [value]) for value in ("one", "half \ud800", None, "two")]
    first, half, nothing, second = await asyncio.gather(*calls, return_exceptions=True)
    assert (first, second) == (b"one", b"two"), "each in a command of its own"
    assert isinstance(half, UnicodeEncodeError)
    assert isinstance(nothing, TypeError)
    assert await batcher.call("ECHO", "after") == b"after"


async def test_a_caller_that_gives_up_does_not_disturb_the_others(redis: Redis) -> None:
    batcher = Batcher(redis)
    calls = [echo(batcher, number) for number in range(3 * LEAST)]
    await asyncio.sleep(0)
    for call in calls[::2]:
        call.cancel()
    replies = await asyncio.gather(*calls, return_exceptions=True)
    assert replies[1::2] == [str(number).encode() for number in range(1, 3 * LEAST, 2)]
    assert await batcher.call("ECHO", "after") == b"after"


async def test_connections_that_were_cut_are_made_anew(redis: Redis) -> None:
    batcher = Batcher(redis)
    await asyncio.gather(*[echo(batcher, number) for number in range(LEAST * MOST)])
    await redis.client_kill_filter(_type="normal", skipme=True)
    replies = await asyncio.gather(*[echo(batcher, number) for number in range(LEAST * MOST)])
    assert replies == [str(number).encode() for number in range(LEAST * MOST)]


async def test_what_was_under_way_on_a_connection_that_was_cut_is_sent_once_more(redis: Redis) -> None:
    batcher = Batcher(redis)
    waiting = asyncio.create_task(batcher.call("BLPOP", "list-of-this-test", "0"))
    await wait_until(lambda: blocked(redis), "Redis waits for it")
    await redis.client_kill_filter(_type="normal", skipme=True)
    await wait_until(lambda: blocked(redis), "it was sent again")
    await cast("Any", redis.lpush("list-of-this-test", "x"))
    assert await waiting == [b"list-of-this-test", b"x"]


async def test_what_is_cut_twice_fails_and_the_next_call_works(redis: Redis) -> None:
    batcher = Batcher(redis)
    waiting = asyncio.create_task(batcher.call("BLPOP", "list-of-this-test", "0"))
    for _ in range(2):
        await wait_until(lambda: blocked(redis), "Redis waits for it")
        await redis.client_kill_filter(_type="normal", skipme=True)
    with pytest.raises(RedisConnectionError):
        await waiting
    assert await batcher.call("ECHO", "after") == b"after"


async def test_a_reply_that_does_not_come_in_time_ends_its_connection(own_redis: RedisServer, tmp_path: Path) -> None:
    client = connect(settings_for(own_redis.port, "own", tmp_path, redis_timeout=0.2))
    batcher = Batcher(client)
    with pytest.raises(TimeoutError):
        await batcher.call("BLPOP", "list-of-this-test", "0")
    assert await batcher.call("ECHO", "after") == b"after", "not the late reply"
    await client.aclose()


async def test_a_connection_that_ended_before_it_was_used_is_refused(redis: Redis) -> None:
    """Its end was told to somebody else: an ear on it would be deaf for ever."""
    pool: Any = redis.connection_pool
    connection = await pool.get_connection()
    connection._writer.transport.abort()
    with pytest.raises(RedisConnectionError):
        Wire(connection, None, lambda _: None)
    await connection.disconnect()
    await pool.release(connection)


async def test_a_subscription_that_is_refused_ends_the_connection(own_redis: RedisServer, tmp_path: Path) -> None:
    client = connect(settings_for(own_redis.port, "own", tmp_path))
    pool: Any = client.connection_pool
    connection = await pool.get_connection()
    await client.acl_setuser("default", reset_channels=True)
    lost = asyncio.Event()
    Wire(connection, None, lambda _: lost.set()).subscribe("channel-of-this-test")
    async with asyncio.timeout(5):
        await lost.wait()
    await client.aclose()


async def test_all_that_share_a_client_share_a_connection(own_redis: RedisServer, tmp_path: Path) -> None:
    client = connect(settings_for(own_redis.port, "own", tmp_path))
    assert batcher_of(client) is batcher_of(client)
    await asyncio.gather(*[batcher_of(client).call("ECHO", str(number)) for number in range(100)])
    assert len(await client.client_list(_type="normal")) == 2, "and one for this question"
    await client.aclose()


async def blocked(redis: Redis) -> bool:
    return bool((await redis.info("clients"))["blocked_clients"])
