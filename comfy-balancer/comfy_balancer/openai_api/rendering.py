"""From a call to finished tasks."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from typing import Any

import msgspec
from starlette.requests import Request

from comfy_balancer.dependencies import Resources
from comfy_balancer.openai_api.errors import NoSuchModel, RenderFailed, failure
from comfy_balancer.openai_api.mapping import parameters_of, places_of, told
from comfy_balancer.openai_api.pictures import pictures_of
from comfy_balancer.openai_api.requests import ImageRequest
from comfy_balancer.schemas import TaskRequest
from comfy_shared.callers import Caller
from comfy_shared.errors import InvalidTask, NotFound
from comfy_shared.live import PREVIEW, LiveFrame
from comfy_shared.models import Status, Task
from comfy_shared.workflows import Workflow

PREVIEWS_KEPT = 4  # unread ones of a task


async def model(here: Resources, name: str) -> Workflow:
    """The workflow of a model's name. Raises NoSuchModel."""
    try:
        return await here.catalog.get(name)
    except NotFound:
        raise NoSuchModel(f"The model {name[:64]!r} does not exist.") from None


async def submit(here: Resources, who: Caller, request: ImageRequest, key: str | None) -> tuple[Task, ...]:
    """The tasks of a call, accepted. Raises what is wrong with it, with the fields as the client wrote them."""
    workflow = await model(here, request.model)
    places = places_of(workflow)
    calls = [
        TaskRequest(workflow=workflow.name, parameters=parameters)
        for parameters in parameters_of(workflow, places, request)
    ]
    await here.service.store([*request.images, *([request.mask] if request.mask else [])])
    try:
        return (await here.service.submit_batch(calls, who, key=key)).tasks
    except InvalidTask as error:
        raise told(error, places) from None


async def finished(here: Resources, task: Task) -> Task:
    """The completed task. Raises RenderFailed: it did not complete, or not in time, or made no picture."""
    task = await here.service.wait(task, here.settings.openai_seconds)
    if not task.status.final:
        raise RenderFailed(f"The picture was not ready within {here.settings.openai_seconds:g} s.", "timeout", 504)
    if task.status is not Status.COMPLETED or not pictures_of(task):
        raise failure(task)
    return task


async def all_finished(here: Resources, request: Request, tasks: tuple[Task, ...]) -> list[Task]:
    """All tasks, completed; the first that fails ends the wait for the others, as does a client that hangs up."""
    work = asyncio.gather(*(finished(here, task) for task in tasks))
    leaving = asyncio.create_task(_left(request))
    try:
        either: set[asyncio.Future[Any]] = {work, leaving}
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if work.done():
            return work.result()
        raise RenderFailed("The client hung up.", "canceled", 499)
    finally:
        leaving.cancel()
        work.cancel()
        await asyncio.gather(work, leaving, return_exceptions=True)


async def _left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        continue


class Partials:
    """Previews of one task, of which as many are chosen as were wished, spread over the run."""

    def __init__(self, wished: int) -> None:
        self._wished = wished
        self._sent = 0
        self._fraction = 0.0  # of the sampler's steps

    def take(self, frame: LiveFrame) -> Iterator[bytes]:
        """The preview, when it is time for one."""
        if frame.kind == "progress":
            with suppress(TypeError, ValueError, ZeroDivisionError):
                self._fraction = float(frame.data["value"]) / float(frame.data["max"])
        if frame.kind == PREVIEW and self._sent < self._wished and self._fraction >= self._sent / (self._wished + 1):
            self._sent += 1
            yield frame.content


async def previews(here: Resources, task: Task, wished: int) -> AsyncIterator[tuple[int, bytes] | Task]:
    """(index, picture) of up to `wished` previews, then the completed task. Raises RenderFailed.

    Previews are decoration: those of a task that runs before somebody watches, or faster than they are read, are lost.
    """
    ready: asyncio.Queue[tuple[int, bytes]] = asyncio.Queue(PREVIEWS_KEPT)
    chosen = Partials(wished)
    count = 0

    def keep(frame: LiveFrame) -> None:
        nonlocal count
        if frame.task_id != task.id:
            return
        for content in chosen.take(frame):
            with suppress(asyncio.QueueFull):
                ready.put_nowait((count, content))
                count += 1

    async with here.live.watch(task.owner, keep):
        ending = asyncio.create_task(finished(here, task))
        try:
            while not ending.done():
                next_one = asyncio.create_task(ready.get())
                await asyncio.wait({ending, next_one}, return_when=asyncio.FIRST_COMPLETED)
                if next_one.done():
                    yield next_one.result()
                else:
                    next_one.cancel()
            yield await ending
        finally:
            ending.cancel()
            await asyncio.gather(ending, return_exceptions=True)


def encode_event(name: str, data: dict[str, object]) -> bytes:
    """One server-sent event."""
    return b"event: " + name.encode() + b"\ndata: " + msgspec.json.encode(data) + b"\n\n"
