"""Each workflow as a call of its own: the body is its parameters. `typed_routes` describes them in the document."""

from typing import Annotated, Any, Literal

import msgspec
from fastapi import APIRouter, Depends, Query, Request, Response

from comfy_balancer.accepted import Accepted
from comfy_balancer.batch_schemas import BatchView
from comfy_balancer.decoding import decode_body
from comfy_balancer.dependencies import Here, IdempotencyKey, Json, Resources, Who
from comfy_balancer.openapi import either
from comfy_balancer.routes.tasks import Hold, Wait, answered, as_labels
from comfy_balancer.schemas import TaskRequest, TaskView
from comfy_balancer.typed_routes import TAG, values_of
from comfy_balancer.uploads import read_form
from comfy_balancer.validation import placed
from comfy_shared.callers import Caller
from comfy_shared.errors import InvalidTask
from comfy_shared.output_options import OutputOptions, PictureFormat
from comfy_shared.workflows import Workflow

router = APIRouter(prefix="/workflows", tags=[TAG])


async def _output(
    target: Annotated[PictureFormat | None, Query(alias="format", description="Add each picture in it.")] = None,
    quality: Annotated[int | None, Query(ge=1, le=100, description="Of jpeg, webp, avif.")] = None,
    max_size: Annotated[int | None, Query(ge=16, le=16384, description="Longest side of the added picture.")] = None,
    strip_metadata: Annotated[bool | None, Query(description="Take the graph out of PNG originals.")] = None,
) -> OutputOptions | None:
    options = OutputOptions(format=target, quality=quality, max_size=max_size, strip_metadata=strip_metadata)
    return None if options == OutputOptions() else options


Output = Annotated[OutputOptions | None, Depends(_output)]


@router.post(
    "/{name}/run",
    status_code=202,
    summary="Run a workflow",
    responses=either(202, TaskView, BatchView, "Accepted; with lists as a batch.")
    | either(200, TaskView, BatchView, "Finished within `wait`."),
    response_class=Json,
)
async def run(
    name: str,
    request: Request,
    here: Here,
    who: Who,
    output: Output,
    idempotency_key: IdempotencyKey = None,
    wait: Wait = None,
    hold: Hold = False,
    priority: Annotated[int, Query(ge=0, le=9, description="9 goes first, 0 last.")] = 5,
    timeout: Annotated[float | None, Query(gt=0, description="Seconds that an attempt may run.")] = None,
    max_attempts: Annotated[int, Query(ge=1, le=10, description="Attempts before the task fails.")] = 3,
    reuse: Annotated[bool, Query(description="Share one render with equal tasks that set it too.")] = False,
    label: Annotated[list[str] | None, Query(description="`name=value` to find the task by; may be repeated.")] = None,
    require: Annotated[
        list[str] | None, Query(description="`name=value` that its agent must have; may be repeated.")
    ] = None,
    sweep: Annotated[
        Literal["product", "zip"], Query(description="How lists in JSON are combined: all, or pairs.")
    ] = "product",
) -> Response:
    """Accepts a task of the workflow's active version, or of its canary. A list in the place of a value makes a sweep:
    a batch, which is then the answer."""
    workflow = await here.catalog.get(name)
    options = TaskRequest(
        workflow=name,
        priority=priority,
        timeout=timeout,
        max_attempts=max_attempts,
        reuse=reuse,
        labels=as_labels("label", label or []),
        require=as_labels("require", require or []),
        sweep=sweep,
        output=output,
    )
    try:
        accepted = await _submit(request, here, who, workflow, options, key=idempotency_key, hold=hold)
    except InvalidTask as error:
        raise _of_body(error, workflow) from None
    return await answered(here, who, accepted, wait)


async def _submit(
    request: Request,
    here: Resources,
    who: Caller,
    workflow: Workflow,
    options: TaskRequest,
    *,
    key: str | None,
    hold: bool,
) -> Accepted:
    if request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
        async with read_form(request, here.settings) as form:
            texts = {name: text.decode("utf-8", "surrogatepass") for name, text in form.texts.items()}
            task = msgspec.structs.replace(options, parameters=values_of(workflow, texts))
            return await here.service.submit(task, who, key=key, uploads=form.uploads, hold=hold)
    body = await request.body()
    values: dict[str, Any] = {}
    if body:
        values = decode_body(body, dict[str, Any], values_limit=here.settings.values_limit)
    return await here.service.submit(msgspec.structs.replace(options, parameters=values), who, key=key, hold=hold)


def _of_body(error: InvalidTask, workflow: Workflow) -> InvalidTask:
    """The parameters are the fields of the body itself, the output options those of the query."""
    problems = placed(error, workflow, workflow.prompt).problems
    return InvalidTask(tuple(msgspec.structs.replace(one, field=_bare(one.field)) for one in problems))


def _bare(field: str) -> str:
    return field.removeprefix("parameters.").removeprefix("output.")
