"""Tasks as the balancer handles them: submit one or many, wait, cancel, retry, follow. Knows no HTTP.

A submit is checked whole (workflow, parameters, graph, offers, files) before anything is stored or enqueued; then the
files, then one atomic transition. With a valid request that costs one round trip to Redis.
"""

import asyncio
import hashlib
import re
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TypeVar

import msgspec
import structlog
from redis.exceptions import ResponseError

from comfy_balancer.accepted import Accepted, Given, as_tasks
from comfy_balancer.catalog import Catalog, Fleet, Release
from comfy_balancer.decoding import decode_body
from comfy_balancer.drafts import DoorRequest, Draft, Surroundings, draft
from comfy_balancer.eligibility import hindrances, read_needs
from comfy_balancer.node_policy import NodePolicy
from comfy_balancer.recognition import Recognizer, may_wish, read_raw
from comfy_balancer.references import Found, References, references_of, stand_ins, with_files
from comfy_balancer.schemas import CheckView, TaskRequest
from comfy_balancer.settings import BalancerSettings
from comfy_balancer.sweeps import Point, distinct, expand, new_batch, new_ids, weigh
from comfy_balancer.uploads import Upload
from comfy_shared.batches import NewBatch
from comfy_shared.callers import Caller, Role
from comfy_shared.claims import Idempotency, Submitted
from comfy_shared.errors import Conflict, FieldProblem, InvalidTask, NotFound, Unavailable
from comfy_shared.events import EventHub
from comfy_shared.http.problems import invalid
from comfy_shared.ids import new_id
from comfy_shared.models import PRIORITY_NORMAL, Event, InputFile, Needs, NewTask, Prompt, Task, decode
from comfy_shared.needs import lane_of, needs_of
from comfy_shared.output_options import OutputOptions
from comfy_shared.queue import Queue
from comfy_shared.store import border

log = structlog.get_logger(__name__)

TASK_ID = re.compile(r"[0-9a-z]{26}")
KEY = re.compile(r"[\x21-\x7e]{1,255}")
RETRY_ATTEMPTS = 3  # that a retry by hand adds
HEAVY_TASKS, HEAVY_NODES = 8, 200  # from here a call is checked beside the event loop, so that others are not held up

NOTHING_GIVEN = Given()

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, slots=True)
class Ready:
    """Tasks that can be accepted."""

    drafts: Sequence[Draft]
    uploads: Sequence[Upload]  # not stored yet
    files: Found


class TaskService:
    """What clients do with tasks. Every method raises `Unavailable` while Redis is away."""

    def __init__(
        self,
        queue: Queue,
        hub: EventHub,
        catalog: Catalog,
        fleet: Fleet,
        references: References,
        settings: BalancerSettings,
    ) -> None:
        self.queue = queue
        self._hub = hub
        self._catalog = catalog
        self._fleet = fleet
        self._references = references
        self._inputs = references.inputs
        self._settings = settings
        self._nodes = {
            Role.ADMIN: NodePolicy(Role.ADMIN, settings.nodes_allowed_admin, settings.nodes_denied_admin),
            Role.USER: NodePolicy(Role.USER, settings.nodes_allowed_user, settings.nodes_denied_user),
        }
        self._recognizers = {role: Recognizer() for role in self._nodes}

    async def submit(
        self,
        request: TaskRequest,
        who: Caller,
        *,
        key: str | None = None,
        uploads: Sequence[Upload] = (),
        hold: bool = False,
        given: Given | None = None,
    ) -> Accepted:
        """Accepts one task, or, when parameters are lists, a batch; or raises what is wrong with it (`Refused`).

        With `hold` that no agent can run it is nothing wrong: it waits for one. With `given` an id that is taken
        already, by whomever, is answered with the task that has it.
        """
        return await self._submit([request], who, key, uploads, batch=False, hold=hold, given=given)

    async def submit_body(self, body: bytes, who: Caller) -> Accepted:
        """`submit` of a request as JSON. A graph that is like one before is not checked whole again."""
        offers = await self._fleet.offers()
        recognizer = self._recognizers[who.role]
        raw = None
        known = recognizer.at_once(body, offers)
        if known is None and (raw := read_raw(body)):
            known = recognizer.recognise(body, raw, offers)
        if known and may_wish(known.request, who, self._settings):
            return await self._enqueue([self._new_task(known.draft(), who.owner, {}, new_id(), NOTHING_GIVEN)])
        request = decode_body(body, TaskRequest, values_limit=self._settings.values_limit)
        accepted = await self.submit(request, who)
        if raw and offers is await self._fleet.offers():
            nodes = raw.prompt or {}
            await _beside(lambda: recognizer.remember(nodes, offers), heavy=_heavy([request]))
        return accepted

    async def submit_batch(
        self, requests: Sequence[TaskRequest], who: Caller, *, key: str | None = None, hold: bool = False
    ) -> Accepted:
        """Accepts all tasks as one batch, or none; a problem's field begins with `tasks.INDEX`."""
        return await self._submit(requests, who, key, (), batch=True, hold=hold)

    async def check(self, request: TaskRequest, who: Caller) -> CheckView:
        """What a submit would say; stores nothing. Raises what is wrong with the task."""
        points = expand([request], limit=self._settings.batch_limit, batch=False).points
        async with self._prepared(points, who, (), hold=False) as ready:
            needs = ready.drafts[0].needs
        able = [member.agent.record.id for member in await self._fleet.now() if not hindrances(member, needs)]
        return CheckView(ok=True, agents=able, lane=lane_of(needs))

    async def _submit(
        self,
        requests: Sequence[TaskRequest],
        who: Caller,
        key: str | None,
        uploads: Sequence[Upload],
        *,
        batch: bool,
        hold: bool,
        given: Given | None = None,
    ) -> Accepted:
        _check_priorities(requests, who, batch=batch)
        if key is not None and not KEY.fullmatch(key):
            raise invalid("Idempotency-Key", "must be 1 to 255 visible ASCII characters")
        expanded = expand(requests, limit=self._settings.batch_limit, batch=batch)
        async with self._prepared(expanded.points, who, uploads, hold=hold) as ready:
            await self._inputs.put(ready.uploads)
            tasks = self._new_tasks(ready, who.owner, given or NOTHING_GIVEN)
        together = new_batch(expanded, tasks) if batch or expanded.axes else None
        idempotency = None
        if key is not None:
            idempotency = Idempotency(owner=who.owner, key=key, fingerprint=_fingerprint(requests, uploads))
        return await self._enqueue(
            tasks, together, idempotency, repeatable=idempotency is not None or given is not None
        )

    async def _enqueue(
        self,
        tasks: Sequence[NewTask],
        together: NewBatch | None = None,
        idempotency: Idempotency | None = None,
        *,
        repeatable: bool = False,
    ) -> Accepted:
        submitted = await self.queue.submit(
            tasks,
            batch=together,
            queue_limit=self._settings.queue_limit,
            owner_limit=self._settings.owner_queued_limit,
            idempotency=idempotency,
            idempotency_ms=int(self._settings.idempotency_ttl * 1000),
        )
        if submitted.known:
            found = tuple([await self.queue.get(task_id) for task_id in submitted.ids])
            return Accepted(tasks=found, replayed=repeatable, batch=found[0].batch)
        return await self._fresh(tasks, submitted, together)

    async def _fresh(self, tasks: Sequence[NewTask], submitted: Submitted, together: NewBatch | None) -> Accepted:
        """The answer to a submit that was accepted just now."""
        batch_id = together.id if together else ""
        for task in tasks:
            log.info(
                "Task accepted",
                action="task.accepted",
                task_id=task.id,
                owner=task.owner,
                workflow=task.workflow or None,
                lane=task.lane,
                batch=batch_id or None,
            )
        if any(task.reuse for task in tasks):  # it may have joined another, or be completed already
            told = tuple([await self.queue.get(task.id) for task in tasks])
        else:
            told = as_tasks(tasks, submitted, batch_id)
        fresh = together.accepted(told) if together else None
        return Accepted(tasks=told, replayed=False, batch=batch_id, fresh=fresh)

    @asynccontextmanager
    async def _prepared(
        self, points: Sequence[Point], who: Caller, uploads: Sequence[Upload], *, hold: bool
    ) -> AsyncIterator[Ready]:
        """The checked drafts, with the files that they name; what references brought is gone after the block."""
        around = await self._surroundings([point.request for point in points], who, hold=hold)
        parts = {upload.field: upload.sha256 for upload in uploads}
        wanted = {
            reference: point.field_of(place) for point in points for place, reference in references_of(point, around)
        }
        if wanted:
            hollow = [with_files(point, around, stand_ins(wanted)) for point in points]
            weigh(hollow, limit=self._settings.json_limit)
            await self._drafts(hollow, around, parts)
        async with self._references.brought(wanted, who) as brought:
            whole = [with_files(point, around, brought.sha256s) for point in points] if wanted else points
            weigh(whole, limit=self._settings.json_limit)
            drafts = await self._drafts(whole, around, parts)
            every = (*uploads, *brought.uploads)
            yield Ready(drafts=drafts, uploads=every, files=await self._references.files(drafts, points, every))

    async def _drafts(self, points: Sequence[Point], around: Surroundings, parts: Mapping[str, str]) -> list[Draft]:
        def work() -> list[Draft]:
            drafts: list[Draft] = []
            problems: list[FieldProblem] = []
            for point in points:
                try:
                    drafts.append(draft(point.request, around, parts, point.draw_seed, point.chance))
                except InvalidTask as error:
                    problems += point.told(error.problems)
                if len(problems) >= 50:
                    break
            if problems:
                raise InvalidTask(distinct(problems))
            return drafts

        return await _beside(work, heavy=_heavy([point.request for point in points]))

    async def _surroundings(self, requests: Sequence[TaskRequest], who: Caller, *, hold: bool) -> Surroundings:
        releases: dict[str, Release] = {}
        nearest: dict[str, list[str]] = {}
        for name in {request.workflow for request in requests if request.workflow is not None}:
            try:
                releases[name] = await self._catalog.release(name)
            except NotFound:
                nearest[name] = await self._catalog.nearest(name) if len(nearest) < 8 else []
        members = await self._fleet.members()
        return Surroundings(
            settings=self._settings,
            offers=await self._fleet.offers(),
            nodes=self._nodes[who.role],
            workflows={name: release.workflow for name, release in releases.items()},
            releases=releases,
            nearest=nearest,
            members=members,
            hold=hold,
        )

    def _new_tasks(self, ready: Ready, owner: str, given: Given) -> list[NewTask]:
        ids = [given.task_id] if given.task_id else new_ids(len(ready.drafts))
        return [self._new_task(one, owner, ready.files, id_, given) for one, id_ in zip(ready.drafts, ids, strict=True)]

    def _new_task(self, one: Draft, owner: str, files: Found, task_id: str, given: Given) -> NewTask:
        request = one.request
        return NewTask(
            id=task_id,
            owner=owner,
            prompt=one.prompt,
            needs=one.needs,
            lane=lane_of(one.needs),
            priority=request.priority,
            workflow=one.workflow.name if one.workflow else "",
            workflow_digest=one.workflow.digest if one.workflow else "",
            workflow_version=one.version,
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
            reuse=_result_of(one.prompt, request.output) if request.reuse else "",
            output_options=request.output,
            extra=given.extra,
            front=given.front,
            notes=request.notes if isinstance(request, DoorRequest) else {},
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


def _fingerprint(requests: Sequence[TaskRequest], uploads: Sequence[Upload]) -> str:
    files = sorted((upload.field, upload.sha256) for upload in uploads)
    return hashlib.sha256(msgspec.json.encode([requests, files], order="sorted")).hexdigest()


def _result_of(prompt: bytes, options: OutputOptions | None) -> str:
    """What the result depends on: the graph, with its input files by their content, and what is made of outputs."""
    whole = [msgspec.json.decode(prompt), options] if options else msgspec.json.decode(prompt)
    return hashlib.sha256(msgspec.json.encode(whole, order="sorted")).hexdigest()
