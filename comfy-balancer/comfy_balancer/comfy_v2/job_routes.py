"""Jobs: submit, read, list, cancel, follow."""

import re
from contextlib import suppress
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Depends, Header, Request, Response
from fastapi.responses import StreamingResponse

from comfy_balancer.comfy_v2 import bodies, views
from comfy_balancer.comfy_v2.errors import Refusal, invalid_request
from comfy_balancer.comfy_v2.events import Source
from comfy_balancer.comfy_v2.schemas import Health, JobList, JobWorkflow
from comfy_balancer.comfy_v2.submitting import Submitter
from comfy_balancer.dependencies import Here, Json, Who
from comfy_balancer.listing import Query as TaskQuery
from comfy_shared.errors import Conflict, InvalidTask, NotFound
from comfy_shared.models import Prompt, Status, Task, decode

router = APIRouter()

MOST_LISTED = 100
MOST_FILTERS = 3
LONGEST_ID = 64  # characters of an id that is told back
OURS = {name: status for status, name in views.STATUSES.items()}  # the contract's status → ours
NEVER = frozenset({"canceling", "expired"})  # statuses of the contract that no task of ours has


def address(request: Request, here: Here) -> views.Address:
    """Where the client reached us."""
    origin = here.settings.public_url.rstrip("/") or f"{request.url.scheme}://{request.url.netloc}"
    return views.Address(origin, retention_ms=here.service.queue.retention_ms)


async def _task(job_id: str, here: Here, who: Who) -> Task:
    try:
        return await here.service.get(job_id, who)
    except NotFound:
        raise Refusal(404, "not_found", f"No job {job_id[:LONGEST_ID]}.") from None


At = Annotated[views.Address, Depends(address)]
The = Annotated[Task, Depends(_task)]


@router.get("/health")
async def health() -> Response:
    """This process answers."""
    return Json(Health())


@router.post("/jobs")
async def submit(
    request: Request, here: Here, who: Who, at: At, idempotency_key: Annotated[str | None, Header()] = None
) -> Response:
    """Accepts a workflow. An Idempotency-Key is good for one job: used again it is refused."""
    body = bodies.read_object(await request.body(), values_limit=here.settings.values_limit)
    submission = bodies.read_submission(body)
    task = await Submitter(here).submit(submission, who, idempotency_key)
    return Json(views.new_job_view(task, at), 201)


@router.get("/jobs")
async def list_jobs(
    request: Request,
    here: Here,
    who: Who,
    at: At,
    limit: str = "50",
    status: str | None = None,
    cursor: str | None = None,
) -> Response:
    """The caller's jobs, newest first, by status and labels (`metadata[NAME]=VALUE`)."""
    query = TaskQuery(
        owner=who.owner,
        visible_to=who,
        statuses=_statuses(status),
        labels=_labels(request),
        limit=(most := _limit(limit)),
        cursor=cursor,
    )
    try:
        page = await here.lister.page(query)
    except InvalidTask as error:
        raise Refusal(400, "invalid_cursor", error.message) from None
    jobs = [views.listed_job_view(task, at) for task in page.tasks]
    listed = JobList(jobs=jobs, truncated=page.next is not None and len(jobs) < most)
    return Json(listed if page.next is None else msgspec.structs.replace(listed, next_cursor=page.next))


def _limit(text: str) -> int:
    if not re.fullmatch(r"[+-]?[0-9]{1,9}", text):
        raise invalid_request("'limit' must be an integer.", 400)
    if not 1 <= int(text) <= MOST_LISTED:
        raise invalid_request(f"'limit' must be between 1 and {MOST_LISTED}.", 400)
    return int(text)


def _statuses(wanted: str | None) -> frozenset[Status]:
    names = {name.strip() for name in (wanted or "").split(",") if name.strip()}
    if unknown := sorted(names - OURS.keys() - NEVER):
        raise invalid_request(f"Unknown status filter value(s): {', '.join(unknown)}.", 400)
    return frozenset(OURS[name] for name in names - NEVER) if names else frozenset(Status)


def _labels(request: Request) -> dict[str, str]:
    labels = {
        name.removeprefix("metadata[").removesuffix("]"): value
        for name, value in request.query_params.multi_items()
        if name.startswith("metadata[") and name.endswith("]")
    }
    problem = f"at most {MOST_FILTERS} metadata filters" if len(labels) > MOST_FILTERS else None
    for name, value in labels.items():
        problem = problem or bodies.label_problem(name, value)
    if problem:
        raise Refusal(400, "invalid_metadata_filter", problem)
    return labels


@router.get("/jobs/{job_id}")
async def get_job(task: The, at: At) -> Response:
    """The job as it is now."""
    return Json(views.job_view(task, at))


@router.get("/jobs/{job_id}/workflow")
async def get_workflow(task: The) -> Response:
    """The graph that runs, with the names of files in the place of references."""
    return Json(JobWorkflow(workflow=_named(decode(task.prompt, Prompt), task)))


def _named(prompt: Prompt, task: Task) -> dict[str, Any]:
    names = task.notes.get("files", {})
    for file in task.inputs:
        prompt[file.node]["inputs"][file.input] = names.get(file.sha256, f"{file.sha256}{file.extension}")
    return prompt


@router.post("/jobs/{job_id}/cancel")
async def cancel(task: The, here: Here, who: Who, at: At) -> Response:
    """Cancels the job; one that has ended stays as it is."""
    if not task.status.final:
        with suppress(Conflict):  # it has just ended
            await here.service.cancel(task.id, who)
        task = await here.service.get(task.id, who)
    return Json(views.job_view(task, at))


@router.get("/jobs/{job_id}/events")
async def events(task: The, here: Here, who: Who, at: At) -> Response:
    """The job's live stream."""
    if here.streams.full(who.owner):
        message = "Maximum concurrent event streams reached; poll GET /jobs/{id} instead."
        raise Refusal(429, "too_many_streams", message)
    frames = here.streams.counted(who.owner, Source(here.service, here.live, who).stream(task, at))
    headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
    return StreamingResponse(frames, media_type="text/event-stream", headers=headers)
