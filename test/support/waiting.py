"""Waiting for conditions instead of sleeping."""

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable

STEP = 0.005  # seconds between two looks


async def wait_until(
    predicate: Callable[[], bool | Awaitable[bool]],
    description: str,
    timeout: float = 10,
) -> None:
    """Returns as soon as the predicate (plain or async) is true; fails with the description after `timeout` seconds."""
    end = time.monotonic() + timeout
    while True:
        value = predicate()
        if await value if inspect.isawaitable(value) else value:
            return
        assert time.monotonic() < end, f"gave up waiting until {description}"
        await asyncio.sleep(STEP)


def wait_blocking(predicate: Callable[[], bool], description: str, timeout: float = 10) -> None:
    """The same for tests without an event loop."""
    end = time.monotonic() + timeout
    while not predicate():
        assert time.monotonic() < end, f"gave up waiting until {description}"
        time.sleep(STEP)
