"""Batches as the balancer handles them: read, follow, cancel, retry. Knows no HTTP.

Canceling and retrying a batch is the same step for each of its tasks; a call that is broken off goes on when it is
repeated.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable

import structlog

from comfy_balancer.listing import decode_cursor, encode_cursor
from comfy_balancer.service import TaskService
from comfy_shared.batches import Batch, Batches
from comfy_shared.callers import Caller
from comfy_shared.errors import Conflict, NotFound, Unavailable
from comfy_shared.events import EventHub
from comfy_shared.lifecycle import Backoff
from comfy_shared.models import Status, Task

log = structlog.get_logger(__name__)

BATCH_ID = re.compile(r"[0-9a-z]{26}")
TOLD_EVERY = 0.25  # seconds between two states that a follower is told, at least
AT_ONCE = 32  # steps of one call that are under way together


class BatchService:
    """What clients do with batches. Every method raises `Unavailable` while Redis is away."""

    def __init__(self, batches: Batches, hub: EventHub, service: TaskService) -> None:
        self._batches = batches
        self._hub = hub
        self._service = service

    async def get(self, batch_id: str, who: Caller) -> Batch:
        """A batch that the caller may see. Raises NotFound, Damaged."""
        if BATCH_ID.fullmatch(batch_id):
            batch = await self._batches.get(batch_id)
            if who.may_see(batch.owner):
                return batch
        raise NotFound("there is no such batch")

    async def tasks(self, batch: Batch, *, start: int = 0, count: int | None = None) -> list[Task]:
        """Its tasks in the order of the call, without their prompts."""
        return await self._batches.tasks(batch.id, start=start, count=count)

    async def page(self, who: Caller, *, cursor: str | None, limit: int) -> tuple[list[Batch], str | None]:
        """The caller's batches, newest first, and the cursor of the next page."""
        before = decode_cursor(cursor) if cursor is not None else None
        owner = None if who.is_admin else who.owner
        found = await self._batches.page(owner, before=before, limit=limit + 1)
        if len(found) <= limit:
            return found, None
        last = found[limit - 1]
        return found[:limit], encode_cursor(last.created_at, last.id)

    async def cancel(self, batch_id: str, who: Caller) -> Batch:
        """Cancels its tasks that have not ended. Raises NotFound."""
        batch = await self.get(batch_id, who)
        left = [task for task in await self.tasks(batch) if not task.status.final]
        number = await _each(left, lambda task: self._service.queue.cancel(task.id))
        log.info("Batch canceled", action="batch.canceled", batch=batch_id, tasks=number)
        return await self.get(batch_id, who)

    async def retry(self, batch_id: str, who: Caller) -> Batch:
        """Puts its failed tasks back. Raises NotFound; Conflict when none failed; QueueFull."""
        batch = await self.get(batch_id, who)
        failed = [task for task in await self.tasks(batch) if task.status is Status.FAILED]
        if not failed:
            raise Conflict("no task of the batch has failed")
        number = await _each(failed, lambda task: self._service.retry(task.id, who))
        log.info("Batch put back by hand", action="batch.retried", batch=batch_id, tasks=number)
        return await self.get(batch_id, who)

    async def wait(self, batch: Batch, seconds: float) -> Batch:
        """The batch when all of its tasks ended, or as it is when the time is up."""
        try:
            async with asyncio.timeout(seconds):
                async for state in self.follow(batch):
                    batch = state
        except TimeoutError:
            return await self._batches.get(batch.id)
        return batch

    async def follow(self, batch: Batch) -> AsyncIterator[Batch]:
        """The batch as it is, and again whenever one of its tasks told something, until all ended or it is gone.

        While Redis is away the iteration waits.
        """
        backoff = Backoff(0.1, 2.0)
        with self._hub.batch_news(batch.id) as news:
            while True:
                news.clear()
                try:
                    batch = await self._batches.get(batch.id)
                except NotFound:
                    return
                except Unavailable:
                    await asyncio.sleep(backoff.next())
                    news.set()
                else:
                    backoff.reset()
                    yield batch
                    if batch.ended:
                        return
                    await asyncio.sleep(TOLD_EVERY)
                await news.wait()


async def _each(tasks: list[Task], step: Callable[[Task], Awaitable[object]]) -> int:
    """Does the step for each task; how many took it. One that ended, went or came back meanwhile is left as it is."""
    slots = asyncio.Semaphore(AT_ONCE)

    async def one(task: Task) -> int:
        async with slots:
            try:
                await step(task)
            except (Conflict, NotFound):
                return 0
            return 1

    results = await asyncio.gather(*(one(task) for task in tasks), return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return sum(result for result in results if isinstance(result, int))
