"""What goes with a submit, and what comes of it: the record that a reader would find. Pure."""

from collections.abc import Sequence

import msgspec

from comfy_shared.batches import Batch
from comfy_shared.claims import Submitted
from comfy_shared.models import Extra, NewTask, Status, Task


class Accepted(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to a submit."""

    tasks: tuple[Task, ...]  # in the order of the call
    replayed: bool  # an earlier call with the same key had been accepted
    batch: str = ""  # id of the batch that they are; empty: one task alone
    fresh: Batch | None = None  # that batch as it was accepted; None when it was before


class Given(msgspec.Struct, frozen=True, kw_only=True):
    """What another door than REST decides about a task itself."""

    task_id: str = ""  # empty: made here
    extra: Extra | None = None
    front: bool = False  # before the caller's own that wait in the same lane


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
