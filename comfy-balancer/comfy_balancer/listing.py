"""Lists of tasks, newest first: walks the smallest index that fits, never the keys and never the prompts.

A page ends where the next begins: the cursor is the last task's time and id, so that tasks that arrive or go
meanwhile neither repeat nor hide others.
"""

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import cast

import structlog
from redis.asyncio import Redis

from comfy_shared.callers import Caller
from comfy_shared.errors import Damaged
from comfy_shared.http.problems import invalid
from comfy_shared.keys import Keys
from comfy_shared.models import Status, Task
from comfy_shared.store import border

log = structlog.get_logger(__name__)

FIELDS = (
    "id", "owner", "status", "priority", "lane", "attempt", "max_attempts", "created_at", "timeout", "workflow",
    "workflow_digest", "workflow_version", "parameters", "labels", "agent", "started_at", "finished_at", "progress",
    "outputs", "error", "events", "batch", "hidden", "notes",
)  # fmt: skip
PAGE = 200  # ids looked at in one round trip
OPEN = "open"  # the index of what is pending or running
MOST_LOOKED_AT = 5000  # ids looked at for one answer; the cursor leads on


@dataclass(frozen=True, kw_only=True, slots=True)
class Query:
    """What to list."""

    status: Status | None = None
    statuses: frozenset[Status] = frozenset(Status)  # any of them
    workflow: str | None = None
    owner: str | None = None
    visible_to: Caller | None = None  # only what this caller may see; None: everything
    batch: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    after: int | None = None  # ms; created at or after
    before: int | None = None  # ms; created before
    limit: int = 50
    cursor: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Page:
    """Some tasks."""

    tasks: tuple[Task, ...]
    next: str | None  # cursor of the next page


def encode_cursor(created: int, task_id: str) -> str:
    return base64.urlsafe_b64encode(f"{created}.{task_id}".encode()).decode().rstrip("=")


def decode_cursor(cursor: str) -> tuple[int, str]:
    """Raises InvalidTask when it is none of ours."""
    try:
        padded = cursor.encode("ascii") + b"=" * (-len(cursor) % 4)
        created, _, task_id = base64.b64decode(padded, altchars=b"-_", validate=True).decode("ascii").partition(".")
        if created.isdecimal() and len(created) <= 15 and task_id:
            return int(created), task_id
    except (binascii.Error, ValueError):
        pass
    raise invalid("cursor", "is not a cursor of an earlier answer")


class TaskLister:
    """Lists the tasks of one namespace. Raises `Unavailable` while Redis is away."""

    def __init__(self, redis: Redis, keys: Keys) -> None:
        self._redis = redis
        self._keys = keys

    async def page(self, query: Query) -> Page:
        """One page. A damaged record is logged and left out."""
        if query.visible_to is not None and not query.visible_to.is_admin:
            if query.owner not in (None, query.visible_to.owner):
                return Page(tasks=(), next=None)
            query = replace(query, owner=query.visible_to.owner)
        cursor = decode_cursor(query.cursor) if query.cursor is not None else None
        index = await self._smallest(query)
        highest = "+inf" if query.before is None else f"({query.before}"
        if cursor and (query.before is None or cursor[0] < query.before):
            highest = str(cursor[0])
        lowest = "-inf" if query.after is None else str(query.after)
        found: list[Task] = []
        offset = 0
        last: tuple[int, str] | None = None
        while offset < MOST_LOOKED_AT:
            entries = await self._entries(index, highest, lowest, offset)
            offset += len(entries)
            fresh = [entry for entry in entries if cursor is None or entry < cursor]
            for entry, task in zip(fresh, await self._tasks([task_id for _, task_id in fresh]), strict=True):
                if task is not None and _fits(task, query):
                    if len(found) == query.limit:
                        return Page(tasks=tuple(found), next=encode_cursor(found[-1].created_at, found[-1].id))
                    found.append(task)
                last = entry
            if len(entries) < PAGE:
                return Page(tasks=tuple(found), next=None)
        return Page(tasks=tuple(found), next=encode_cursor(*last) if last else None)

    async def _smallest(self, query: Query) -> str:
        keys = self._keys
        indexes = [keys.index("all")]
        if query.status:
            indexes.append(keys.index("status", query.status.value if query.status.final else OPEN))
        if query.owner:
            indexes.append(keys.index("owner", query.owner))
        if query.workflow:
            indexes.append(keys.index("workflow", query.workflow))
        if query.batch:
            indexes.append(keys.index("batch", query.batch))
        indexes += [keys.index("label", f"{name}={value}") for name, value in query.labels.items()]
        if len(indexes) == 1:
            return indexes[0]
        with border():
            pipeline = self._redis.pipeline(transaction=False)
            for index in indexes:
                pipeline.zcard(index)
            counts = await pipeline.execute()
        return min(zip(counts, indexes, strict=True))[1]

    async def _entries(self, index: str, highest: str, lowest: str, offset: int) -> list[tuple[int, str]]:
        with border():
            entries = await self._redis.zrevrangebyscore(
                index, highest, lowest, start=offset, num=PAGE, withscores=True
            )
        pairs = cast("list[tuple[bytes, float]]", entries)
        return [(int(score), task_id.decode(errors="replace")) for task_id, score in pairs]

    async def _tasks(self, ids: list[str]) -> list[Task | None]:
        if not ids:
            return []
        with border():
            pipeline = self._redis.pipeline(transaction=False)
            for task_id in ids:
                pipeline.hmget(self._keys.task(task_id), FIELDS)
                pipeline.zrank(self._keys.queue, task_id)
            replies = await pipeline.execute(raise_on_error=False)
        return [
            _read(task_id, values, rank) for task_id, values, rank in zip(ids, replies[::2], replies[1::2], strict=True)
        ]


def _read(task_id: str, values: object, rank: object) -> Task | None:
    try:
        if not isinstance(values, list):
            raise Damaged("the task record is no hash")
        fields = {name.encode(): value for name, value in zip(FIELDS, values, strict=True) if value is not None}
        if not fields:
            return None  # forgotten between the index and the record
        return Task.from_hash(fields, position=rank if isinstance(rank, int) else None)
    except Damaged as error:
        log.error("Task record is damaged", action="task.damaged", task_id=task_id, reason=error.message)
        return None


def _fits(task: Task, query: Query) -> bool:
    return (
        (query.status is None or task.status is query.status)
        and task.status in query.statuses
        and (query.workflow is None or task.workflow == query.workflow)
        and (query.owner is None or task.owner == query.owner)
        and (query.batch is None or task.batch == query.batch)
        and all(task.labels.get(name) == value for name, value in query.labels.items())
    )
