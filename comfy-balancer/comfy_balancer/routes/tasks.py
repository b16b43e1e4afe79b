"""Submit, find, cancel and retry tasks."""

from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response

from comfy_balancer import views
from comfy_balancer.accepted import Accepted
from comfy_balancer.batch_schemas import SWEEP, BatchRequest, BatchView
from comfy_balancer.decoding import decode_body
from comfy_balancer.dependencies import Here, IdempotencyKey, Json, Resources, Who
from comfy_balancer.listing import Query as TaskQuery
from comfy_balancer.openapi import answer, body, either
from comfy_balancer.schemas import (
    SMOKE_PROMPT,
    SMOKE_TASK,
    TASK_ID,
    CheckView,
    ExplainView,
    TaskList,
    TaskRequest,
    TaskView,
)
from comfy_balancer.uploads import read_form
from comfy_shared.callers import Caller
from comfy_shared.http.problems import invalid
from comfy_shared.models import Status

router = APIRouter(prefix="/tasks", tags=["Tasks"])

Wait = Annotated[
    float | None,
    Query(ge=0, le=300, description="Seconds to wait for the end; then the answer is 200 with the finished task."),
]
Hold = Annotated[
    bool,
    Query(description="Accept also what no agent can run: it waits until one that has its classes, files and labels."),
]
TASK_FORM: dict[str, Any] = {
    "type": "object",
    "required": ["task"],
    "properties": {
        "task": {
            "type": "string",
            "description": "The same JSON as in the other form of this call.",
            "example": '{"workflow": "image-to-image", "parameters": {"text": "a lighthouse in oil"}}',
        },
        "image": {
            "type": "string",
            "format": "binary",
            "description": "A file. The part's name is the parameter that takes it, or NODE_ID.INPUT_NAME of a prompt.",
        },
    },
    "additionalProperties": {"type": "string", "format": "binary"},
}


CHECKED: dict[str, Any] = {"ok": True, "agents": ["gpu-1"], "lane": "c1b8a1f0f3a95d0e"}
EXPLAINED: dict[str, Any] = {
    "task_id": TASK_ID,
    "status": "pending",
    "explanation": "It waits for the one agent that can run it, busy now (12 ahead of it, 3 of them in its lane).",
    "lane": "c1b8a1f0f3a95d0e",
    "require": {"pool": "video"},
    "ahead": 12,
    "ahead_in_lane": 3,
    "agents": [
        {
            "id": "gpu-1",
            "eligible": True,
            "reason": "can run it, and is busy with 1 task",
            "in_memory": True,
            "holds": 1,
        },
        {
            "id": "gpu-2",
            "eligible": False,
            "reason": "lacks the label pool=video; drains: it claims no more",
            "in_memory": False,
            "holds": 0,
        },
    ],
    "estimate": None,
}


def headers_of(accepted: Accepted) -> dict[str, str]:
    headers = {"Location": views.task_url(accepted.tasks[0].id)} if len(accepted.tasks) == 1 else {}
    return headers | ({"Idempotent-Replayed": "true"} if accepted.replayed else {})


@router.post(
    "",
    status_code=202,
    summary="Submit a task",
    responses=either(202, TaskView, BatchView, "Accepted; with lists in `parameters` as a batch.")
    | either(200, TaskView, BatchView, "Finished within `wait`."),
    response_class=Json,
    openapi_extra=body(
        TaskRequest,
        examples={"workflow": SMOKE_TASK, "prompt": {"prompt": SMOKE_PROMPT}, "sweep": SWEEP},
        form=TASK_FORM,
    ),
)
async def submit(
    request: Request,
    here: Here,
    who: Who,
    idempotency_key: IdempotencyKey = None,
    wait: Wait = None,
    hold: Hold = False,
) -> Response:
    """Accepts a task: a workflow's name with parameters, or a raw prompt; as JSON, or as a form with input files.

    A task that no agent can run is refused, with the missing node class, file or label and the nearest match;
    with `hold` it waits for one that can. `require` names labels that its agent must have. A list among the
    parameters makes a sweep: one task for each value (`sweep`), all of them one batch, which is then the answer.
    """
    if request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
        accepted = await _submit_form(request, here, who, idempotency_key, hold=hold)
    elif idempotency_key is None and not hold:
        accepted = await here.service.submit_body(await request.body(), who)
    else:
        task_request = decode_body(await request.body(), TaskRequest, values_limit=here.settings.values_limit)
        accepted = await here.service.submit(task_request, who, key=idempotency_key, hold=hold)
    return await answered(here, who, accepted, wait)


async def answered(here: Resources, who: Caller, accepted: Accepted, wait: float | None) -> Response:
    """The answer to a submit: the task, or the batch that its lists made; finished, if that comes within `wait` s."""
    if accepted.batch:
        return await _batch_answer(here, who, accepted, wait)
    task = accepted.tasks[0]
    if wait:
        task = await here.service.wait(task, wait)
    status = 200 if wait is not None and task.status.final else 202
    return Json(views.task_view(task), status, headers=headers_of(accepted))


async def _batch_answer(here: Resources, who: Caller, accepted: Accepted, wait: float | None = None) -> Response:
    batch = accepted.fresh or await here.batches.get(accepted.batch, who)
    tasks = accepted.tasks
    if wait:
        batch = await here.batches.wait(batch, wait)
        tasks = tuple(await here.batches.tasks(batch))
    status = 200 if wait is not None and batch.ended else 202
    headers = headers_of(accepted) | {"Location": views.batch_url(batch.id)}
    return Json(views.batch_view(batch, tasks), status, headers=headers)


async def _submit_form(request: Request, here: Resources, who: Caller, key: str | None, *, hold: bool) -> Accepted:
    async with read_form(request, here.settings) as form:
        unknown = [name for name in form.texts if name != "task"]
        if unknown:
            raise invalid(unknown[0], "must be a file part (with a filename); values belong into the part task")
        if "task" not in form.texts:
            raise invalid("task", "is required: the task as JSON")
        task_request = decode_body(
            form.texts["task"], TaskRequest, values_limit=here.settings.values_limit, prefix="task"
        )
        return await here.service.submit(task_request, who, key=key, uploads=form.uploads, hold=hold)


@router.post(
    "/batch",
    status_code=202,
    summary="Submit many tasks at once",
    responses=answer(202, BatchView, "All accepted."),
    response_class=Json,
    openapi_extra=body(BatchRequest, examples={"two": {"tasks": [SMOKE_TASK, SMOKE_TASK]}}),
)
async def submit_batch(
    request: Request, here: Here, who: Who, idempotency_key: IdempotencyKey = None, hold: Hold = False
) -> Response:
    """Accepts up to 1,000 tasks as one batch, or, when one of them does not fit, none."""
    batch = decode_body(await request.body(), BatchRequest, values_limit=here.settings.values_limit)
    accepted = await here.service.submit_batch(batch.tasks, who, key=idempotency_key, hold=hold)
    return await _batch_answer(here, who, accepted)


@router.post(
    "/check",
    summary="Check a task",
    responses=answer(200, CheckView, "A submit would be accepted.", CHECKED),
    response_class=Json,
    openapi_extra=body(TaskRequest),
)
async def check(request: Request, here: Here, who: Who) -> Response:
    """Does all the checks of a submit and stores nothing: the agents that could run the task now, or what is wrong."""
    task_request = decode_body(await request.body(), TaskRequest, values_limit=here.settings.values_limit)
    return Json(await here.service.check(task_request, who))


@router.get("", summary="List tasks", responses=answer(200, TaskList, "One page, newest first."), response_class=Json)
async def list_tasks(
    here: Here,
    who: Who,
    status: Annotated[Status | None, Query(description="Only tasks with this status.")] = None,
    workflow: Annotated[str | None, Query(max_length=64, description="Only tasks of this workflow.")] = None,
    owner: Annotated[str | None, Query(max_length=256, description="Only tasks of this owner.")] = None,
    batch: Annotated[str | None, Query(max_length=64, description="Only tasks of this batch.")] = None,
    label: Annotated[list[str] | None, Query(description="`name=value`; may be repeated, then all must fit.")] = None,
    created_after: Annotated[
        str | None, Query(description="ISO 8601, or milliseconds since 1970; itself included.")
    ] = None,
    created_before: Annotated[
        str | None, Query(description="ISO 8601, or milliseconds since 1970; itself not.")
    ] = None,
    limit: Annotated[int, Query(ge=1, le=200, description="Most tasks of one page.")] = 50,
    cursor: Annotated[str | None, Query(max_length=200, description="`next` of the page before.")] = None,
) -> Response:
    """Lists tasks, newest first."""
    query = TaskQuery(
        status=status,
        workflow=workflow,
        owner=owner,
        visible_to=who,
        batch=batch,
        labels=as_labels("label", label or []),
        after=_time("created_after", created_after),
        before=_time("created_before", created_before),
        limit=limit,
        cursor=cursor,
    )
    page = await here.lister.page(query)
    return Json(TaskList(tasks=[views.task_view(task, brief=True) for task in page.tasks], next=page.next))


def as_labels(field: str, pairs: list[str]) -> dict[str, str]:
    """`name=value` as given in a query."""
    labels = {}
    for pair in pairs[:16]:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise invalid(field, "must be name=value")
        labels[name] = value
    return labels


def _time(field: str, value: str | None) -> int | None:
    if value is None:
        return None
    if value.isdecimal() and len(value) <= 15:
        return int(value)
    try:
        # A plus sign in a query string arrives as a space.
        moment = datetime.fromisoformat(value.replace(" ", "+") if value.count(":") == 3 else value)
        moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        return int(moment.timestamp() * 1000)
    except (ValueError, OverflowError):
        raise invalid(field, "must be a time in ISO 8601, or milliseconds since 1970") from None


@router.get("/{task_id}", summary="One task", responses=answer(200, TaskView, "The task."), response_class=Json)
async def get_task(task_id: str, here: Here, who: Who) -> Response:
    """Status, position, attempt, agent, progress, outputs, error and times of a task."""
    return Json(views.task_view(await here.service.get(task_id, who)))


@router.get(
    "/{task_id}/explain",
    summary="Why a task waits",
    responses=answer(200, ExplainView, "Its place, and each agent.", EXPLAINED),
    response_class=Json,
)
async def explain(task_id: str, here: Here, who: Who) -> Response:
    """For a pending task its lane, what is ahead, each agent with the reason why it can or cannot take it, and an
    estimated start; for any other a sentence."""
    return Json(await here.explainer.explain(await here.service.get(task_id, who)))


@router.get("/{task_id}/prompt", summary="A task's prompt", response_class=Json)
async def get_prompt(task_id: str, here: Here, who: Who) -> Response:
    """The graph in API format, as it is sent to ComfyUI but for the names of input files."""
    task = await here.service.get(task_id, who)
    return Response(task.prompt, media_type="application/json")


@router.post(
    "/{task_id}/cancel",
    summary="Cancel a task",
    responses=answer(200, TaskView, "It is canceled."),
    response_class=Json,
)
async def cancel(task_id: str, here: Here, who: Who) -> Response:
    """Cancels a pending or running task; canceling a canceled one is fine. 409 when it completed or failed before."""
    return Json(views.task_view(await here.service.cancel(task_id, who)))


@router.post(
    "/{task_id}/retry",
    status_code=202,
    summary="Put a task back",
    responses=answer(202, TaskView, "It waits again."),
    response_class=Json,
)
async def retry(task_id: str, here: Here, who: Who) -> Response:
    """Puts a failed or canceled task back into the queue, with three more attempts."""
    return Json(views.task_view(await here.service.retry(task_id, who)), 202)
