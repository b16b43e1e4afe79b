"""What a task produced. Only files that are recorded for the task are served, and none that a browser would run."""

import re
from collections.abc import AsyncIterator
from typing import Annotated
from urllib.parse import quote

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import StreamingResponse

from comfy_balancer import views
from comfy_balancer.dependencies import Here, Json, Resources, Who
from comfy_balancer.openapi import answer
from comfy_balancer.ranges import parse_range, tag_fits
from comfy_balancer.schemas import OutputList
from comfy_shared.callers import Caller
from comfy_shared.errors import NotFound
from comfy_shared.http.problems import invalid
from comfy_shared.models import Output
from comfy_shared.output_options import PictureFormat
from comfy_shared.pictures import Unconvertible

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
    output = await _output(here, who, task_id, name)
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


@router.get(
    "/{task_id}/outputs/{name}/thumbnail",
    summary="A small picture of an output",
    response_class=Response,
    responses={200: {"description": "A picture.", "content": {f"image/{name}": {} for name in PictureFormat}}},
)
async def get_thumbnail(
    task_id: str,
    name: str,
    request: Request,
    here: Here,
    who: Who,
    size: Annotated[int, Query(ge=16, le=2048, description="Most pixels of a side; never enlarges.")] = 256,
    target: Annotated[PictureFormat, Query(alias="format", description="Of the picture.")] = PictureFormat.WEBP,
) -> Response:
    """Makes a picture smaller (of an animation the first frame); the usual sizes, 64 to 1024, are kept."""
    output = await _output(here, who, task_id, name)
    headers = {"ETag": f'"{output.sha256[:32]}-{size}-{target.value}"', "Cache-Control": "private, no-cache"}
    if tag_fits(request.headers.get("if-none-match"), headers["ETag"]):
        return Response(status_code=304, headers=headers)
    try:
        made = await here.thumbnails.get(output, size, target)
    except Unconvertible as error:
        raise invalid("name", f"has no thumbnail: {error}") from None
    return Response(made.data, media_type=made.content_type, headers=headers)


async def _output(here: Resources, who: Caller, task_id: str, name: str) -> Output:
    task = await here.service.get(task_id, who)
    for output in task.outputs:
        if output.name == name:
            return output
    raise NotFound("the task has no output of this name")


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
