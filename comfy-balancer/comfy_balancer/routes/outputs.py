"""What a task produced. Only files that are recorded for the task are served, and none that a browser would run."""

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import StreamingResponse

from comfy_balancer import views
from comfy_balancer.dependencies import Here, Json, Who
from comfy_balancer.downloads import UNKNOWN, Download, serve
from comfy_balancer.openapi import answer
from comfy_balancer.schemas import OutputList
from comfy_shared.errors import NotFound

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
    task = await here.service.get(task_id, who)
    output = next((output for output in task.outputs if output.name == name), None)
    if output is None:
        raise NotFound("the task has no output of this name")
    file = Download(
        key=output.key, name=output.name, size=output.size, sha256=output.sha256, content_type=output.content_type
    )
    return await serve(here.files, request, file, download=download)
