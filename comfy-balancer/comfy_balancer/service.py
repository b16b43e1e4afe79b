"""Tasks as the balancer handles them: submit one or many, wait, cancel, retry, follow. Knows no HTTP.

A submit is checked whole (workflow, parameters, graph, offers, files) before anything is stored or enqueued; then the
files, then one atomic transition. With a valid request that costs one round trip to Redis.
"""

import asyncio
import hashlib
import re
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import msgspec
import structlog
from redis.exceptions import ResponseError
from ulid import ULID

from comfy_balancer.catalog import Catalog, Fleet
from comfy_balancer.drafts import Draft, Surroundings, draft
from comfy_balancer.eligibility import different, hindrances, read_needs
from comfy_balancer.node_policy import NodePolicy
from comfy_balancer.schemas import CheckView, TaskRequest
from comfy_balancer.settings import BalancerSettings
from comfy_balancer.uploads import Inputs, StoredInput, Upload
from comfy_shared.callers import Caller, Role
from comfy_shared.claims import Idempotency, Submitted
from comfy_shared.errors import Conflict, FieldProblem, InvalidTask, NotFound, Unavailable
from comfy_shared.events import EventHub
from comfy_shared.http.problems import invalid
from comfy_shared.models import PRIORITY_NORMAL, Event, InputFile, Needs, NewTask, Prompt, Status, Task, decode
from comfy_shared.needs import lane_of, needs_of
from comfy_shared.queue import Queue
from comfy_shared.store import border
from comfy_shared.workflows import Workflow

log = structlog.get_logger(__name__)

TASK_ID = re.compile(r"[0-9a-z]{26}")
KEY = re.compile(r"[\x21-\x7e]{1,255}")
RETRY_ATTEMPTS = 3  # that a retry by hand adds
HEAVY_TASKS, HEAVY_NODES = 8, 200  # from here a call is checked beside the event loop, so that others are not held up

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, slots=True)
class Accepted:
    """The answer to a submit."""

    tasks: tuple[Task, ...]  # in the order of the call
    replayed: bool  # an earlier call with the same key had been accepted


class TaskService:
    """What clients do with tasks. Every method raises `Unavailable` while Redis is away."""

    def __init__(
        self,
        queue: Queue,
        hub: EventHub,
        catalog: Catalog,
        fleet: Fleet,
        inputs: Inputs,
        settings: BalancerSettings,
    ) -> None:
        self.queue = queue
        self._hub = hub
        self._catalog = catalog
        self._fleet = fleet
        self._inputs = inputs
        self._settings = settings
        self._nodes = {
            Role.ADMIN: NodePolicy(Role.ADMIN, settings.nodes_allowed_admin, settings.nodes_denied_admin),
            Role.USER: NodePolicy(Role.USER, settings.nodes_allowed_user, settings.nodes_denied_user),
        }

    async def submit(
        self,
        request: TaskRequest,
        who: Caller,
        *,
        key: str | None = None,
        uploads: Sequence[Upload] = (),
        hold: bool = False,
    ) -> Accepted:
        """Accepts one task, or raises what is wrong with it (`Refused`).

        With `hold` that no agent can run it is nothing wrong: it waits for one.
        """
        return await self._submit([request], who, key, uploads, batch=False, hold=hold)

    async def submit_batch(
        self, requests: Sequence[TaskRequest], who: Caller, *, key: str | None = None, hold: bool = False
    ) -> Accepted:
        """Accepts all tasks or none; a problem's field begins with `tasks.INDEX`."""
        if len(requests) > self._settings.batch_limit:
            limits = {"maximum": self._settings.batch_limit}
            raise invalid("tasks", f"a batch has at most {self._settings.batch_limit} tasks", limits=limits)
        return await self._submit(requests, who, key, (), batch=True, hold=hold)

    async def check(self, request: TaskRequest, who: Caller) -> CheckView:
        """What a submit would say; stores nothing. Raises what is wrong with the task."""
        (one,) = await self._drafts([request], who, (), batch=False, hold=False)
        await self._find_files([one], (), batch=False)
        able = [member.agent.record.id for member in await self._fleet.now() if not hindrances(member, one.needs)]
        return CheckView(ok=True, agents=able, lane=lane_of(one.needs))

    async def _submit(
        self,
        requests: Sequence[TaskRequest],
        who: Caller,
        key: str | None,
        uploads: Sequence[Upload],
        *,
        batch: bool,
        hold: bool,
    ) -> Accepted:
        _check_priorities(requests, who, batch=batch)
        if key is not None and not KEY.fullmatch(key):
            raise invalid("Idempotency-Key", "must be 1 to 255 visible ASCII characters")
        drafts = await self._drafts(requests, who, uploads, batch=batch, hold=hold)
        files = await self._find_files(drafts, uploads, batch=batch)
        await self._inputs.put(uploads)
        tasks = [self._new_task(one, who.owner, files) for one in drafts]
        idempotency = None
        if key is not None:
            idempotency = Idempotency(owner=who.owner, key=key, fingerprint=_fingerprint(requests, uploads))
        submitted = await self.queue.submit(
            tasks,
            queue_limit=self._settings.queue_limit,
            owner_limit=self._settings.owner_queued_limit,
            idempotency=idempotency,
            idempotency_ms=int(self._settings.idempotency_ttl * 1000),
        )
        if submitted.known:
            found = tuple([await self.queue.get(task_id) for task_id in submitted.ids])
            return Accepted(tasks=found, replayed=idempotency is not None)
        for task in tasks:
            log.info(
                "Task accepted",
                action="task.accepted",
                task_id=task.id,
                owner=who.owner,
                workflow=task.workflow or None,
                lane=task.lane,
            )
        if any(task.reuse for task in tasks):  # it may have joined another, or be completed already
            return Accepted(tasks=tuple([await self.queue.get(task.id) for task in tasks]), replayed=False)
        return Accepted(tasks=_as_tasks(tasks, submitted), replayed=False)

    async def _drafts(
        self, requests: Sequence[TaskRequest], who: Caller, uploads: Sequence[Upload], *, batch: bool, hold: bool
    ) -> list[Draft]:
        around = await self._surroundings(requests, who, hold=hold)
        parts = {upload.field: upload.sha256 for upload in uploads}

        def work() -> list[Draft]:
            drafts: list[Draft] = []
            problems: list[FieldProblem] = []
            for index, request in enumerate(requests):
                try:
                    drafts.append(draft(request, around, parts))
                except InvalidTask as error:
                    problems += _prefixed(error.problems, index) if batch else error.problems
                if len(problems) >= 50:
                    break
            if problems:
                raise InvalidTask(tuple(problems))
            return drafts

        return await _beside(work, heavy=_heavy(requests))

    async def _surroundings(self, requests: Sequence[TaskRequest], who: Caller, *, hold: bool) -> Surroundings:
        workflows: dict[str, Workflow] = {}
        nearest: dict[str, list[str]] = {}
        for name in {request.workflow for request in requests if request.workflow is not None}:
            try:
                workflows[name] = await self._catalog.get(name)
            except NotFound:
                nearest[name] = await self._catalog.nearest(name) if len(nearest) < 8 else []
        members = await self._fleet.members()
        return Surroundings(
            settings=self._settings,
            offers=different(members),
            nodes=self._nodes[who.role],
            workflows=workflows,
            nearest=nearest,
            members=members,
            hold=hold,
        )

    async def _find_files(
        self,
        drafts: Sequence[Draft],
        uploads: Sequence[Upload],
        *,
        batch: bool,
    ) -> Mapping[str, StoredInput]:
        """The files that the drafts name, by hash: of this call, or stored before."""
        files: dict[str, StoredInput | None] = {
            upload.sha256: StoredInput(
                sha256=upload.sha256, size=upload.size, kind=upload.kind, extension=upload.extension
            )
            for upload in uploads
        }
        problems: list[FieldProblem] = []
        for index, one in enumerate(drafts):
            for slot in one.slots:
                if slot.sha256 not in files:
                    files[slot.sha256] = await self._inputs.find(slot.sha256)
                file = files[slot.sha256]
                message = None
                if file is None:
                    message = "there is no stored file with this sha256"
                elif file.kind not in slot.kinds:
                    message = f"must be a {' or '.join(sorted(slot.kinds))} file, not {file.kind.value}"
                if message:
                    found = (FieldProblem(field=slot.field, message=message),)
                    problems += _prefixed(found, index) if batch else found
        if problems:
            raise InvalidTask(tuple(problems))
        return {sha256: file for sha256, file in files.items() if file is not None}

    def _new_task(self, one: Draft, owner: str, files: Mapping[str, StoredInput]) -> NewTask:
        request = one.request
        return NewTask(
            id=str(ULID()).lower(),
            owner=owner,
            prompt=one.prompt,
            needs=one.needs,
            lane=lane_of(one.needs),
            priority=request.priority,
            workflow=one.workflow.name if one.workflow else "",
            workflow_digest=one.workflow.digest if one.workflow else "",
            parameters=one.parameters,
            labels=request.labels,
            inputs=tuple(
                InputFile(
                    node=slot.node,
                    input=slot.input,
                    sha256=slot.sha256,
                    extension=files[slot.sha256].extension,
                    size=files[slot.sha256].size,
                )
                for slot in one.slots
            ),
            timeout=request.timeout or self._settings.default_timeout,
            max_attempts=request.max_attempts,
            reuse=_result_of(one.prompt) if request.reuse else "",
        )

    async def store(self, uploads: Sequence[Upload]) -> None:
        """Keeps files for later tasks."""
        await self._inputs.put(uploads)
        for upload in uploads:
            log.info("Input stored", action="input.stored", sha256=upload.sha256, size=upload.size)

    async def get(self, task_id: str, who: Caller) -> Task:
        """A task that the caller may see. Raises NotFound, Damaged."""
        if TASK_ID.fullmatch(task_id):
            task = await self.queue.get(task_id)
            if who.may_see(task.owner):
                return task
        raise NotFound("there is no such task")

    async def cancel(self, task_id: str, who: Caller) -> Task:
        """Raises NotFound; Conflict when it completed or failed."""
        await self.get(task_id, who)
        await self.queue.cancel(task_id)
        log.info("Task canceled", action="task.canceled", task_id=task_id)
        return await self.queue.get(task_id)

    async def retry(self, task_id: str, who: Caller) -> Task:
        """Puts a failed or canceled task back, with three more attempts. Raises NotFound, Conflict, QueueFull."""
        task = await self.get(task_id, who)
        needs = await self._needs_again(task)
        await self.queue.retry(task, needs, attempts=RETRY_ATTEMPTS, queue_limit=self._settings.queue_limit)
        log.info("Task put back by hand", action="task.retried", task_id=task_id)
        return await self.queue.get(task_id)

    async def _needs_again(self, task: Task) -> Needs:
        """The needs of the task's lane: kept for a day after its last task left, then read from the prompt again.

        Raises:
            Conflict: the prompt does not tell all of them (a required label, a file of a class that is gone).
        """
        try:
            with border():
                kept = read_needs(await self.queue.redis.get(self.queue.keys.needs_prefix + task.lane))
        except ResponseError:  # a key of another kind; the retry puts it right
            kept = None
        if kept is not None:
            return kept
        needs = needs_of(decode(task.prompt, Prompt), await self._fleet.offers())
        if lane_of(needs) != task.lane:
            raise Conflict("what the task needs of an agent is not known any more; submit it again")
        return needs

    async def wait(self, task: Task, seconds: float) -> Task:
        """The task when it is final, or as it is when the time is up."""
        task_id = task.id
        try:
            async with asyncio.timeout(seconds):
                while not task.status.final:
                    async for _ in self._hub.watch(task_id, after=task.events):
                        pass
                    task = await self.queue.get(task_id)
                return task
        except TimeoutError:
            return await self.queue.get(task_id)

    async def follow(self, task_id: str, after: int) -> AsyncIterator[Event]:
        """The task's events after number `after`, to the end of its story, over retries by hand too."""
        while True:
            async for event in self._hub.watch(task_id, after=after):
                after = event.seq
                yield event
            try:
                task = await self.queue.get(task_id)
            except (NotFound, Unavailable):
                return
            if task.status.final and task.events <= after:
                return


def _check_priorities(requests: Sequence[TaskRequest], who: Caller, *, batch: bool) -> None:
    for index, request in enumerate(requests):
        if request.priority > PRIORITY_NORMAL and not who.is_admin:
            field = f"tasks.{index}.priority" if batch else "priority"
            message = f"above {PRIORITY_NORMAL} is for the role admin"
            raise invalid(field, message, limits={"maximum": PRIORITY_NORMAL})


def _heavy(requests: Sequence[TaskRequest]) -> bool:
    return len(requests) >= HEAVY_TASKS or any(
        len(request.prompt or ()) >= HEAVY_NODES or len(request.parameters) >= HEAVY_NODES for request in requests
    )


async def _beside(work: Callable[[], T], *, heavy: bool) -> T:
    return await asyncio.to_thread(work) if heavy else work()


def _prefixed(problems: Sequence[FieldProblem], index: int) -> list[FieldProblem]:
    return [msgspec.structs.replace(problem, field=f"tasks.{index}.{problem.field}") for problem in problems]


def _fingerprint(requests: Sequence[TaskRequest], uploads: Sequence[Upload]) -> str:
    files = sorted((upload.field, upload.sha256) for upload in uploads)
    return hashlib.sha256(msgspec.json.encode([requests, files], order="sorted")).hexdigest()


def _result_of(prompt: bytes) -> str:
    """What the result depends on: the graph, with its input files by their content."""
    return hashlib.sha256(msgspec.json.encode(msgspec.json.decode(prompt), order="sorted")).hexdigest()


def _as_tasks(tasks: Sequence[NewTask], submitted: Submitted) -> tuple[Task, ...]:
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
            parameters=task.parameters,
            labels=task.labels,
            inputs=task.inputs,
            events=1,
            position=position,
        )
        for task, position in zip(tasks, submitted.positions, strict=True)
    )
