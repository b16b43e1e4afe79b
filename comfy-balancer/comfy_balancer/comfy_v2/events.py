"""A job's live stream: a snapshot first, then what changes, the outputs, and the final status last.

By contract frames have no id and are not replayed: each progress frame is a whole picture, and who connects again is
told the present state. While nothing happens a comment keeps the connection, and the place in the queue is looked up
again.
"""

import asyncio
from collections.abc import AsyncIterator

import msgspec

from comfy_balancer.comfy_v2.schemas import StatusEvent
from comfy_balancer.comfy_v2.views import Address, job_view, outputs_view, progress_view
from comfy_balancer.service import TaskService
from comfy_shared.callers import Caller
from comfy_shared.errors import Damaged, NotFound, Unavailable
from comfy_shared.models import Event, EventType, Progress, Status, Task

QUIET = 10.0  # seconds without an event, after which the place in the queue is told again
APART = 500  # ms at least between two frames of progress
KEEPALIVE = b": keepalive\n\n"
WAITS = frozenset({EventType.QUEUED, EventType.RETRYING, EventType.RELEASED})


class Teller:
    """What is told of one job, and what was told last."""

    def __init__(self, at: Address) -> None:
        self._at = at
        self._told = StatusEvent(status="")
        self._progress_at = 0  # ms: when progress was told last

    def snapshot(self, task: Task) -> list[bytes]:
        """The present state; for a job that ended all there is to say."""
        job = job_view(task, self._at)
        status = self._status(StatusEvent(status=job.status, queue_position=job.queue_position))
        if task.status.final:
            return [*(frame("output", output) for output in outputs_view(task, self._at)), *status]
        return [*status, *([frame("progress", job.progress)] if job.progress else [])]

    def event(self, event: Event) -> list[bytes]:
        """What an event that is not the last says."""
        if event.type in WAITS:
            return self._status(StatusEvent(status="queued"))
        frames = self._status(StatusEvent(status="running"))
        if event.type is EventType.PROGRESS and event.at >= self._progress_at + APART:
            self._progress_at = event.at
            frames.append(frame("progress", progress_view(msgspec.convert(event.data, Progress))))
        return frames

    def _status(self, status: StatusEvent) -> list[bytes]:
        if status == self._told:
            return []
        self._told = status
        return [frame("status", status)]


def frame(name: str, data: object) -> bytes:
    """One event of the stream."""
    return b"event: %s\ndata: %s\n\n" % (name.encode(), msgspec.json.encode(data))


async def stream(service: TaskService, task: Task, who: Caller, at: Address) -> AsyncIterator[bytes]:
    """The frames of a job from now to its end."""
    teller = Teller(at)
    for one in teller.snapshot(task):
        yield one
    if task.status.final:
        return
    try:
        async for event in _with_pauses(service.follow(task.id, task.events), QUIET):
            for one in await _frames(service, task.id, who, teller, event):
                yield one
            if event is not None and event.type.final:
                return
    except (NotFound, Unavailable, Damaged):
        return  # the client asks again, and is told then


async def _frames(service: TaskService, task_id: str, who: Caller, teller: Teller, event: Event | None) -> list[bytes]:
    if event is not None and not event.type.final:
        return teller.event(event)
    task = await service.get(task_id, who)
    if event is None:
        return [KEEPALIVE, *(teller.snapshot(task) if task.status is Status.PENDING else [])]
    return teller.snapshot(task)


async def _with_pauses(events: AsyncIterator[Event], seconds: float) -> AsyncIterator[Event | None]:
    """The events; None after each `seconds` without one."""
    pending = asyncio.ensure_future(anext(events, None))
    try:
        while True:
            await asyncio.wait({pending}, timeout=seconds)
            if not pending.done():
                yield None
                continue
            event = pending.result()
            if event is None:
                return
            yield event
            pending = asyncio.ensure_future(anext(events, None))
    finally:
        pending.cancel()
        await asyncio.gather(pending, return_exceptions=True)
