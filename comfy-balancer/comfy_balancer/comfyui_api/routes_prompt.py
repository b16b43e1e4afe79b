"""Prompts: submit, queue, interrupt, history, jobs. All of the caller's own."""

from collections.abc import Iterable
from urllib.parse import unquote

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from comfy_balancer.comfyui_api import shapes
from comfy_balancer.comfyui_api.context import Json, caller, done, door, ids_in, read_object, resources
from comfy_balancer.comfyui_api.ids import prompt_id_of, task_id_of
from comfy_balancer.comfyui_api.tasklists import MOST, OwnTasks, in_history
from comfy_shared.errors import Conflict, InvalidTask, NotFound
from comfy_shared.http.problems import invalid
from comfy_shared.models import Status, Task

JOBS_AT_ONCE = 100  # jobs of one answer without a limit


async def submit(request: Request) -> Response:
    return Json(await door(request).prompts.submit(await request.body(), caller(request)))


async def remaining(request: Request) -> Response:
    return Json({"exec_info": {"queue_remaining": await door(request).tasks.remaining()}})


async def queue(request: Request) -> Response:
    running, waiting = await door(request).tasks.queued(caller(request).owner)
    return Json(
        {
            "queue_running": [shapes.queue_item(task) for task in running],
            "queue_pending": [shapes.queue_item(task) for task in waiting],
        }
    )


async def change_queue(request: Request) -> Response:
    body = await read_object(request)
    if body.get("clear"):
        _, waiting = await door(request).tasks.queued(caller(request).owner)
        await _cancel(request, [task.id for task in waiting], Status.PENDING)
    if "delete" in body:
        await _cancel(request, _task_ids(ids_in(body, "delete")), Status.PENDING)
    return done()


async def interrupt(request: Request) -> Response:
    try:
        body = await read_object(request) if await request.body() not in (b"", b"[]") else {}
    except InvalidTask:
        body = {}
    wanted = body.get("prompt_id")
    if wanted is None:
        running, _ = await door(request).tasks.queued(caller(request).owner)
        await _cancel(request, [task.id for task in running], Status.RUNNING)
    else:
        await _cancel(request, _task_ids([str(wanted)]), Status.RUNNING)
    return done()


def _task_ids(prompt_ids: Iterable[str]) -> list[str]:
    return [task_id for prompt_id in prompt_ids if (task_id := task_id_of(prompt_id))]


async def _own(request: Request, task_id: str) -> Task | None:
    """The caller's own task, as it is; None when there is none."""
    try:
        task = await resources(request).service.get(task_id, caller(request))
    except NotFound:
        return None
    return task if task.owner == caller(request).owner else None


async def _cancel(request: Request, task_ids: list[str], status: Status) -> bool:
    """Cancels those of the caller's own that have this status; whether there was one."""
    canceled = False
    for task_id in task_ids:
        task = await _own(request, task_id)
        if task is not None and task.status is status:
            try:
                await resources(request).service.cancel(task_id, caller(request))
                canceled = True
            except (Conflict, NotFound):
                continue  # it ended first
    return canceled


async def history(request: Request) -> Response:
    most, offset = _number(request, "max_items"), _number(request, "offset")
    tasks: OwnTasks = door(request).tasks
    owner = caller(request).owner
    if offset is not None and offset >= 0:
        listed = (await tasks.ended(owner))[offset:][: most if most is not None else MOST]
    else:
        listed = await tasks.ended(owner, most)
    whole = await tasks.whole([task.id for task in listed])
    return Json({prompt_id_of(task.id): shapes.history_entry(task) for task in whole})


def _number(request: Request, name: str) -> int | None:
    text = request.query_params.get(name)
    if text is None or text == "-1":
        return None
    if not text.isdecimal() or len(text) > 9:
        raise invalid(name, "must be a whole number")
    return int(text)


async def history_of(request: Request) -> Response:
    task = await _own(request, task_id_of(unquote(request.path_params["prompt_id"])) or "")
    if task is None or not task.status.final or not in_history(task):
        return Json({})
    return Json({prompt_id_of(task.id): shapes.history_entry(task)})


async def change_history(request: Request) -> Response:
    body = await read_object(request)
    hidden: list[str] = []
    if body.get("clear"):
        hidden += [task.id for task in await door(request).tasks.ended(caller(request).owner)]
    for task_id in _task_ids(ids_in(body, "delete")) if "delete" in body else ():
        task = await _own(request, task_id)
        if task is not None and task.status.final:
            hidden.append(task.id)
    if hidden:
        await resources(request).service.queue.hide(hidden)
    return done()


# Jobs, as newer versions have them.


async def jobs(request: Request) -> Response:
    query = request.query_params
    wanted = {word for word in query.get("status", "").split(",") if word}
    if unknown := wanted - set(shapes.JOB_STATUS.values()):
        raise invalid("status", f"has an unknown value {sorted(unknown)[0][:40]!r}")
    tasks, owner = door(request).tasks, caller(request).owner
    running, waiting = await tasks.queued(owner)
    found = [task for task in [*running, *waiting, *await tasks.ended(owner)] if _is_wanted(task, wanted)]
    by_time = query.get("sort_by", "created_at") != "execution_duration"
    found.sort(
        key=lambda task: task.created_at if by_time else task.finished_at - task.started_at,
        reverse=query.get("sort_order", "desc") != "asc",
    )
    offset = _number(request, "offset") or 0
    limit = _number(request, "limit")
    page = found[offset:][: JOBS_AT_ONCE if limit is None else min(limit, MOST)]
    listed = [shapes.job(task) for task in await tasks.whole([task.id for task in page])]
    if workflow := query.get("workflow_id"):
        listed = [job for job in listed if job.get("workflow_id") == workflow]
    more = offset + len(page) < len(found)
    pagination = {"offset": offset, "limit": limit, "total": len(found), "has_more": more}
    return Json({"jobs": listed, "pagination": pagination})


def _is_wanted(task: Task, wanted: set[str]) -> bool:
    return not wanted or shapes.JOB_STATUS[task.status] in wanted


async def job(request: Request) -> Response:
    task = await _own(request, task_id_of(unquote(request.path_params["job_id"])) or "")
    if task is None or (task.status.final and not in_history(task)):
        return Json({"error": "Job not found"}, 404)
    return Json(shapes.job(task, whole=True))


async def cancel_job(request: Request) -> Response:
    task_id = task_id_of(unquote(request.path_params["job_id"])) or ""
    if await _own(request, task_id) is None:
        return Json({"error": "Job not found"}, 404)
    return Json({"cancelled": await _cancel_any(request, [task_id])})


async def cancel_jobs(request: Request) -> Response:
    body = await read_object(request)
    field = "job_ids" if "job_ids" in body else "ids"
    return Json({"cancelled": await _cancel_any(request, _task_ids(ids_in(body, field)))})


async def _cancel_any(request: Request, task_ids: list[str]) -> bool:
    waiting = await _cancel(request, task_ids, Status.PENDING)
    return await _cancel(request, task_ids, Status.RUNNING) or waiting


ROUTES = [
    Route("/prompt", submit, methods=["POST"]),
    Route("/prompt", remaining, methods=["GET"]),
    Route("/queue", queue, methods=["GET"]),
    Route("/queue", change_queue, methods=["POST"]),
    Route("/interrupt", interrupt, methods=["POST"]),
    Route("/history", history, methods=["GET"]),
    Route("/history", change_history, methods=["POST"]),
    Route("/history/{prompt_id}", history_of, methods=["GET"]),
    Route("/jobs", jobs, methods=["GET"]),
    Route("/jobs/cancel", cancel_jobs, methods=["POST"]),
    Route("/jobs/{job_id}", job, methods=["GET"]),
    Route("/jobs/{job_id}/cancel", cancel_job, methods=["POST"]),
]
