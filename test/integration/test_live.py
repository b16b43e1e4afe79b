"""Live frames over the real Redis: who watches gets them, who does not costs nothing."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis

from comfy_shared.keys import Keys
from comfy_shared.lifecycle import Loops
from comfy_shared.live import LARGEST_FRAME, MOST_WAITING, PREVIEW, LiveFrame, LiveHub, LiveSender
from test.support.waiting import wait_until


def frame(task_id: str = "t1", node: str = "1", content: bytes = b"") -> LiveFrame:
    return LiveFrame(task_id=task_id, attempt=1, kind=PREVIEW if content else "executing", node=node, content=content)


class Ends:
    """A sender and two balancers."""

    def __init__(self, redis: Redis, keys: Keys) -> None:
        self.sender = LiveSender(redis, keys)
        self.hubs = (LiveHub(redis, keys), LiveHub(redis, keys))


@pytest.fixture
async def ends(redis: Redis, keys: Keys) -> AsyncIterator[Ends]:
    both = Ends(redis, keys)
    async with Loops(lambda name: None) as loops:
        loops.start("send", lambda: both.sender.send(loops))
        for number, hub in enumerate(both.hubs):
            loops.start(f"listen {number}", lambda hub=hub: hub.listen(loops))  # type: ignore[misc]
        yield both


async def test_every_watcher_of_the_owner_gets_the_frames_in_order(ends: Ends) -> None:
    heard: list[list[LiveFrame]] = [[], [], []]
    async with (
        ends.hubs[0].watch("anna", heard[0].append),
        ends.hubs[0].watch("anna", heard[1].append),
        ends.hubs[1].watch("anna", heard[2].append),
    ):
        sent = [frame(node=str(number), content=bytes([number])) for number in range(100)]
        for one in sent:
            ends.sender.put("anna", one)
        await wait_until(lambda: all(len(each) == 100 for each in heard), "all frames")
    assert heard == [sent, sent, sent]


async def test_a_function_that_watches_twice_is_called_once_until_both_ended(ends: Ends) -> None:
    heard: list[LiveFrame] = []
    on_frame = heard.append
    async with ends.hubs[0].watch("anna", on_frame):
        async with ends.hubs[0].watch("anna", on_frame):
            ends.sender.put("anna", frame(node="1"))
            await wait_until(lambda: bool(heard), "the first frame")
        ends.sender.put("anna", frame(node="2"))
        await wait_until(lambda: len(heard) > 1, "the second frame")
    assert [one.node for one in heard] == ["1", "2"]


async def test_another_owners_frames_are_not_heard(ends: Ends) -> None:
    heard: list[LiveFrame] = []
    other: list[LiveFrame] = []
    async with ends.hubs[0].watch("anna", heard.append), ends.hubs[0].watch("anna:x", other.append):
        ends.sender.put("anna:x", frame())
        ends.sender.put("berta", frame())
        ends.sender.put("anna", frame("t2"))
        await wait_until(lambda: bool(heard and other), "the own frame")
    assert [one.task_id for one in heard] == ["t2"]
    assert [one.task_id for one in other] == ["t1"]


async def test_frames_of_one_task_can_be_read_one_after_the_other(ends: Ends) -> None:
    async def read() -> list[str]:
        found = []
        async for one in ends.hubs[0].frames("anna", "t1"):
            found.append(one.node)
            if len(found) == 2:
                break
        return found

    reading = asyncio.create_task(read())
    await wait_until(lambda: "anna" in ends.hubs[0]._watchers, "the reader watches")

    async def reaches() -> bool:
        ends.sender.begin("anna")
        ends.sender.put("anna", frame("t2", "9"))
        ends.sender.put("anna", frame("t1", "1"))
        await asyncio.sleep(0)
        return reading.done()

    await wait_until(reaches, "two frames of the task")
    assert await reading == ["1", "1"]


async def test_an_unwatched_owner_is_silent_until_the_next_attempt(ends: Ends) -> None:
    ends.sender.put("anna", frame())
    await wait_until(lambda: not ends.sender.wanted("anna"), "silence")
    assert ends.sender.wanted("berta")
    ends.sender.begin("anna")
    assert ends.sender.wanted("anna")


async def test_what_is_too_large_or_too_much_is_dropped(redis: Redis, keys: Keys) -> None:
    sender = LiveSender(redis, keys)
    sender.put("anna", frame(content=b"x" * (LARGEST_FRAME + 1)))
    assert len(sender._waiting) == 0
    for _ in range(5):
        sender.put("anna", frame(content=b"x" * LARGEST_FRAME))
    assert len(sender._waiting) == 2
    for _ in range(MOST_WAITING + 5):
        sender.put("anna", frame())
    assert len(sender._waiting) == MOST_WAITING


async def test_connections_do_not_grow_with_watchers(ends: Ends, redis: Redis) -> None:
    before = (await redis.info("clients"))["connected_clients"]
    async with contextlib.AsyncExitStack() as stack:
        for number in range(50):
            await stack.enter_async_context(ends.hubs[0].watch(f"owner-{number % 7}", lambda _: None))
        assert (await redis.info("clients"))["connected_clients"] <= before + 2
    assert ends.hubs[0]._watchers == {}


async def test_damaged_frames_are_left_out(ends: Ends, redis: Redis, keys: Keys) -> None:
    heard: list[LiveFrame] = []
    async with ends.hubs[0].watch("anna", heard.append):
        await redis.publish(keys.live("anna"), b"\xc1 no frames")
        ends.sender.put("anna", frame())
        await wait_until(lambda: bool(heard), "the good frame")


async def test_watchers_hear_again_after_redis_dropped_the_connection(ends: Ends, redis: Redis) -> None:
    heard: list[LiveFrame] = []
    async with ends.hubs[0].watch("anna", heard.append):
        await redis.client_kill_filter(_type="pubsub")

        async def again() -> bool:
            ends.sender.begin("anna")
            ends.sender.put("anna", frame())
            return bool(heard)

        await wait_until(again, "frames after the break")
