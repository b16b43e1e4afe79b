"""Batches as Redis knows them: tasks that were accepted in one call, counted by status in the transitions themselves.

A batch lives as long as any of its tasks is remembered. Reading one costs one round trip, however many tasks it has.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any, cast

import msgspec
import structlog
from redis.asyncio import Redis
from redis.exceptions import ResponseError

from comfy_shared import scripts
from comfy_shared.batching import batcher_of
from comfy_shared.errors import Damaged, NotFound
from comfy_shared.keys import Keys
from comfy_shared.models import Progress, Status, Task, decode
from comfy_shared.store import border

log = structlog.get_logger(__name__)


class NewBatch(msgspec.Struct, frozen=True, kw_only=True):
    """Tasks that were accepted in one call, as it is handed to the queue with them."""

    id: str
    owner: str
    workflow: str = ""  # of all of its tasks; empty: of none, or of several
    axes: tuple[str, ...] = ()  # parameters that were swept, the one that changes fastest last
    columns: int = 0  # of a contact sheet; 0: as it comes

    def accepted(self, tasks: Sequence[Task]) -> "Batch":
        """What was just written, without reading it."""
        statuses = Counter(task.status for task in tasks)
        return Batch(
            id=self.id,
            owner=self.owner,
            workflow=self.workflow,
            axes=self.axes,
            columns=self.columns,
            created_at=tasks[0].created_at,
            counts={status: statuses[status] for status in Status},
        )


class Batch(msgspec.Struct, frozen=True, kw_only=True):
    """A batch as read from Redis."""

    id: str
    owner: str
    workflow: str
    axes: tuple[str, ...]
    columns: int
    created_at: int
    counts: dict[Status, int]  # of its tasks, by status; also of those that are forgotten
    under_way: float = 0.0  # the fractions of its running tasks, added up

    @property
    def total(self) -> int:
        return sum(self.counts.values())

    @property
    def ended(self) -> bool:
        return not self.counts[Status.PENDING] and not self.counts[Status.RUNNING]

    @property
    def progress(self) -> float:
        """0 to 1; a task that failed or was canceled counts as done."""
        done = sum(number for status, number in self.counts.items() if status.final)
        return min(1.0, (done + self.under_way) / self.total) if self.total else 1.0

    @property
    def status(self) -> Status:
        """pending until a task runs, running until all ended; then the worst end of any."""
        if not self.ended:
            return Status.PENDING if self.counts[Status.PENDING] == self.total else Status.RUNNING
        ends = (Status.FAILED, Status.CANCELED)
        return next((status for status in ends if self.counts[status]), Status.COMPLETED)


class Batches:
    """Reads the batches of one namespace. Raises `Unavailable` while Redis is away."""

    def __init__(self, redis: Redis, keys: Keys) -> None:
        self._redis = redis
        self._batcher = batcher_of(redis)
        self._keys = keys

    async def get(self, batch_id: str) -> Batch:
        """Raises NotFound, Damaged."""
        with border():
            reply = await scripts.BATCH(self._batcher, self._keys, id=batch_id)
        flat, progress = cast("list[list[bytes]]", reply)
        if not flat:
            raise NotFound("there is no such batch")
        return _batch(batch_id, dict(zip(flat[::2], flat[1::2], strict=True)), progress)

    async def page(self, owner: str | None, *, before: tuple[int, str] | None, limit: int) -> list[Batch]:
        """Batches, newest first, of one owner or of all; `before` is time and id of the last one known.

        A damaged record is logged and left out.
        """
        index = self._keys.batches_prefix + ("all" if owner is None else f"owner:{owner}")
        highest = "+inf" if before is None else str(before[0])
        found: list[tuple[int, str]] = []
        offset = 0
        while len(found) < limit:  # those of the very same millisecond may have been told before
            with border():
                entries = await self._redis.zrevrangebyscore(
                    index, highest, "-inf", start=offset, num=limit, withscores=True
                )
            pairs = [(int(score), member.decode()) for member, score in cast("list[tuple[bytes, float]]", entries)]
            found += [pair for pair in pairs if before is None or pair < before]
            offset += len(pairs)
            if len(pairs) < limit:
                break
        return await self._records([batch_id for _, batch_id in found[:limit]])

    async def _records(self, ids: list[str]) -> list[Batch]:
        if not ids:
            return []
        with border():
            pipeline = self._redis.pipeline(transaction=False)
            for batch_id in ids:
                pipeline.hgetall(self._keys.batch_prefix + batch_id)
            replies = await pipeline.execute(raise_on_error=False)
        batches = []
        for batch_id, fields in zip(ids, replies, strict=True):
            try:
                if fields and not isinstance(fields, ResponseError):
                    batches.append(_batch(batch_id, fields, []))
            except Damaged as error:
                log.error("Batch record is damaged", action="batch.damaged", batch=batch_id, reason=error.message)
        return batches

    async def tasks(self, batch_id: str, *, start: int = 0, count: int | None = None) -> list[Task]:
        """Its tasks in the order of the call, from number `start` on, without their prompts; those that are
        forgotten or damaged are left out."""
        with border():
            last = -1 if count is None else start + count - 1
            ids = cast("list[bytes]", await self._redis.zrange(self._keys.index("batch", batch_id), start, last))
            pipeline = self._redis.pipeline(transaction=False)
            for task_id in ids:
                pipeline.hmget(self._keys.task(task_id.decode()), TASK_FIELDS)
                pipeline.zrank(self._keys.queue, task_id)
            replies = await pipeline.execute(raise_on_error=False) if ids else []
        tasks = []
        for task_id, values, rank in zip(ids, replies[::2], replies[1::2], strict=True):
            try:
                tasks.append(_task(values, rank))
            except Damaged as error:
                log.error("Task record is damaged", action="task.damaged", task_id=task_id.decode(), reason=str(error))
        return [task for task in tasks if task is not None]


TASK_FIELDS = tuple(sorted(set(Task.__struct_fields__) - {"position", "packed_prompt", "inputs"}))


def _task(values: object, rank: object) -> Task | None:
    if not isinstance(values, list):
        raise Damaged("the task record is no hash")
    fields = {name.encode(): value for name, value in zip(TASK_FIELDS, values, strict=True) if value is not None}
    return Task.from_hash(fields, position=rank if isinstance(rank, int) else None) if fields else None


def _batch(batch_id: str, fields: dict[bytes, bytes], progress: list[bytes]) -> Batch:
    try:
        values: dict[str, Any] = {name: fields[name.encode()].decode() for name in ("owner", "workflow")}
        return Batch(
            id=batch_id,
            axes=msgspec.json.decode(fields[b"axes"], type=tuple[str, ...]),
            columns=int(fields[b"columns"]),
            created_at=int(fields[b"created_at"]),
            counts={status: max(0, int(fields.get(status.value.encode(), 0))) for status in Status},
            under_way=sum(decode(told, Progress).fraction for told in progress),
            **values,
        )
    except (KeyError, ValueError, msgspec.MsgspecError) as error:
        raise Damaged(f"the record of batch {batch_id} is damaged") from error
