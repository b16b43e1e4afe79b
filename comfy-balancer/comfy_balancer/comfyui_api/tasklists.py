"""The caller's own tasks as queue and history need them: whole records, found through the indexes of the lists.

Another owner's tasks are not there, whatever the caller's role: a ComfyUI client deals with all it sees.
"""

from collections.abc import Sequence
from typing import cast

import structlog
from redis.asyncio import Redis

from comfy_balancer.comfyui_api.ids import TASK_ID
from comfy_balancer.listing import Query, TaskLister
from comfy_shared.errors import Damaged
from comfy_shared.keys import Keys
from comfy_shared.models import Status, Task
from comfy_shared.store import border

log = structlog.get_logger(__name__)

MOST = 1000  # tasks of one answer
LARGEST = 64 * 1024 * 1024  # bytes of the packed graphs of one answer
ENDED = (Status.COMPLETED, Status.FAILED, Status.CANCELED)
PAGE = 200


class OwnTasks:
    """Reads tasks by owner. Raises `Unavailable` while Redis is away."""

    def __init__(self, redis: Redis, keys: Keys, lister: TaskLister) -> None:
        self._redis = redis
        self._keys = keys
        self._lister = lister

    async def queued(self, owner: str) -> tuple[list[Task], list[Task]]:
        """What runs, and what waits in the order in which it will run."""
        running = await self._ids(owner, Status.RUNNING, MOST)
        waiting = await self._ids(owner, Status.PENDING, MOST)
        tasks = {task.id: task for task in await self.whole([task.id for task in running + waiting])}
        waiting.sort(key=lambda task: (task.position is None, task.position or 0))
        return (
            [tasks[task.id] for task in running if task.id in tasks],
            [tasks[task.id] for task in waiting if task.id in tasks],
        )

    async def ended(self, owner: str, most: int | None = None) -> list[Task]:
        """The newest of what ended, oldest first; records without their graphs."""
        found: list[Task] = []
        for status in ENDED:
            found += await self._ids(owner, status, min(most or MOST, MOST))
        found.sort(key=lambda task: (task.finished_at, task.id))
        return found[-(most or MOST) :] if most != 0 else []

    async def _ids(self, owner: str, status: Status, most: int) -> list[Task]:
        found: list[Task] = []
        cursor: str | None = None
        while True:
            page = await self._lister.page(Query(owner=owner, status=status, limit=PAGE, cursor=cursor))
            found += [task for task in page.tasks if in_history(task) or not status.final]
            cursor = page.next
            if cursor is None or len(found) >= most:
                return found[:most]

    async def whole(self, ids: Sequence[str]) -> list[Task]:
        """The whole records of these tasks; what is gone, damaged, or over the size of one answer is left out."""
        found: list[Task] = []
        size = 0
        for at in range(0, len(ids), PAGE):
            with border():
                pipeline = self._redis.pipeline(transaction=False)
                for task_id in ids[at : at + PAGE]:
                    pipeline.hgetall(self._keys.task(task_id))
                replies = await pipeline.execute(raise_on_error=False)
            for task_id, fields in zip(ids[at : at + PAGE], replies, strict=True):
                task = _read(task_id, fields)
                if task is not None and size <= LARGEST:
                    size += len(task.packed_prompt) + len(task.packed_extra) + len(task.packed_shown)
                    found.append(task)
        return found

    async def ending(self, task_id: str) -> tuple[Task | None, int]:
        """The whole record of a task, and how many of the cluster wait or run."""
        with border():
            pipeline = self._redis.pipeline(transaction=False)
            pipeline.hgetall(self._keys.task(task_id))
            pipeline.zcard(self._keys.queue)
            pipeline.zcard(self._keys.leases)
            fields, *counts = await pipeline.execute(raise_on_error=False)
            for count in counts:
                if isinstance(count, Exception):
                    raise count
        return _read(task_id, fields), sum(counts)

    async def remaining(self) -> int:
        """How many tasks of the cluster wait or run."""
        with border():
            pipeline = self._redis.pipeline(transaction=False)
            pipeline.zcard(self._keys.queue)
            pipeline.zcard(self._keys.leases)
            return sum(cast("list[int]", await pipeline.execute()))


def in_history(task: Task) -> bool:
    """Whether an ended task is in the history: one that was canceled before it ran leaves no trace."""
    return not task.hidden and not (task.status is Status.CANCELED and task.attempt == 0)


def _read(task_id: str, fields: object) -> Task | None:
    if not isinstance(fields, dict) or not fields or not TASK_ID.fullmatch(task_id):
        return None
    try:
        return Task.from_hash(fields)
    except Damaged as error:
        log.error("Task record is damaged", action="task.damaged", task_id=task_id, reason=error.message)
        return None
