"""Background loops that are named and supervised.

`Loops` is an `async with`: each loop is a coroutine function that runs until the stop event is set; a loop that ends
by an exception is logged and
stops the process through `on_death`, because a process that silently stopped sweeping or renewing is worse than a
dead one.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable
from contextlib import suppress
from types import TracebackType

import structlog

log = structlog.get_logger(__name__)


class Loops:
    """Runs named loops until its end. `stop` is set first; a loop that has not ended `patience` seconds later is
    canceled."""

    def __init__(self, on_death: Callable[[str], None], *, patience: float = 2.0) -> None:
        self.stop = asyncio.Event()
        self._on_death = on_death
        self._patience = patience
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self, name: str, loop: Callable[[], Awaitable[None]]) -> None:
        """Starts a loop under a name that logs and debuggers show."""
        self._tasks.add(asyncio.create_task(self._watch(name, loop), name=name))

    async def _watch(self, name: str, loop: Callable[[], Awaitable[None]]) -> None:
        try:
            await loop()
        except asyncio.CancelledError:
            raise
        except Exception:
            log.exception("A background loop died", action="loop.died", loop=name)
            self._on_death(name)
        else:
            if not self.stop.is_set():
                log.error("A background loop ended early", action="loop.died", loop=name)
                self._on_death(name)

    async def pause(self, seconds: float) -> bool:
        """Waits `seconds` or for the stop; True when it is time to stop."""
        try:
            async with asyncio.timeout(seconds):
                await self.stop.wait()
        except TimeoutError:
            return False
        return True

    async def __aenter__(self) -> "Loops":
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop.set()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=self._patience)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


class Backoff:
    """Waiting times that double from `first` to `longest` seconds, jittered, until `reset`."""

    def __init__(self, first: float, longest: float) -> None:
        self._first = first
        self._longest = longest
        self._next = first

    def reset(self) -> None:
        self._next = self._first

    def next(self) -> float:
        """Seconds to wait now: between half of the step and all of it."""
        step = self._next
        self._next = min(self._longest, step * 2)
        return step * random.uniform(0.5, 1)


async def first_of(*events: asyncio.Event, timeout: float | None = None) -> None:
    """Waits for the first of some events, or for `timeout` seconds."""
    if any(event.is_set() for event in events):
        return
    if len(events) == 1:  # without a task for it
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await events[0].wait()
        return
    waiters = [asyncio.create_task(event.wait()) for event in events]
    try:
        await asyncio.wait(waiters, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for waiter in waiters:
            waiter.cancel()
