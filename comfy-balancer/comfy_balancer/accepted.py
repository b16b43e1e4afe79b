"""What a submit wrote, as the record that a reader would find. Pure."""

from collections.abc import Sequence

from comfy_shared.claims import Submitted
from comfy_shared.models import NewTask, Status, Task


def as_tasks(tasks: Sequence[NewTask], submitted: Submitted, batch: str) -> tuple[Task, ...]:
    """What was just written, without reading it."""
    return tuple(
        Task(
            id=task.id,
            owner=task.owner,
            status=Status.PENDING,
            priority=task.priority,
            lane=task.lane,
            attempt=0,
            max_attempts=task.max_attempts,
            created_at=submitted.created_at,
            timeout=task.timeout,
            workflow=task.workflow,
            workflow_digest=task.workflow_digest,
            workflow_version=task.workflow_version,
            parameters=task.parameters,
            labels=task.labels,
            inputs=task.inputs,
            notes=task.notes,
            batch=batch,
            output_options=task.output_options,
            events=1,
            position=position,
        )
        for task, position in zip(tasks, submitted.positions, strict=True)
    )
