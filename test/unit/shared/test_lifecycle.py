"""Named loops: a dead one is told, a stop ends all, a deaf one is canceled."""

import asyncio

import pytest
from structlog.testing import capture_logs

from comfy_shared.lifecycle import Backoff, Loops
from test.support.waiting import wait_until


async def test_a_stop_ends_every_loop_and_nobody_is_told_of_a_death() -> None:
    deaths: list[str] = []
    rounds: list[str] = []
    async with Loops(deaths.append) as loops:

        async def loop() -> None:
            while not await loops.pause(0.001):
                rounds.append("round")

        for name in ("one", "two"):
            loops.start(name, loop)
        await wait_until(lambda: len(rounds) > 4, "the loops run")
    count = len(rounds)
    await asyncio.sleep(0)
    assert (deaths, len(rounds)) == ([], count)


async def test_a_loop_that_raises_is_logged_and_told_by_name() -> None:
    deaths: list[str] = []

    async def broken() -> None:
        raise RuntimeError("a bug")

    with capture_logs() as logs:
        async with Loops(deaths.append) as loops:
            loops.start("sweeper", broken)
            await wait_until(lambda: bool(deaths), "the death is told")
    assert deaths == ["sweeper"]
    assert [(line["action"], line["loop"], line["log_level"]) for line in logs] == [("loop.died", "sweeper", "error")]


async def test_a_loop_that_ends_early_is_dead_too() -> None:
    deaths: list[str] = []

    async def short() -> None:
        return

    async with Loops(deaths.append) as loops:
        loops.start("sweeper", short)
        await wait_until(lambda: bool(deaths), "the death is told")
    assert deaths == ["sweeper"]


async def test_a_loop_that_does_not_hear_the_stop_is_canceled() -> None:
    deaths: list[str] = []
    canceled: list[bool] = []

    async def deaf() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            canceled.append(True)
            raise

    async with asyncio.timeout(5):
        async with Loops(deaths.append, patience=0.01) as loops:
            loops.start("deaf", deaf)
            await asyncio.sleep(0)
    assert (deaths, canceled) == ([], [True])


async def test_an_error_of_the_block_ends_the_loops_and_goes_on() -> None:
    ended: list[bool] = []

    async def block() -> None:
        async with Loops(lambda _name: None) as loops:

            async def loop() -> None:
                ended.append(await loops.pause(60))

            loops.start("loop", loop)
            await asyncio.sleep(0)
            raise ValueError("of the block")

    with pytest.raises(ValueError, match="of the block"):
        await block()
    assert ended == [True]


async def test_a_loop_has_its_name_in_debuggers() -> None:
    names: list[str] = []
    async with Loops(lambda _name: None) as loops:

        async def loop() -> None:
            task = asyncio.current_task()
            names.append(task.get_name() if task else "")
            await loops.pause(60)

        loops.start("sweeper", loop)
        await wait_until(lambda: bool(names), "it runs")
    assert names == ["sweeper"]


async def test_no_loops_are_fine() -> None:
    async with Loops(lambda _name: None) as loops:
        pass
    assert loops.stop.is_set()


def test_waits_double_up_to_the_longest_and_start_over_after_a_reset() -> None:
    backoff = Backoff(1, 5)
    for step in (1, 2, 4, 5, 5):
        assert step / 2 <= backoff.next() <= step
    backoff.reset()
    assert backoff.next() <= 1


def test_waits_are_jittered() -> None:
    """So that many processes do not come back at the same moment."""
    assert len({Backoff(1, 1).next() for _ in range(20)}) > 1
