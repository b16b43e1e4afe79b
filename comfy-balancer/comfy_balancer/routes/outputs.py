"""What a task produced. Only files that are recorded for the task are served, and none that a browser would run."""

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import StreamingResponse

from comfy_balancer import views
from comfy_balancer.dependencies import Here, Json, Resources, Who
from comfy_balancer.downloads import UNKNOWN, Download, serve
from comfy_balancer.openapi import answer
from comfy_balancer.ranges import tag_fits
from comfy_balancer.schemas import OutputList
from comfy_shared.callers import Caller
from comfy_shared.errors import NotFound
from comfy_shared.http.problems import invalid
from comfy_shared.models import Output
from comfy_shared.output_options import PictureFormat
from comfy_shared.pictures import Unconvertible

router = APIRouter(prefix="/tasks", tags=["Tasks"])


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
    file = Download(
        key=output.key, name=output.name, size=output.size, sha256=output.sha256, content_type=output.content_type
    )
    return await serve(here.files, request, file, download=download)


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
