"""The queue: one short async method per Lua transition, so that task state changes only in atomic steps.

Submitting puts a task into its lane and wakes one idle agent; an agent claims when it has a free slot. The right to
run is a lease; the attempt's
number together with the agent's session is the fence: a report of an older attempt, or of an older process of the
same agent, is refused.
"""

from collections.abc import Mapping, Sequence
from typing import Any, cast

import msgspec
from redis.asyncio import Redis
from redis.exceptions import ResponseError

from comfy_shared import scripts
from comfy_shared.batches import NewBatch
from comfy_shared.batching import batcher_of
from comfy_shared.claims import (
    Attempt,
    BrokenAttempt,
    ClaimReply,
    Draining,
    Idempotency,
    Nothing,
    Purged,
    Submitted,
    Swept,
    UnknownLanes,
    Unregistered,
)
from comfy_shared.errors import (
    Conflict,
    Damaged,
    LeaseLost,
    NotFound,
    QueueFull,
)
from comfy_shared.keys import Keys
from comfy_shared.models import (
    EventType,
    Needs,
    NewTask,
    Output,
    Policy,
    Progress,
    Status,
    Task,
    TaskError,
    pack,
)
from comfy_shared.packing import (
    attempt_of,
    encode,
    needs_of_reply,
    packed_batch,
    packed_bodies,
    packed_task,
    submitted,
    text,
)
from comfy_shared.scripts import Argument, Script
from comfy_shared.settings import SharedSettings
from comfy_shared.store import border

_POLICIES = frozenset(policy.value.encode() for policy in Policy)
UNLIMITED = 10**9


class Queue:
    """The queue of one namespace.

    Every method raises `Unavailable` while Redis is away; then nothing is known to have happened.
    """

    def __init__(self, redis: Redis, keys: Keys, settings: SharedSettings) -> None:
        self.redis = redis
        self._batcher = batcher_of(redis)
        self.keys = keys
        self.lease_ms = settings.lease_ms
        self.retention_ms = int(settings.task_retention * 1000)
        self.avoid_ms = int(settings.avoid_seconds * 1000)
        self.agent_retention_ms = int(settings.agent_retention * 1000)
        self.ageing_ms = int(settings.priority_ageing * 1000)
        self.running_limit = settings.owner_running_limit

    async def submit(
        self,
        tasks: Sequence[NewTask],
        *,
        batch: NewBatch | None = None,
        queue_limit: int,
        owner_limit: int = UNLIMITED,
        idempotency: Idempotency | None = None,
        idempotency_ms: int = 86_400_000,
    ) -> Submitted:
        """Accepts all tasks or none; with `batch` as one batch.

        Raises:
            QueueFull: they would exceed `queue_limit` waiting tasks, or `owner_limit` of one owner.
            IdempotencyConflict: the key was used for another body.
            InvalidTask: an input file is not in the store (any more).
        """
        key = self.keys.idempotency(idempotency.owner, idempotency.key) if idempotency else self.keys.clock
        with border():
            reply = await scripts.SUBMIT(
                self._batcher,
                self.keys,
                {"idempotency": key},
                rest=packed_bodies(tasks),
                tasks=msgspec.msgpack.encode([packed_task(task) for task in tasks]),
                batch=msgspec.msgpack.encode(packed_batch(batch)) if batch else b"",
                queue_limit=queue_limit,
                owner_limit=owner_limit,
                ageing_ms=self.ageing_ms,
                retention_ms=self.retention_ms,
                fingerprint=idempotency.fingerprint if idempotency else "",
                idempotency_ms=idempotency_ms,
            )
        return submitted(
            cast("list[Any]", reply),
            tasks,
            queue_limit=queue_limit,
            owner_limit=owner_limit,
            by_key=idempotency is not None,
        )

    async def claim(
        self,
        agent: str,
        session: str,
        *,
        prompt_id: str,
        verdicts: Mapping[str, bool] | None = None,
    ) -> ClaimReply:
        """Takes the next task that the agent can serve, under a lease.

        `verdicts` says which of the lanes of the last `UnknownLanes` the agent can serve.
        """
        with border():
            reply = await scripts.CLAIM(
                self._batcher,
                self.keys,
                agent=agent,
                session=session,
                prompt_id=prompt_id,
                lease_ms=self.lease_ms,
                verdicts=msgspec.msgpack.encode({k: "1" if v else "0" for k, v in (verdicts or {}).items()}),
                running_limit=self.running_limit,
                ageing_ms=self.ageing_ms,
            )
        word, *rest = cast("list[Any]", reply)
        if word == b"claimed":
            return attempt_of(rest[0], session)
        if word == b"lanes":
            pairs = zip(rest[::2], rest[1::2], strict=True)
            return UnknownLanes(needs={lane.decode(): needs_of_reply(raw) for lane, raw in pairs})
        if word == b"empty":
            return Nothing()
        return Draining() if word == b"draining" else Unregistered()

    async def renew(self, session: str, attempts: Mapping[str, int]) -> frozenset[str]:
        """Prolongs the leases of `attempts` (task id → attempt); returns the ids that are lost."""
        with border():
            lost = await scripts.RENEW(
                self._batcher,
                self.keys,
                session=session,
                lease_ms=self.lease_ms,
                attempts=msgspec.msgpack.encode(dict(attempts)),
            )
        return frozenset(item.decode() for item in cast("list[bytes]", lost))

    async def report(
        self,
        attempt: Attempt,
        kind: EventType,
        data: Mapping[str, Any],
        *,
        progress: Progress | None = None,
    ) -> None:
        """Tells one line of the story of a running attempt.

        Raises:
            LeaseLost: the attempt no longer holds the task.
        """
        with border():
            reply = await scripts.REPORT(
                self._batcher,
                self.keys,
                id=attempt.id,
                attempt=attempt.number,
                session=attempt.session,
                kind=kind.value,
                progress=encode(progress) if progress else b"",
                data=encode(data),
            )
        if reply == b"stale":
            raise LeaseLost

    async def complete(
        self,
        attempt: Attempt,
        outputs: Sequence[Output],
        *,
        progress: Progress | None = None,
        gpu_ms: int = 0,
        cold: bool | None = None,
        shown: bytes = b"",
    ) -> None:
        """Ends the attempt with its outputs and last progress. Raises LeaseLost when it no longer holds the task.

        `gpu_ms` is how long the prompt ran, `cold` whether it had to load its models (None: not known): the averages
        that the lane policy goes by. `shown` is JSON of `Shown`, or empty.
        """
        told = [text({"output": output}) for output in outputs]
        await self._end(
            scripts.SETTLE,
            attempt,
            "complete",
            problem=b"{}",
            outputs=encode(outputs),
            told=msgspec.msgpack.encode(told),
            progress=encode(progress) if progress else b"",
            shown=pack(shown) if shown else b"",
            gpu_ms=gpu_ms,
            cold="" if cold is None else str(int(cold)),
        )

    async def fail(self, attempt: Attempt | BrokenAttempt, error: TaskError) -> None:
        """Ends the task as failed. Raises LeaseLost when the attempt no longer holds it."""
        nothing: dict[str, Argument] = {"outputs": b"[]", "told": b"\x90", "progress": b"", "shown": b""}
        await self._end(scripts.SETTLE, attempt, "fail", problem=encode(error), gpu_ms=0, cold="", **nothing)

    async def try_again(self, attempt: Attempt, error: TaskError) -> Status:
        """Ends the attempt; the task waits again, or failed for good when its attempts are used up (the status
        tells)."""
        return await self._give_back(attempt, "retry", error)

    async def release(self, attempt: Attempt, reason: str) -> None:
        """Gives the task back unrun; this costs no attempt."""
        await self._give_back(attempt, "release", TaskError(code="released", message=reason))

    async def _give_back(self, attempt: Attempt, outcome: str, error: TaskError) -> Status:
        more: dict[str, Argument] = {"code": error.code, "problem": encode(error), "avoid_ms": self.avoid_ms}
        return await self._end(scripts.GIVE_BACK, attempt, outcome, **more)

    async def _end(self, script: Script, attempt: Attempt | BrokenAttempt, outcome: str, **args: Argument) -> Status:
        """Ends the lease; the task's status then. Raises LeaseLost."""
        with border():
            reply = await script(
                self._batcher,
                self.keys,
                None,
                (),
                id=attempt.id,
                attempt=attempt.number,
                session=attempt.session,
                outcome=outcome,
                retention_ms=self.retention_ms,
                **args,
            )
        if reply == b"stale":
            raise LeaseLost
        return Status(cast("bytes", reply).decode())

    async def held(self, agent: str) -> tuple[str, ...]:
        """Ids of the tasks that the agent holds by the record, also those of an earlier process of it."""
        with border():
            held = cast("list[bytes]", await self.redis.hvals(self.keys.held(agent)))
        return tuple(sorted(item.decode() for item in held))

    async def adopt(self, agent: str, session: str, task_id: str) -> Attempt | BrokenAttempt | None:
        """Takes over an attempt that an earlier process of this agent held; None when it ended or runs elsewhere."""
        with border():
            reply = await scripts.ADOPT(
                self._batcher,
                self.keys,
                id=task_id,
                agent=agent,
                session=session,
                lease_ms=self.lease_ms,
            )
        word, *rest = cast("list[Any]", reply)
        return attempt_of(rest[0], session) if word == b"adopted" else None

    async def cancel(self, task_id: str) -> None:
        """Cancels a pending or running task; canceling a canceled one is fine.

        Raises:
            NotFound: there is no such task.
            Conflict: it completed or failed before.
            Damaged: its record is broken.
        """
        with border():
            reply = await scripts.CANCEL(self._batcher, self.keys, id=task_id, retention_ms=self.retention_ms)
        word, *rest = cast("list[bytes]", reply)
        if word == b"unknown":
            raise NotFound(f"there is no task {task_id}")
        if word == b"damaged":
            raise Damaged(f"the record of task {task_id} is damaged")
        if word == b"already" and rest[0] != b"canceled":
            raise Conflict(f"the task is {rest[0].decode()}; only a pending or running task can be canceled")

    async def hide(self, ids: Sequence[str]) -> None:
        """Takes tasks out of their owner's history as ComfyUI clients see it; nothing else changes."""
        with border():
            await scripts.HIDE(self._batcher, self.keys, ids=msgspec.msgpack.encode(ids))

    async def retry(self, task: Task, needs: Needs, *, attempts: int, queue_limit: int) -> None:
        """Puts a failed or canceled task back into the queue, with `attempts` more attempts.

        Raises:
            NotFound, Conflict, Damaged, QueueFull.
        """
        with border():
            reply = await scripts.RETRY(
                self._batcher,
                self.keys,
                id=task.id,
                needs=encode(needs),
                attempts=attempts,
                queue_limit=queue_limit,
            )
        word, *rest = cast("list[Any]", reply)
        if word == b"unknown":
            raise NotFound(f"there is no task {task.id}")
        if word == b"damaged":
            raise Damaged(f"the record of task {task.id} is damaged")
        if word == b"already":
            raise Conflict(f"the task is {rest[0].decode()}; only a failed or canceled task can be retried")
        if word == b"full":
            raise QueueFull(f"{rest[0]} tasks wait already; the limit is {queue_limit}.")

    async def policy(self) -> Policy:
        """The policy in force."""
        with border():
            name = await self.redis.get(self.keys.policy)
        return Policy(name.decode()) if name in _POLICIES else Policy.LANE

    async def set_policy(self, policy: Policy) -> None:
        """Switches how agents are given tasks, from the next claim on; what waits already is bound at the next
        sweep."""
        with border():
            await self.redis.set(self.keys.policy, policy.value)

    async def sweep(self) -> Swept:
        """Puts back the tasks whose lease ran out."""
        with border():
            reply = await scripts.SWEEP(
                self._batcher,
                self.keys,
                lease_ms=self.lease_ms,
                avoid_ms=self.avoid_ms,
                retention_ms=self.retention_ms,
                agent_retention_ms=self.agent_retention_ms,
            )
        next_lease, *rest = cast("list[Any]", reply)
        pairs = zip(rest[::2], rest[1::2], strict=True)
        return Swept(
            statuses={task_id.decode(): Status(status.decode()) for task_id, status in pairs},
            next_lease=None if next_lease < 0 else next_lease / 1000,
        )

    async def purge(self, *, input_retention_ms: int, limit: int = 200) -> Purged:
        """Forgets tasks past their retention. The caller deletes the files."""
        with border():
            reply = await scripts.PURGE(
                self._batcher,
                self.keys,
                retention_ms=self.retention_ms,
                input_retention_ms=input_retention_ms,
                limit=limit,
            )
        tasks, inputs, outputs = (tuple(item.decode() for item in part) for part in cast("list[list[bytes]]", reply))
        return Purged(tasks=tasks, inputs=inputs, outputs=outputs)

    async def get(self, task_id: str) -> Task:
        """The task's record with its position, in one round trip.

        Raises:
            NotFound: there is no such task.
            Damaged: its record cannot be read.
        """
        with border():
            pipeline = self.redis.pipeline(transaction=False)
            pipeline.hgetall(self.keys.task(task_id))
            pipeline.zrank(self.keys.queue, task_id)
            fields, rank = await pipeline.execute(raise_on_error=False)
        if isinstance(fields, ResponseError):
            raise Damaged(f"the record of task {task_id} is no hash")
        if not fields:
            raise NotFound(f"there is no task {task_id}")
        return Task.from_hash(fields, position=rank)
