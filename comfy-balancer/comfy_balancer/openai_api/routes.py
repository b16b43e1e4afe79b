"""The routes, and what they answer."""

import time
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import quote

import structlog
from fastapi import APIRouter, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import StreamingResponse

from comfy_balancer import views
from comfy_balancer.dependencies import Here, IdempotencyKey, Json, Resources, Who
from comfy_balancer.openai_api import errors
from comfy_balancer.openai_api.pictures import encoded, encoded_preview, pictures_of
from comfy_balancer.openai_api.rendering import all_finished, encode_event, model, previews, submit
from comfy_balancer.openai_api.requests import ImageRequest, from_form, from_json
from comfy_balancer.wanted import wanted
from comfy_shared.callers import Caller
from comfy_shared.errors import ComfyError
from comfy_shared.http.handlers import Door
from comfy_shared.models import Task

PREFIX = "/v1"
SSE = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
# Tokens are not counted here; the clients' types want the fields.
NO_USAGE: dict[str, Any] = {
    "input_tokens": 0,
    "output_tokens": 0,
    "total_tokens": 0,
    "input_tokens_details": {"image_tokens": 0, "text_tokens": 0},
}

log = structlog.get_logger(__name__)
router = APIRouter()


def create() -> Door:
    """The door, to be mounted at `PREFIX`."""
    door = Door()
    door.include_router(router)
    door.add_exception_handler(ComfyError, errors.on_domain_error)
    door.add_exception_handler(HTTPException, errors.on_http_error)
    door.add_exception_handler(RequestValidationError, errors.on_misfit)
    return door


@router.get("/models")
async def list_models(here: Here) -> Response:
    """Every workflow is a model."""
    return Json({"object": "list", "data": [_model(name) for name in await here.catalog.names()]})


@router.get("/models/{name}")
async def get_model(name: str, here: Here) -> Response:
    return Json(_model((await model(here, name)).name))


def _model(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "comfy"}


@router.post("/images/generations")
async def generate(request: Request, here: Here, who: Who, idempotency_key: IdempotencyKey = None) -> Response:
    """Pictures from a text."""
    wished = from_json(await request.body(), here.settings)
    return await _answer(request, here, who, wished, idempotency_key, kind="image_generation")


@router.post("/images/edits")
async def edit(request: Request, here: Here, who: Who, idempotency_key: IdempotencyKey = None) -> Response:
    """Pictures from pictures and a text."""
    try:
        wished = await from_form(request, here.settings)
        return await _answer(request, here, who, wished, idempotency_key, kind="image_edit")
    finally:
        if form := getattr(request.state, "form", None):
            await form.close()


async def _answer(
    request: Request, here: Resources, who: Caller, wished: ImageRequest, key: str | None, *, kind: str
) -> Response:
    tasks = await submit(here, who, wished, key)
    if wished.stream:
        stream = _stream(here, who, wished, tasks, kind)
        return StreamingResponse(stream, media_type="text/event-stream", headers=SSE)
    async with wanted(here.service, who, tasks):
        done = await all_finished(here, request, tasks)
    data: list[dict[str, Any]] = []
    formats, sizes = [], []
    for task in done:
        for output in pictures_of(task):
            if wished.response_format == "url":
                path = f"{views.task_url(task.id)}/outputs/{quote(output.name, safe='')}"
                data.append({"url": _base(request, here) + await here.links.sign(path, task.owner)})
                continue
            text, made, size = await encoded(here.files, output, wished)
            data.append({"b64_json": text})
            formats.append(made)
            sizes.append(size)
    told = {"output_format": formats[0], "size": sizes[0]} if formats else {}
    return Json({"created": int(time.time()), "data": data, "usage": NO_USAGE} | told)


def _base(request: Request, here: Resources) -> str:
    """How the client reaches us."""
    return here.settings.public_url.rstrip("/") or f"{request.scope['scheme']}://{request.url.netloc}"


async def _stream(
    here: Resources, who: Caller, wished: ImageRequest, tasks: tuple[Task, ...], kind: str
) -> AsyncIterator[bytes]:
    """Partial pictures and the final one of each task; what goes wrong is the last event."""
    try:
        async with wanted(here.service, who, tasks):
            for task in tasks:
                async for step in previews(here, task, wished.partial_images):
                    async for event in _events(here, wished, step, kind):
                        yield event
    except ComfyError as error:
        _, body = errors.told(error)
        log.info("An OpenAI stream ended without its picture", action="openai.failed", reason=error.message)
        yield b"event: error\ndata: " + body + b"\n\n"


async def _events(
    here: Resources, wished: ImageRequest, step: tuple[int, bytes] | Task, kind: str
) -> AsyncIterator[bytes]:
    common: dict[str, object] = {
        "created_at": int(time.time()),
        "background": "auto",
        "quality": wished.quality or "auto",
    }
    if isinstance(step, Task):
        for output in pictures_of(step):
            text, made, size = await encoded(here.files, output, wished)
            name = f"{kind}.completed"
            more = {"type": name, "b64_json": text, "output_format": made, "size": size, "usage": NO_USAGE}
            yield encode_event(name, common | more)
    elif found := await encoded_preview(step[1], wished):
        text, made, size = found
        name = f"{kind}.partial_image"
        picture = {"type": name, "b64_json": text, "output_format": made, "size": size}
        yield encode_event(name, common | picture | {"partial_image_index": step[0]})
