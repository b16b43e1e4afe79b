"""Records → the contract's objects. Pure functions.

Links are absolute, below the address that the client reached us by: the SDKs send their key to that origin alone.
"""

from msgspec import UNSET, structs

from comfy_balancer.assets import Asset as StoredAsset
from comfy_balancer.comfy_v2.schemas import Asset, Job, JobError, JobUrls, Output, Progress
from comfy_shared import models
from comfy_shared.models import Status, Task, TaskError
from comfy_shared.moments import iso

API = "/api/v2"
STATUSES = {
    Status.PENDING: "queued",
    Status.RUNNING: "running",
    Status.COMPLETED: "succeeded",
    Status.FAILED: "failed",
    Status.CANCELED: "canceled",
}
# What ComfyUI lists an output under → its type in the contract.
TYPES = {"images": "image", "gifs": "video", "audio": "audio", "text": "text", "files": "file", "latents": "latent"}
CODES = {"node_failed": "node_execution_error"}  # ours → the contract's; the others are told as they are


class Address:
    """Where this door is, as the client sees it, and how long what it keeps is kept."""

    def __init__(self, origin: str, *, retention_ms: int) -> None:
        self._base = f"{origin}{API}"
        self._retention_ms = retention_ms  # of a finished task

    def job(self, task_id: str) -> str:
        return f"{self._base}/jobs/{task_id}"

    def content(self, asset_id: str) -> str:
        return f"{self._base}/assets/{asset_id}/content"

    def expiry(self, task: Task) -> str:
        """Until when a task and its outputs are kept at least."""
        return iso((task.finished_at or task.created_at) + self._retention_ms)


def job_view(task: Task, at: Address) -> Job:
    """A task as a job."""
    waits = task.status is Status.PENDING and task.position is not None
    url = at.job(task.id)
    return Job(
        id=task.id,
        status=STATUSES[task.status],
        created_at=iso(task.created_at),
        started_at=iso(task.started_at) if task.started_at else None,
        completed_at=iso(task.finished_at) if task.status.final and task.finished_at else None,
        expires_at=at.expiry(task),
        queue_position=task.position + 1 if waits and task.position is not None else None,
        progress=progress_view(task.progress) if task.status is Status.RUNNING else None,
        outputs=outputs_view(task, at),
        error=_error_view(task.error) if task.status is Status.FAILED else None,
        metrics=_metrics(task),
        outputs_reused=bool(task.reused) or bool((shown := task.shown) and shown.cached),
        urls=JobUrls(self=url, events=f"{url}/events", cancel=f"{url}/cancel"),
        metadata=task.labels or task.notes.get("metadata", UNSET),
        priority=task.notes.get("priority", UNSET),
    )


def new_job_view(task: Task, at: Address) -> Job:
    """A job just submitted: its place in the queue is not told yet."""
    return structs.replace(job_view(task, at), queue_position=None)


def listed_job_view(task: Task, at: Address) -> Job:
    """A job in a list, with the times that the SDKs' summaries read."""
    job = job_view(task, at)
    return structs.replace(
        job,
        outputs_reused=UNSET,  # a list does not read what the instance said
        create_time=job.created_at,
        update_time=job.completed_at or job.started_at or job.created_at,
    )


def progress_view(progress: models.Progress | None) -> Progress:
    """How far a running task is."""
    if progress is None:
        return Progress(value=0.0, nodes_done=0, nodes_total=0)
    step, steps = (int(progress.value), int(progress.maximum)) if progress.maximum else (None, None)
    return Progress(
        value=min(1.0, max(0.0, progress.fraction)),
        nodes_done=progress.nodes_done,
        nodes_total=progress.nodes_total,
        current_node=progress.node,
        current_node_class=progress.node_class,
        step=step,
        steps=steps,
        message=f"{progress.node_class} {step}/{steps}" if progress.node_class and steps else progress.node_class,
    )


def outputs_view(task: Task, at: Address) -> list[Output]:
    """What a completed task produced, as assets."""
    expiry = at.expiry(task)
    return [
        Output(
            node_id=output.node,
            name=output.name,
            type=_type_of(output),
            content_type=output.content_type,
            size_bytes=output.size,
            id=output_id(task.id, index),
            hash=None,
            url=at.content(output_id(task.id, index)),
            url_expires_at=expiry,
            job_id=task.id,
        )
        for index, output in enumerate(task.outputs)
    ]


def output_id(task_id: str, index: int) -> str:
    """The asset id of a task's output."""
    return f"{task_id}-{index}"


def output_asset_view(task: Task, index: int, at: Address) -> Asset:
    """An output, asked for as an asset."""
    output, found = task.outputs[index], output_id(task.id, index)
    return Asset(
        id=found,
        hash=None,
        size_bytes=output.size,
        content_type=output.content_type,
        file_path=output.name,
        created_at=iso(task.finished_at or task.created_at),
        url=at.content(found),
        url_expires_at=at.expiry(task),
        expires_at=at.expiry(task),
        job_id=task.id,
    )


def asset_view(asset: StoredAsset, at: Address, *, created_new: bool | None = None) -> Asset:
    """An upload; `created_new` only in answers that create."""
    record = asset.record
    expiry = iso(asset.expires_at)
    return Asset(
        id=asset.id,
        hash=f"blake3:{record.blake3}",
        size_bytes=record.size,
        content_type=record.content_type,
        file_path=record.file_path,
        created_new=UNSET if created_new is None else created_new,
        created_at=iso(asset.created_at),
        url=at.content(asset.id),
        url_expires_at=expiry,
        expires_at=expiry,
    )


def _type_of(output: models.Output) -> str:
    if output.kind in TYPES:
        return TYPES[output.kind]
    family = output.content_type.partition("/")[0]
    return family if family in ("image", "video", "audio", "text") else "file"


def _error_view(error: TaskError | None) -> JobError:
    if error is None:
        return JobError(code="node_execution_error", message="execution failed", node_id=None, class_type=None)
    return JobError(
        code=CODES.get(error.code, error.code),
        message=str(error.details.get("text") or error.message),
        node_id=error.node,
        class_type=error.node_class,
    )


def _metrics(task: Task) -> dict[str, int | None]:
    started, finished = task.started_at, task.finished_at if task.status.final else 0
    return {
        "queue_ms": max(0, started - task.created_at) if started else None,
        "execution_ms": max(0, finished - started) if started and finished else None,
    }
