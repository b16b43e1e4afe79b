"""Calls that share batches: each gets its own reply, whatever becomes of its neighbours, and none is left waiting."""

import asyncio
from typing import Any

import pytest
from redis.asyncio import Redis
from redis.exceptions import ResponseError

from comfy_shared.batching import LARGEST, LEAST, MOST, Batcher


def echo(batcher: Batcher, number: int) -> asyncio.Task[object]:
    return asyncio.create_task(batcher.call("ECHO", str(number)))


@pytest.mark.parametrize("number", [1, LEAST, LEAST * MOST + 1, 10 * LARGEST])
async def test_each_call_gets_its_own_reply(redis: Redis, number: int) -> None:
    batcher = Batcher(redis)
    replies = await asyncio.gather(*[echo(batcher, each) for each in range(number)])
    assert replies == [str(each).encode() for each in range(number)]


async def test_a_call_that_comes_while_every_sender_ends_is_sent(redis: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    batcher, pool, ended = Batcher(redis), redis.connection_pool, asyncio.Event()
    release = pool.release

    async def slow_release(connection: Any) -> None:
        await ended.wait()
        await release(connection)

    monkeypatch.setattr(pool, "release", slow_release)
    await asyncio.gather(*[echo(batcher, number) for number in range(LEAST * MOST)])
    async with asyncio.timeout(5):
        assert await batcher.call("ECHO", "late") == b"late"
    ended.set()


async def test_a_refused_call_does_not_spoil_its_neighbours(redis: Redis) -> None:
    batcher = Batcher(redis)
    calls = [echo(batcher, 1), asyncio.create_task(batcher.call("NO-SUCH")), echo(batcher, 2)]
    first, refused, second = await asyncio.gather(*calls, return_exceptions=True)
    assert (first, second) == (b"1", b"2")
    assert isinstance(refused, ResponseError)


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
