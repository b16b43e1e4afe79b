"""What the queue's scripts are given, and what they reply, as values of ours. Pure."""

from collections.abc import Sequence
from typing import Any

import msgspec

from comfy_shared.batches import NewBatch
from comfy_shared.claims import Attempt, BrokenAttempt, Submitted
from comfy_shared.errors import Damaged, FieldProblem, IdempotencyConflict, InvalidTask, QueueFull
from comfy_shared.models import Needs, NewTask, Task, decode, pack

encode = msgspec.json.encode


def text(value: object) -> str:
    """JSON as text: Lua's msgpack knows no byte strings."""
    return encode(value).decode()


def packed_task(task: NewTask) -> dict[str, Any]:
    """A task as `submit` takes it; its fields are those of its record."""
    fields: dict[str, Any] = {
        "id": task.id,
        "owner": task.owner,
        "lane": task.lane,
        "priority": str(task.priority),  # as text: numbers are slow to print in Lua
        "max_attempts": str(task.max_attempts),
        "timeout": f"{task.timeout:.17g}",
    }
    if task.workflow:
        fields |= {"workflow": task.workflow, "workflow_digest": task.workflow_digest}
    if task.workflow_version:
        fields["workflow_version"] = str(task.workflow_version)
    for name in ("parameters", "labels", "inputs", "notes", "output_options"):
        if value := getattr(task, name):
            fields[name] = text(value)
    return {
        "id": task.id,
        "owner": task.owner,
        "lane": task.lane,
        "needs": text(task.needs),
        "priority": task.priority,
        "workflow": task.workflow,
        "labels": [f"{name}={value}" for name, value in task.labels.items()],
        "inputs": [file.sha256 for file in task.inputs],
        "reuse": task.reuse,
        "front": task.front,
        "fields": [item for pair in fields.items() for item in pair],
        "told": text({"priority": task.priority, "workflow": task.workflow or None, **_client_of(task)}),
    }


def packed_bodies(tasks: Sequence[NewTask]) -> list[bytes]:
    """Each prompt, then what else each task brings, as bytes of their own."""
    extras = [pack(encode(task.extra)) if task.extra else b"" for task in tasks]
    return [*(pack(task.prompt) for task in tasks), *extras]


def packed_batch(batch: NewBatch) -> dict[str, Any]:
    """A batch as `submit` takes it."""
    fields = {"owner": batch.owner, "workflow": batch.workflow, "axes": text(batch.axes), "columns": batch.columns}
    return {"id": batch.id, "owner": batch.owner, "fields": [item for pair in fields.items() for item in pair]}


def _client_of(task: NewTask) -> dict[str, str]:
    """For the processes that serve the client's sockets."""
    if task.extra is None or task.extra.client_id is None:
        return {}
    return {"client": task.extra.client_id, "owner": task.owner}


def attempt_of(flat: list[bytes], session: str) -> Attempt | BrokenAttempt:
    """The attempt at a task, of its whole record."""
    fields = dict(zip(flat[::2], flat[1::2], strict=True))
    try:
        return Attempt(task=Task.from_hash(fields), session=session)
    except Damaged as error:
        number = int(fields.get(b"attempt", b"0"))
        return BrokenAttempt(
            id=fields.get(b"id", b"").decode(errors="replace"),
            number=number,
            session=session,
            reason=error.message,
        )


def needs_of_reply(raw: bytes) -> Needs | None:
    """The needs of a lane; None when they are gone or damaged."""
    try:
        return decode(raw, Needs)
    except Damaged:
        return None


def submitted(
    reply: list[Any], tasks: Sequence[NewTask], *, queue_limit: int, owner_limit: int, by_key: bool
) -> Submitted:
    """The answer of `submit`; `by_key` says that the call had an idempotency key.

    Raises:
        QueueFull, IdempotencyConflict, InvalidTask: it accepted nothing.
    """
    word, *rest = reply
    if word == b"full":
        raise QueueFull(f"{rest[0]} tasks wait already; the limit is {queue_limit}.")
    if word == b"owner_full":
        raise QueueFull(f"{rest[1]} tasks of {rest[0].decode()} wait already; the limit is {owner_limit}.")
    if word == b"conflict":
        raise IdempotencyConflict
    if word == b"input":
        message = f"there is no stored input file {rest[0].decode()}"
        raise InvalidTask((FieldProblem(field="inputs", message=message),))
    ids = tuple([task.id for task in tasks])
    if word == b"known":
        return Submitted(
            known=True, ids=tuple([item.decode() for item in rest]) if by_key else ids, created_at=0, positions=()
        )
    return Submitted(known=False, ids=ids, created_at=rest[0], positions=tuple(rest[1:]))
