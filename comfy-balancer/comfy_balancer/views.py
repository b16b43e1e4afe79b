"""Records → what clients see. Pure functions."""

from collections.abc import Iterable
from typing import Any
from urllib.parse import quote

from comfy_balancer.batch_schemas import BatchLinks, BatchSummary, BatchView
from comfy_balancer.schemas import (
    AgentView,
    DeviceView,
    ErrorView,
    EventView,
    InputView,
    Links,
    OutputView,
    ProgressView,
    TaskView,
)
from comfy_balancer.uploads import Upload
from comfy_shared.batches import Batch
from comfy_shared.models import Event, Output, Status, Task
from comfy_shared.moments import iso
from comfy_shared.registry import Agent

API = "/api/v1"
LONG_VALUE = 256  # characters; a longer parameter value is left out of lists


def task_url(task_id: str) -> str:
    return f"{API}/tasks/{task_id}"


def task_view(task: Task, *, brief: bool = False) -> TaskView:
    """A task as clients see it; `brief` leaves long parameter values out."""
    error, progress, created = task.error, task.progress, iso(task.created_at)
    return TaskView(
        id=task.id,
        status=task.status,
        owner=task.owner,
        workflow=task.workflow or None,
        workflow_version=task.workflow_version or None,
        parameters=_without_long(task.parameters) if brief else task.parameters,
        batch=task.batch or None,
        labels=task.labels,
        priority=task.priority,
        timeout=task.timeout,
        position=task.position if task.status is Status.PENDING else None,
        attempt=task.attempt,
        max_attempts=task.max_attempts,
        agent=task.agent or None,
        reused=task.reused or task.joined or None,
        progress=ProgressView(**{name: getattr(progress, name) for name in ProgressView.__struct_fields__})
        if progress
        else None,
        outputs=[output_view(task.id, output) for output in task.outputs],
        error=ErrorView(**{name: getattr(error, name) for name in ErrorView.__struct_fields__}) if error else None,
        created=created,
        started=iso(task.started_at) if task.started_at else None,
        finished=iso(task.finished_at) if task.finished_at else None,
        timestamps=_timestamps(task, created),
        links=links(task.id),
    )


def _without_long(parameters: dict[str, Any]) -> dict[str, Any]:
    return {
        name: value
        for name, value in parameters.items()
        if not isinstance(value, str | list | dict) or len(str(value)) <= LONG_VALUE
    }


def _timestamps(task: Task, created: str) -> dict[str, str]:
    times: dict[str, str] = {Status.PENDING: created}
    if task.started_at:
        times[Status.RUNNING] = iso(task.started_at)
    if task.status.final and task.finished_at:
        times[task.status] = iso(task.finished_at)
    return times


def links(task_id: str) -> Links:
    url = task_url(task_id)
    return Links(
        self=url,
        events=f"{url}/events",
        websocket=f"{url}/ws",
        outputs=f"{url}/outputs",
        prompt=f"{url}/prompt",
        cancel=f"{url}/cancel",
        retry=f"{url}/retry",
        explain=f"{url}/explain",
    )


def batch_url(batch_id: str) -> str:
    return f"{API}/batches/{batch_id}"


def batch_summary(batch: Batch) -> BatchSummary:
    return BatchSummary(**_batch_fields(batch))


def batch_view(batch: Batch, tasks: Iterable[Task], *, brief: bool = False) -> BatchView:
    return BatchView(tasks=[task_view(task, brief=brief) for task in tasks], **_batch_fields(batch))


def _batch_fields(batch: Batch) -> dict[str, Any]:
    url = batch_url(batch.id)
    return {
        "id": batch.id,
        "status": batch.status,
        "owner": batch.owner,
        "workflow": batch.workflow or None,
        "axes": list(batch.axes),
        "total": batch.total,
        "counts": {status.value: number for status, number in batch.counts.items()},
        "progress": round(batch.progress, 4),
        "created": iso(batch.created_at),
        "links": BatchLinks(
            self=url,
            events=f"{url}/events",
            cancel=f"{url}/cancel",
            retry=f"{url}/retry",
            contact_sheet=f"{url}/contact-sheet",
        ),
    }


def output_view(task_id: str, output: Output) -> OutputView:
    return OutputView(
        name=output.name,
        node=output.node,
        kind=output.kind,
        content_type=output.content_type,
        size=output.size,
        sha256=output.sha256,
        temporary=output.temporary,
        original=output.original or None,
        problem=output.problem or None,
        url=f"{task_url(task_id)}/outputs/{quote(output.name, safe='')}",
    )


def event_view(event: Event) -> EventView:
    """An event as clients see it: an output's place in the file store becomes its URL."""
    data = event.data
    output = data.get("output")
    if isinstance(output, dict):
        url = f"{task_url(event.task_id)}/outputs/{quote(str(output.get('name', '')), safe='')}"
        data = {**data, "output": {**{name: value for name, value in output.items() if name != "key"}, "url": url}}
    return EventView(
        seq=event.seq,
        task_id=event.task_id,
        type=event.type,
        at=iso(event.at),
        attempt=event.attempt,
        data=data,
    )


def input_view(upload: Upload) -> InputView:
    return InputView(
        sha256=upload.sha256,
        size=upload.size,
        content_type=upload.content_type,
        extension=upload.extension,
    )


def agent_view(agent: Agent) -> AgentView:
    record, vitals = agent.record, agent.vitals
    state = record.state
    if not agent.alive:
        state = "gone"
    elif agent.draining:
        state = "draining"
    return AgentView(
        id=record.id,
        address=record.address,
        state=state,
        reason=record.reason,
        alive=agent.alive,
        draining=agent.draining,
        running=list(vitals.running),
        storing=list(vitals.storing),
        labels=record.labels,
        comfyui_version=record.comfyui_version,
        devices=[DeviceView(name=item.name, type=item.type, vram_total=item.vram_total) for item in record.devices],
        vram_free=vitals.vram_free,
        ram_free=vitals.ram_free,
        seen=iso(agent.seen_at),
    )
