"""A task's story, live: server-sent events, and the same over a websocket."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from typing import Annotated

import msgspec
from fastapi import APIRouter, Depends, Header, Query, WebSocket, WebSocketDisconnect

from comfy_balancer import views
from comfy_balancer.dependencies import Here, Resources, Who
from comfy_balancer.event_stream import EventStream, frame
from comfy_shared.callers import Caller
from comfy_shared.errors import ComfyError
from comfy_shared.http.problems import NothingMore, invalid, respond

router = APIRouter(prefix="/tasks", tags=["Tasks"])

After = Annotated[int | None, Query(ge=0, le=2**53, description="Only events after this number.")]


async def _place(
    task_id: str,
    here: Here,
    who: Who,
    after: After = None,
    last_event_id: Annotated[str | None, Header(description="As browsers send it; goes before `after`.")] = None,
) -> int:
    """Where to begin; refuses before the stream starts."""
    place = after or 0
    if last_event_id:
        if not last_event_id.isdecimal() or len(last_event_id) > 15:
            raise invalid("Last-Event-ID", "must be the number of an event")
        place = int(last_event_id)
    task = await here.service.get(task_id, who)
    if task.status.final and task.events <= place:
        raise NothingMore
    return place


@router.get(
    "/{task_id}/events",
    summary="A task's events",
    response_class=EventStream,
    responses={204: {"description": "The story has ended, and you have all of it: do not connect again."}},
)
async def events(task_id: str, here: Here, place: Annotated[int, Depends(_place)]) -> EventStream:
    """Streams the events of the past, then the live ones, and ends after the final one.

    `id` is the event's number, `event` its type, `data` the event as JSON. Send Last-Event-ID to go on.
    """
    return EventStream(_frames(here, task_id, place))


async def _frames(here: Resources, task_id: str, place: int) -> AsyncGenerator[bytes, None]:
    async for event in here.service.follow(task_id, place):
        yield frame(event.seq, event.type.value, msgspec.json.encode(views.event_view(event)))


@router.websocket("/{task_id}/ws")
async def websocket(socket: WebSocket, task_id: str, here: Here, who: Who, after: After = None) -> None:
    """Sends the same events as JSON text frames and closes with 1000 after the last. Ignores what the client sends."""
    try:
        await here.service.get(task_id, who)
    except ComfyError as error:
        answer = respond(error, socket.state.request_id)
        if "websocket.http.response" in socket.scope.get("extensions", {}):
            await socket.send_denial_response(answer)
        else:
            await socket.close(4000 + answer.status_code)
        return
    await socket.accept()
    sending = asyncio.create_task(_send(socket, here, who, task_id, after or 0))
    leaving = asyncio.create_task(_left(socket))
    try:
        await asyncio.wait({sending, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if sending.done() and not sending.exception():
            await socket.close(1000)
    finally:
        for task in (sending, leaving):
            task.cancel()
        ends = await asyncio.gather(sending, leaving, return_exceptions=True)
    for end in ends:
        if isinstance(end, Exception) and not isinstance(end, WebSocketDisconnect):
            raise end


async def _send(socket: WebSocket, here: Resources, who: Caller, task_id: str, after: int) -> None:
    task = await here.service.get(task_id, who)
    if task.status.final and task.events <= after:
        return
    async for event in here.service.follow(task_id, after):
        await socket.send_text(msgspec.json.encode(views.event_view(event)).decode())


async def _left(socket: WebSocket) -> None:
    """Until the client is gone."""
    with contextlib.suppress(WebSocketDisconnect):
        while (await socket.receive())["type"] != "websocket.disconnect":
            continue
