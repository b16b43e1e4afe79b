"""A job's live stream: a snapshot first, then what changes, the outputs, and the final status last.

By contract frames have no id and are not replayed: each progress frame is a whole picture, and who connects again is
told the present state. While nothing happens a comment keeps the connection, and the place in the queue is looked up
again.
"""

import asyncio
import base64
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Any

import msgspec

from comfy_balancer.comfy_v2.schemas import PreviewEvent, StatusEvent
from comfy_balancer.comfy_v2.views import Address, job_view, outputs_view, progress_view
from comfy_balancer.service import TaskService
from comfy_shared.callers import Caller
from comfy_shared.errors import Damaged, NotFound, Unavailable
from comfy_shared.live import PREVIEW, LiveFrame, LiveHub
from comfy_shared.models import Event, EventType, Progress, Status, Task

QUIET = 10.0  # seconds without an event, after which the place in the queue is told again
APART = 500  # ms at least between two frames of progress, and between two previews
KEEPALIVE = b": keepalive\n\n"
WAITS = frozenset({EventType.QUEUED, EventType.RETRYING, EventType.RELEASED})


class Teller:
    """What is told of one job, and what was told last."""

    def __init__(self, at: Address) -> None:
        self._at = at
        self._told = StatusEvent(status="")
        self._progress_at = 0  # ms: when progress was told last
        self._preview_at = 0.0  # s of this process's clock: when a preview was

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

    def preview(self, shown: LiveFrame) -> list[bytes]:
        """A picture of a step; not each of them."""
        now = time.monotonic()
        if shown.kind != PREVIEW or now < self._preview_at + APART / 1000:
            return []
        self._preview_at = now
        data = base64.b64encode(shown.content).decode()
        content_type = str(shown.data.get("image_type", "image/jpeg"))
        return [frame("preview", PreviewEvent(node_id=shown.node, content_type=content_type, data_base64=data))]

    def _status(self, status: StatusEvent) -> list[bytes]:
        if status == self._told:
            return []
        self._told = status
        return [frame("status", status)]


def frame(name: str, data: object) -> bytes:
    """One event of the stream."""
    return b"event: %s\ndata: %s\n\n" % (name.encode(), msgspec.json.encode(data))


class Source:
    """Where the news of a job come from."""

    def __init__(self, service: TaskService, live: LiveHub, who: Caller) -> None:
        self.service = service
        self.who = who
        self._live = live

    async def stream(self, task: Task, at: Address) -> AsyncIterator[bytes]:
        """The frames of a job from now to its end."""
        teller = Teller(at)
        for one in teller.snapshot(task):
            yield one
        if task.status.final:
            return
        news = merged(self.service.follow(task.id, task.events), self._live.frames(task.owner, task.id), quiet=QUIET)
        try:
            async with aclosing(news):
                async for item in news:
                    for one in await self._frames(task.id, teller, item):
                        yield one
                    if isinstance(item, Event) and item.type.final:
                        return
        except (NotFound, Unavailable, Damaged):
            return  # the client asks again, and is told then

    async def _frames(self, task_id: str, teller: Teller, item: Event | LiveFrame | None) -> list[bytes]:
        if isinstance(item, LiveFrame):
            return teller.preview(item)
        if item is not None and not item.type.final:
            return teller.event(item)
        task = await self.service.get(task_id, self.who)
        if item is None:
            return [KEEPALIVE, *(teller.snapshot(task) if task.status is Status.PENDING else [])]
        return teller.snapshot(task)


async def merged(
    events: AsyncIterator[Event], frames: AsyncIterator[LiveFrame], *, quiet: float
) -> AsyncGenerator[Event | LiveFrame | None]:
    """Events and live frames as they come; None after each `quiet` seconds without any. Ends with the events."""
    event: asyncio.Future[Event | None] = asyncio.ensure_future(anext(events, None))
    frame: asyncio.Future[LiveFrame | None] = asyncio.ensure_future(anext(frames, None))
    try:
        while True:
            waiting: set[asyncio.Future[Any]] = {event, frame}
            done, _ = await asyncio.wait(waiting, timeout=quiet, return_when=asyncio.FIRST_COMPLETED)
            if not done:
                yield None
            if frame in done and (shown := frame.result()) is not None:
                frame = asyncio.ensure_future(anext(frames, None))
                yield shown
            if event in done:
                told = event.result()
                if told is None:
                    return
                event = asyncio.ensure_future(anext(events, None))
                yield told
    finally:
        for pending in (event, frame):
            pending.cancel()
        await asyncio.gather(event, frame, return_exceptions=True)
