"""The agent: owns one instance, claims when its GPU is free, and keeps what it holds alive.

Loops: watch the instance (and its socket), heartbeat, renew leases, listen for wake-ups, claim. Each waits on events.
At the stop it claims no more, waits for what runs (the grace period), gives back the rest and deregisters.
"""

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

import structlog
from redis.asyncio import Redis

from comfy_service.classes import Classes
from comfy_service.ear import Ear
from comfy_service.editor import EditorPublisher
from comfy_service.fitness import Fitness
from comfy_service.heartbeat import Heartbeat
from comfy_service.inputs import InputPlacer
from comfy_service.instance.client import Instance
from comfy_service.instance.protocol import Ended, Frame, LogLines, QueueStatus
from comfy_service.instance.sayings import ask_for_log, tell
from comfy_service.instance.socket import Socket
from comfy_service.lease import LeaseKeeper
from comfy_service.outputs import Collector
from comfy_service.publish import FolderPublisher
from comfy_service.runner import Run, Workplace
from comfy_service.settings import ServiceSettings
from comfy_shared.claims import Attempt, BrokenAttempt, Draining, Nothing, UnknownLanes, Unregistered
from comfy_shared.errors import ComfyError, LeaseLost, RunError, Unavailable
from comfy_shared.files import FileStore
from comfy_shared.lifecycle import Backoff, Loops, first_of
from comfy_shared.live import LiveSender
from comfy_shared.logs import bound
from comfy_shared.models import TaskError
from comfy_shared.needs import Offer, can_run
from comfy_shared.queue import Queue
from comfy_shared.registry import Registry, Vitals, pack_offer
from comfy_shared.versions import Versions

log = structlog.get_logger(__name__)

HANDOVER = 0.1  # seconds that an ended prompt leaves to the next one
SETTLE_SECONDS = 5.0  # what a stop leaves for giving back and settling after the grace period


class Agent:
    """The loop of one agent. Call `run` once."""

    def __init__(
        self,
        settings: ServiceSettings,
        redis: Redis,
        queue: Queue,
        registry: Registry,
        store: FileStore,
    ) -> None:
        self.session = uuid4().hex
        self._settings = settings
        self._ear = Ear(redis, queue.keys.channel(settings.agent))
        self._queue = queue
        self._instance = Instance(settings.comfyui_urls, patience=settings.patience_seconds)
        self._socket = Socket(self._on_frame)
        self._heartbeat = Heartbeat(settings, registry, self.session, self._publish_again)
        self._fitness = Fitness(
            settings,
            self._instance,
            self._heartbeat,
            knows=lambda name: self._offer.knows(name),
            idle=lambda: self._on_gpu() is None,
        )
        self._leases = LeaseKeeper(queue, self.session, lease=settings.lease_seconds, on_lost=self._on_lost)
        self._live = LiveSender(redis, queue.keys)
        self._placer = InputPlacer(self._instance, store)
        self._workplace = Workplace(
            agent=settings.agent,
            queue=queue,
            instance=self._instance,
            socket=self._socket,
            placer=self._placer,
            collector=Collector(self._instance, store, settings),
            silence=settings.silence_seconds,
            suspect=self._suspect_instance,
            judged=self._fitness.judged,
            sent=lambda: self._handed_over.set(),
            next_first=self._next_first,
        )
        self._offer = Offer({})
        self._classes = Classes()
        versions, folder = Versions(redis, queue.keys), Path(settings.workflows_folder)
        self._publisher = FolderPublisher(versions, folder, settings.agent, self._classes)
        self._editor = EditorPublisher(versions, self._instance, settings.agent, self._classes)
        self._runs: dict[str, Run] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._side_tasks: set[asyncio.Task[None]] = set()
        self._ready = asyncio.Event()  # the instance answers, and what an earlier process left is looked after
        self._wake = asyncio.Event()
        self._run_ended = asyncio.Event()
        self._handed_over = asyncio.Event()  # the GPU that became free has its next prompt, or there is none
        self._handed_over.set()
        self._unsure = True  # Redis may count tasks as ours that an earlier process began

    async def run(self, stop: asyncio.Event, on_death: Callable[[str], None]) -> None:
        """Works until `stop`, then shuts down in order."""
        with bound(agent=self._settings.agent):
            async with Loops(on_death) as loops:
                loops.start("heartbeat", lambda: self._heartbeat.run(loops, self._vitals, self._fitness.stats))
                loops.start("fitness", lambda: self._fitness.run(loops))
                loops.start("leases", lambda: self._leases.run(loops))
                loops.start("instance", lambda: self._watch_instance(loops))
                loops.start("control", lambda: self._ear.listen(loops, self._wake.set, self._on_message))
                loops.start("live", lambda: self._live.send(loops))
                loops.start("workflows", lambda: self._publisher.run(loops))
                if self._settings.editor_publish:
                    loops.start("editor", lambda: self._editor.run(loops))
                async with Loops(on_death) as claims:
                    claims.start("claims", lambda: self._claim_loop(claims.stop))
                    await stop.wait()
                log.info("Agent stops", action="agent.stopping", held=len(self._runs))
                self._heartbeat.stopping()
                await self._finish_runs()
                await self._heartbeat.goodbye()
            await self._instance.close()
            log.info("Agent stopped", action="agent.stopped")

    async def _finish_runs(self) -> None:
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=self._settings.grace_seconds)
        for run in self._runs.values():
            run.release("the agent stops")
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=SETTLE_SECONDS)
        for task in self._tasks:  # it waits for an instance that hangs, or for a Redis that is away
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _vitals(self) -> Vitals:
        running = [task_id for task_id, run in self._runs.items() if not run.gpu_free.is_set()]
        storing = [task_id for task_id, run in self._runs.items() if run.gpu_free.is_set()]
        return Vitals(running=tuple(running), storing=tuple(storing))

    # The instance and its socket.

    async def _watch_instance(self, loops: Loops) -> None:
        backoff = Backoff(0.1, 2.0)
        while not loops.stop.is_set():
            try:
                await self._meet_instance()
            except RunError as error:
                self._ready.clear()
                self._heartbeat.instance_absent(error.message)
                await loops.pause(backoff.next())
                continue
            except Unavailable as error:
                log.warning("Recovery waits for Redis", action="agent.recovery_waits", reason=error.message)
                await loops.pause(backoff.next())
                continue
            follow = asyncio.create_task(self._socket.follow(self._instance.url, self._on_open))
            stopped = asyncio.create_task(loops.stop.wait())
            await asyncio.wait({follow, stopped}, return_when=asyncio.FIRST_COMPLETED)
            stopped.cancel()
            if not follow.done():
                await self._socket.close()
            await follow
            self._placer.forget()  # what comes back may have another input folder
            for run in self._runs.values():
                run.look()
            if not self._on_gpu():
                self._socket.new_client_id()
            if self._socket.lived_long:
                backoff.reset()
            await loops.pause(backoff.next())

    async def _meet_instance(self) -> None:
        """Learns what the instance offers and looks after what an earlier process left; then the agent may claim.

        Raises:
            RunError: the instance does not answer, or not as it should.
            Unavailable: Redis does not say what the earlier process left.
        """
        stats = await self._fitness.stats()
        object_info = await self._instance.object_info()
        offer = pack_offer(object_info)
        self._offer = Offer(object_info)
        self._classes.learn(object_info, offer.digest)
        self._heartbeat.instance_ready(stats, offer)
        if not self._ready.is_set():
            log.info("Instance is ready", action="instance.ready", classes=len(object_info))
        await self._recover()
        self._ready.set()

    def _suspect_instance(self) -> None:
        """A run found the instance gone or wrong: no claim until it was met again."""
        self._ready.clear()
        self._keep_task(self._socket.close())

    def _keep_task(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._side_tasks.add(task)
        task.add_done_callback(self._side_tasks.discard)

    def _on_open(self) -> None:
        """The socket is open (again): what happened meanwhile only history tells."""
        if not self._ready.is_set():  # suspected while the socket was opening: meet the instance again
            self._keep_task(self._socket.close())
        for run in self._runs.values():
            run.look()
        self._keep_task(ask_for_log(self._instance, self._socket.client_id))

    def _on_gpu(self) -> Run | None:
        return next((run for run in self._runs.values() if not run.gpu_free.is_set()), None)

    def _on_frame(self, frame: Frame, message: str | bytes) -> None:
        if isinstance(frame, LogLines):
            current = self._on_gpu()
            return tell(frame, current.attempt.id if current else None)
        if isinstance(frame, QueueStatus):
            return  # of everybody's prompts: it says nothing of ours, which may be silent all the same
        prompt_id = getattr(frame, "prompt_id", None)
        for run in self._runs.values():
            if run.prompt_id == prompt_id or (prompt_id is None and not run.gpu_free.is_set()):
                if isinstance(frame, Ended) and not run.gpu_free.is_set():
                    self._handed_over.clear()
                run.feed(frame)
                if self._live.wanted(run.attempt.task.owner) and (live := run.live(frame, message)):
                    self._live.put(run.attempt.task.owner, live)

    async def _next_first(self) -> None:
        """Lets the next prompt reach the free GPU before anything else is done for the one that ended."""
        await first_of(self._handed_over, timeout=HANDOVER)

    # What Redis says that we hold.

    async def _recover(self) -> None:
        """Adopts or gives back the tasks that an earlier process of this agent held, and stops its prompts that are
        nobody's any more.

        Raises:
            RunError: the instance does not answer.
            Unavailable: Redis does not answer.
        """
        if not self._unsure:
            return
        held = set(await self._queue.held(self._settings.agent)) - set(self._runs)
        running, waiting = await self._instance.queue()
        ours = {item[1]: item[3] for item in running + waiting if self._is_ours(item)}
        for task_id in held:
            attempt = await self._queue.adopt(self._settings.agent, self.session, task_id)
            if isinstance(attempt, Attempt):
                await self._resume(attempt, ours.pop(attempt.task.prompt_id, None))
            elif attempt is not None:
                await self._drop_broken(attempt)
        known = {run.prompt_id for run in self._runs.values()}
        for prompt_id in set(ours) - known:
            log.warning("A prompt of a lost task is stopped", action="instance.orphan", prompt_id=prompt_id)
            await self._instance.remove(prompt_id)
        self._unsure = False

    def _is_ours(self, item: list[object]) -> bool:
        extra = item[3] if len(item) > 3 else None
        return isinstance(extra, dict) and extra.get("comfy_agent") == self._settings.agent

    async def _resume(self, attempt: Attempt, extra: object) -> None:
        ended = extra is None and await self._instance.history(attempt.task.prompt_id) is not None
        if extra is None and not ended:
            error = TaskError(
                code="agent_lost", message="The agent restarted and its instance does not know the prompt."
            )
            with suppress(LeaseLost):
                await self._queue.try_again(attempt, error)
            return
        log.info("Prompt adopted", action="task.adopted", task_id=attempt.id, attempt=attempt.number)
        if isinstance(extra, dict) and isinstance(extra.get("client_id"), str):
            self._socket.client_id = extra["client_id"]  # its events go to this id
        self._start(attempt, adopted=True)

    async def _drop_broken(self, attempt: BrokenAttempt) -> None:
        log.error("Task record is damaged", action="task.damaged", task_id=attempt.id, reason=attempt.reason)
        try:
            await self._queue.fail(attempt, TaskError(code="damaged", message=attempt.reason))
        except LeaseLost:
            return

    # Leases and messages.

    def _on_lost(self, task_id: str, told: bool) -> None:
        if run := self._runs.get(task_id):
            run.lose(taken=told)

    def _on_message(self, message: str) -> None:
        """Hints, all of them: whatever is missed while Redis is away is found otherwise."""
        word, *rest = message.split()
        if word == "cancel" and len(rest) == 2:
            run = self._runs.get(rest[0])
            if run is not None and str(run.attempt.number) == rest[1]:
                log.info("Task is canceled", action="task.canceled", task_id=rest[0])
                self._leases.drop(rest[0], run.attempt.number)
                run.lose(taken=False)
        elif word == "free" and len(rest) == 2:
            if self._on_gpu() is None:
                self._keep_task(self._free_memory(unload_models=rest[0] == "1", free_memory=rest[1] == "1"))
        else:  # wake, drain, resume: the next claim tells
            self._wake.set()

    async def _free_memory(self, *, unload_models: bool, free_memory: bool) -> None:
        try:
            await self._instance.release_memory(unload_models=unload_models, free_memory=free_memory)
        except RunError as error:
            log.warning("Memory could not be freed", action="instance.free_failed", reason=error.message)

    # Claiming.

    async def _claim_loop(self, stop: asyncio.Event) -> None:
        verdicts: dict[str, bool] = {}
        prompt_id = str(uuid4())
        backoff = Backoff(0.1, 2.0)
        while await self._free(stop):
            self._wake.clear()  # before the claim: a wake-up during it must not be lost
            try:
                reply = await self._queue.claim(
                    self._settings.agent, self.session, prompt_id=prompt_id, verdicts=verdicts
                )
                backoff.reset()
            except Unavailable as error:
                log.warning("Claiming waits for Redis", action="agent.claim_waits", reason=error.message)
                await first_of(stop, timeout=backoff.next())
                continue  # under the same prompt id: a claim that was granted all the same is answered again
            verdicts, prompt_id = {}, str(uuid4())
            if not isinstance(reply, Attempt | UnknownLanes):
                self._handed_over.set()
            if isinstance(reply, UnknownLanes):
                offer, labels = self._offer, self._settings.labels()
                verdicts = {lane: not needs or can_run(offer, labels, needs) for lane, needs in reply.needs.items()}
            elif isinstance(reply, Attempt):
                self._start(reply)
            elif isinstance(reply, BrokenAttempt):
                await self._drop_broken(reply)
            elif isinstance(reply, Nothing | Draining):
                await first_of(stop, self._wake, timeout=self._settings.recheck_seconds)
            elif isinstance(reply, Unregistered):
                await self._register_again(stop)

    def _publish_again(self) -> None:
        self._publisher.forget()
        self._editor.forget()

    async def _register_again(self, stop: asyncio.Event) -> None:
        try:
            await self._heartbeat.beat(self._vitals())
        except Unavailable:
            await first_of(stop, timeout=1.0)

    async def _free(self, stop: asyncio.Event) -> bool:
        """Waits until the instance can take a prompt; False at the stop."""
        while not stop.is_set():
            current = self._on_gpu()
            if current is not None:
                await first_of(stop, current.gpu_free)
            elif not self._ready.is_set():
                await first_of(stop, self._ready)
            elif not self._fitness.fit.is_set():
                await first_of(stop, self._fitness.fit)
            elif len(self._runs) >= self._settings.storing_limit:
                self._run_ended.clear()
                await first_of(stop, self._run_ended)
            else:
                return True
        return False

    def _start(self, attempt: Attempt, *, adopted: bool = False) -> None:
        run = self._runs[attempt.id] = Run(attempt, self._workplace)
        self._live.begin(attempt.task.owner)
        self._leases.hold(attempt)
        task = asyncio.create_task(self._execute(run, adopted=adopted), name=f"task {attempt.id}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _execute(self, run: Run, *, adopted: bool) -> None:
        with bound(task_id=run.attempt.id, attempt=run.attempt.number):
            log.info("Task claimed", action="task.claimed", workflow=run.attempt.task.workflow or None)
            try:
                await run.execute(adopted=adopted)
            except Exception as error:
                log.exception("A run died of a bug", action="task.bug")
                await self._give_up(run.attempt, type(error).__name__)
            finally:
                self._leases.drop(run.attempt.id, run.attempt.number)
                if self._runs.get(run.attempt.id) is run:  # not a later attempt, claimed while this one still stored
                    del self._runs[run.attempt.id]
                self._run_ended.set()

    async def _give_up(self, attempt: Attempt, bug: str) -> None:
        try:
            await self._queue.fail(attempt, TaskError(code="internal", message=f"The agent failed by a bug ({bug})."))
        except ComfyError as error:
            log.error("The task is left to the sweep", action="task.left", reason=error.message)
