"""What a task produced. Only files that are recorded for the task are served, and none that a browser would run."""

import re
from collections.abc import AsyncIterator
from typing import Annotated
from urllib.parse import quote

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import StreamingResponse

from comfy_balancer import views
from comfy_balancer.dependencies import Here, Json, Who
from comfy_balancer.openapi import answer
from comfy_balancer.ranges import parse_range, tag_fits
from comfy_balancer.schemas import OutputList
from comfy_shared.errors import NotFound
from comfy_shared.models import Output

router = APIRouter(prefix="/tasks", tags=["Tasks"])

MEDIA_TYPE = re.compile(r"[a-z0-9][a-z0-9!#$&^_.+-]{0,63}/[a-z0-9][a-z0-9!#$&^_.+-]{0,63}")
UNKNOWN = "application/octet-stream"
INLINE = frozenset(
    {
        "image/png", "image/jpeg", "image/webp", "image/gif", "image/avif", "image/bmp", "video/mp4", "video/webm",
        "audio/mpeg", "audio/wav", "audio/x-wav", "audio/flac", "audio/x-flac", "audio/ogg", "audio/mp4", "text/plain",
    },
)  # fmt: skip


@router.get(
    "/{task_id}/outputs",
    summary="A task's outputs",
    responses=answer(200, OutputList, "Its outputs."),
    response_class=Json,
)
async def list_outputs(task_id: str, here: Here, who: Who) -> Response:
    """What the task produced, with addresses to load it from."""
    task = await here.service.get(task_id, who)
    return Json(OutputList(outputs=[views.output_view(task_id, output) for output in task.outputs]))


@router.head("/{task_id}/outputs/{name}", include_in_schema=False)
@router.get(
    "/{task_id}/outputs/{name}",
    summary="Load an output",
    response_class=StreamingResponse,
    responses={
        200: {"description": "The file.", "content": {UNKNOWN: {"schema": {"type": "string", "format": "binary"}}}},
        206: {"description": "The range that was asked for."},
        304: {"description": "Unchanged."},
    },
)
async def get_output(
    task_id: str,
    name: str,
    request: Request,
    here: Here,
    who: Who,
    download: Annotated[bool, Query(description="Have a browser save the file instead of showing it.")] = False,
) -> Response:
    """Streams a file that the task produced; a single Range is served."""
    task = await here.service.get(task_id, who)
    output = next((output for output in task.outputs if output.name == name), None)
    if output is None:
        raise NotFound("the task has no output of this name")
    headers = _headers(output, download=download)
    if tag_fits(request.headers.get("if-none-match"), headers["ETag"]):
        return Response(status_code=304, headers=headers)
    wished = (
        request.headers.get("range") if request.headers.get("if-range", headers["ETag"]) == headers["ETag"] else None
    )
    part = parse_range(wished, output.size)
    start, end = part or (0, output.size)
    headers["Content-Length"] = str(end - start)
    if part:
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{output.size}"
    if request.method == "HEAD":
        await here.files.size(output.key)
        return Response(status_code=206 if part else 200, headers=headers)
    # The first chunk is read before the answer begins: a file that is gone is a 404, not a broken stream.
    chunks = here.files.read(output.key, start=start, end=end if part else None)
    first = await anext(chunks, b"")
    return StreamingResponse(_chain(first, chunks), 206 if part else 200, headers=headers)


async def _chain(first: bytes, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield first
    async for chunk in rest:
        yield chunk


def _headers(output: Output, *, download: bool) -> dict[str, str]:
    content_type = output.content_type if MEDIA_TYPE.fullmatch(output.content_type) else UNKNOWN
    place = "inline" if content_type in INLINE and not download else "attachment"
    if content_type == "text/plain":
        content_type += "; charset=utf-8"
    return {
        "Content-Type": content_type,
        "Content-Disposition": f"{place}; filename*=UTF-8''{quote(output.name, safe='')}",
        "Content-Security-Policy": "sandbox; default-src 'none'",
        "X-Content-Type-Options": "nosniff",
        "Accept-Ranges": "bytes",
        "Cache-Control": "private, no-cache",
        "ETag": f'"{output.sha256}"',
    }
