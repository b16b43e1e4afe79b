"""One attempt from claim to settlement: render, submit, follow, collect, settle.

The GPU is free for the next task as soon as the prompt ended; storing the outputs and settling go on beside it.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import structlog

from comfy_service.follower import Follower, Forgotten
from comfy_service.inputs import InputPlacer
from comfy_service.instance.client import BadAnswer, Instance, Place
from comfy_service.instance.history import Measured, judge, measure, shown
from comfy_service.instance.protocol import Ended, Frame, Image, Tracker
from comfy_service.instance.socket import Socket
from comfy_service.live import live_frame
from comfy_service.outputs import Collector, SocketImage
from comfy_service.partner import partner_data
from comfy_shared.claims import Attempt
from comfy_shared.errors import (
    ComfyError,
    Damaged,
    InstanceLost,
    LeaseLost,
    OutOfMemory,
    OutputMissing,
    RunError,
    RunTimeout,
    Unavailable,
)
from comfy_shared.lifecycle import Backoff
from comfy_shared.live import LiveFrame
from comfy_shared.models import EventType, Output, Prompt, Status, TaskError, decode
from comfy_shared.queue import Queue

log = structlog.get_logger(__name__)

SOCKET_OUTPUT = "SaveImageWebsocket"  # its picture exists only as a frame
ASK_SECONDS = 0.5  # longest wait for Redis to say whose prompt it is, before it is stopped in doubt
STOP_SECONDS = 2.0  # longest wait for an instance to take the order to stop a prompt
LARGEST_IN_MEMORY = 512 * 1024 * 1024  # bytes of socket pictures of one attempt


class Workplace(msgspec.Struct, frozen=True, kw_only=True):
    """What every attempt of this agent works with."""

    agent: str
    queue: Queue
    instance: Instance
    socket: Socket
    placer: InputPlacer
    collector: Collector
    silence: float  # seconds without a frame before history is asked
    suspect: Callable[[], None]  # told when the instance seems gone
    judged: Callable[[RunError | None], None]  # told how each attempt ended there: None is success
    sent: Callable[[], None]  # told when a prompt is at the instance
    next_first: Callable[[], Awaitable[None]]  # waits until the next prompt is there, or there is none


class BrokenPrompt(RunError):
    """The stored prompt cannot be read."""

    code = "damaged"


class Done(msgspec.Struct, frozen=True):
    """The prompt succeeded and its outputs are stored."""

    outputs: list[Output]


class Failed(msgspec.Struct, frozen=True):
    """The attempt failed."""

    error: RunError


class Released(msgspec.Struct, frozen=True):
    """The task is given back unrun."""

    reason: str


class Lost(msgspec.Struct, frozen=True):
    """The task is no longer ours."""

    taken: bool  # Redis refuses us: a newer process of this agent may go on with the prompt


Outcome = Done | Failed | Released | Lost


class Run:
    """One attempt. `feed` takes its frames; `gpu_free` is set when the instance can take the next prompt."""

    def __init__(self, attempt: Attempt, place: Workplace) -> None:
        self.attempt = attempt
        self.gpu_free = asyncio.Event()
        self._place = place
        self._prompt: Prompt = {}
        self._extra_data: dict[str, Any] = {}
        self._tracker = Tracker({})
        self._images: list[SocketImage] = []
        self._at_instance = False  # the prompt may wait or run there
        self._follower = Follower(
            place.instance, attempt.task.prompt_id, silence=place.silence, next_first=place.next_first
        )
        self._progressed = asyncio.Event()
        self._work: asyncio.Task[list[Output]] | None = None
        self._given_up: Released | Lost | None = None
        self._measured = Measured(gpu_ms=0, cold=None)
        self._shown = b""

    @property
    def prompt_id(self) -> str:
        return self.attempt.task.prompt_id

    def feed(self, frame: Frame) -> None:
        """Takes in a frame of this prompt. Never waits."""
        self._follower.heard(ended=isinstance(frame, Ended))
        if isinstance(frame, Ended):
            self.gpu_free.set()
        elif isinstance(frame, Image):
            self._keep(frame)
        elif self._tracker.feed(frame):
            self._progressed.set()

    def live(self, frame: Frame, message: str | bytes) -> LiveFrame | None:
        """The frame for who watches; None when it is none for them."""
        node = self._tracker.node or ""
        is_output = self._prompt.get(node, {}).get("class_type") == SOCKET_OUTPUT
        return live_frame(self.attempt.id, self.attempt.number, frame, message, node=node, is_output=is_output)

    def _keep(self, image: Image) -> None:
        node = image.node or self._tracker.node
        if node is None or self._prompt.get(node, {}).get("class_type") != SOCKET_OUTPUT:
            return
        if sum(len(kept.data) for kept in self._images) + len(image.data) <= LARGEST_IN_MEMORY:
            self._images.append(SocketImage(node=node, data=image.data, content_type=image.content_type))

    def look(self) -> None:
        """Has history asked soon: the socket dropped or came back."""
        self._follower.look()

    def lose(self, *, taken: bool) -> None:
        """Stops the prompt, because another may begin it. Once the prompt ended, the settlement finds out instead."""
        if not self.gpu_free.is_set():
            self._give_up(Lost(taken))

    def release(self, reason: str) -> None:
        """Stops the prompt and gives the task back. A run that settles goes on."""
        self._give_up(Released(reason))

    def _give_up(self, how: Released | Lost) -> None:
        if self._work is not None and not self._work.done() and self._given_up is None:
            self._given_up = how
            self._work.cancel()

    async def execute(self, *, adopted: bool = False) -> None:
        """Runs the attempt to its settlement. Raises nothing but bugs and cancellation from outside."""
        try:
            outcome = await self._outcome(adopted=adopted)
            await self._settle(outcome)
        finally:
            task = asyncio.current_task()
            if task is None or not task.cancelling():  # a forced end waits for nothing
                await self._gone()
            self.gpu_free.set()

    async def _outcome(self, *, adopted: bool) -> Outcome:
        self._work = asyncio.create_task(self._produce(adopted=adopted))
        reporter = asyncio.create_task(self._report(EventType.PROGRESS if adopted else EventType.STARTED))
        try:
            outputs = await self._work
            self._place.judged(None)
            return Done(outputs)
        except asyncio.CancelledError:
            if self._given_up is None:
                raise
            if self._given_up != Lost(taken=False) and await self._adopted():
                self._at_instance = False  # it is the other process's now
            await self._stop_prompt()
            return self._given_up
        except RunError as error:
            log.warning("Attempt failed", action="task.attempt_failed", code=error.code, reason=error.message)
            self._place.judged(error)
            if isinstance(error, InstanceLost | BadAnswer | Forgotten):
                self._place.suspect()
            await self._stop_prompt()
            await self._make_room(error)
            return Failed(error)
        finally:
            reporter.cancel()

    async def _produce(self, *, adopted: bool) -> list[Output]:
        """Renders, submits, follows, collects."""
        task = self.attempt.task
        try:
            async with asyncio.timeout(task.timeout or None):
                self._read_prompt()
                if not adopted:
                    await self._submit()
                self._at_instance = True
                entry = await self._follower.follow(look_first=adopted)
        except TimeoutError as error:
            raise RunTimeout(f"The task ran longer than its limit of {task.timeout:g} s.") from error
        self._at_instance = False
        self.gpu_free.set()
        judge(entry)
        self._measured = measure(entry, self._prompt)
        self._shown = shown(entry)
        expected = {node for node, item in self._prompt.items() if item.get("class_type") == SOCKET_OUTPUT}
        if expected - {image.node for image in self._images}:
            raise OutputMissing("A picture that ComfyUI sends over the socket only was missed.")
        return await self._place.collector.collect(
            task.id, task.attempt, entry, self._images, options=task.output_options
        )

    def _read_prompt(self) -> None:
        try:
            self._prompt = decode(self.attempt.task.prompt, Prompt)
            self._extra_data = {**self.attempt.task.extra.data, "comfy_agent": self._place.agent}
        except Damaged as error:
            raise BrokenPrompt from error
        self._tracker = Tracker(self._prompt)

    async def _submit(self) -> None:
        task = self.attempt.task
        prompt = await self._place.placer.place(self._prompt, task.inputs)
        if task.error and task.error.code == OutputMissing.code:
            prompt = break_cache(prompt, task.attempt)
        extra_data = {**self._extra_data, **await partner_data(self._place.queue, task)}
        self._at_instance = True
        await self._place.instance.submit(
            prompt,
            prompt_id=task.prompt_id,
            client_id=self._place.socket.client_id,
            extra_data=extra_data,
        )
        self._place.sent()
        log.info("Prompt sent", action="task.sent", prompt_id=task.prompt_id)
        self._progressed.set()

    async def _report(self, kind: EventType) -> None:
        """Tells the start and the progress, ever less often the longer the run takes: some hundred events at most."""
        started_at = time.monotonic()
        while True:
            await self._progressed.wait()
            self._progressed.clear()
            progress = self._tracker.progress()
            try:
                data = msgspec.to_builtins(progress)
                await self._place.queue.report(self.attempt, kind, data, progress=progress)
                kind = EventType.PROGRESS
            except LeaseLost:
                self.lose(taken=True)
                return
            except Unavailable as error:
                log.warning("Reporting waits for Redis", action="task.report_waits", reason=error.message)
                self._progressed.set()
            await asyncio.sleep(max(0.1, (time.monotonic() - started_at) / 100))

    async def _stop_prompt(self) -> None:
        if self._at_instance:
            try:
                async with asyncio.timeout(STOP_SECONDS):
                    await self._place.instance.remove(self.prompt_id)
            except (RunError, TimeoutError) as error:
                log.warning("Prompt could not be stopped", action="task.stop_failed", reason=str(error))

    async def _adopted(self) -> bool:
        """Whether a newer process of this agent goes on with this very prompt."""
        queue, attempt = self._place.queue, self.attempt
        try:
            async with asyncio.timeout(ASK_SECONDS):
                lost = await queue.renew(attempt.session, {attempt.id: attempt.number})
                task = await queue.get(attempt.id)
        except (ComfyError, TimeoutError):
            return False
        return attempt.id in lost and task.status is Status.RUNNING and task.prompt_id == self.prompt_id

    async def _make_room(self, error: RunError) -> None:
        try:
            if isinstance(error, OutOfMemory):
                await self._place.instance.release_memory(unload_models=True, free_memory=True)
            elif isinstance(error, OutputMissing):
                await self._place.instance.release_memory(unload_models=False, free_memory=True)
        except RunError as second:
            log.warning("Memory could not be freed", action="instance.free_failed", reason=second.message)

    async def _gone(self) -> None:
        """Waits until a stopped prompt has left the GPU: what hangs there must not be given another task."""
        while self._at_instance:
            try:
                if await self._place.instance.whereabouts(self.prompt_id) in (Place.ENDED, Place.NOWHERE):
                    return
            except InstanceLost:
                return
            except RunError as error:
                log.warning("Instance answers wrongly", action="instance.wrong", reason=error.message)
            await asyncio.sleep(0.3)
            await self._stop_prompt()  # once more: it may have been accepted after the order, or the order got lost

    async def _settle(self, outcome: Outcome) -> None:
        """Ends the lease, as often as it takes until Redis answers; then only an accepted result is left stored."""
        backoff = Backoff(0.1, 2.0)
        while True:
            try:
                await self._settle_once(outcome)
                break
            except Unavailable as error:
                log.warning("Settling waits for Redis", action="task.settle_waits", reason=error.message)
                await asyncio.sleep(backoff.next())
            except LeaseLost:
                log.info("Outcome came too late", action="task.stale")
                if not await self._continued():
                    await self._discard(self.attempt.number)
                return
        if isinstance(outcome, Done):  # an agent that died between storing and settling left its files behind
            await self._discard(*range(1, self.attempt.number))
        else:
            await self._discard(self.attempt.number)

    async def _continued(self) -> bool:
        """Whether a newer process of this agent runs, or ran to its end, this very attempt: its files are ours too."""
        try:
            task = await self._place.queue.get(self.attempt.id)
        except ComfyError:
            return True  # in doubt they stay: the purge of the task removes them
        return task.attempt == self.attempt.number and task.status in (Status.RUNNING, Status.COMPLETED)

    async def _discard(self, *attempts: int) -> None:
        for number in attempts:
            await self._place.collector.discard(self.attempt.id, number)

    async def _settle_once(self, outcome: Outcome) -> None:
        queue = self._place.queue
        match outcome:
            case Done(outputs):
                await queue.complete(
                    self.attempt,
                    outputs,
                    progress=self._tracker.finished(),
                    gpu_ms=self._measured.gpu_ms,
                    cold=self._measured.cold,
                    shown=self._shown,
                )
                log.info("Task completed", action="task.completed", outputs=len(outputs))
            case Failed(error) if error.retryable:
                status = await queue.try_again(self.attempt, task_error(error))
                log.info("Task goes back", action="task.retrying", status=status.value, code=error.code)
            case Failed(error):
                await queue.fail(self.attempt, task_error(error))
                log.info("Task failed", action="task.failed", code=error.code)
            case Released(reason):
                await queue.release(self.attempt, reason)
                log.info("Task released", action="task.released", reason=reason)
            case Lost():
                raise LeaseLost


def break_cache(prompt: Prompt, attempt: int) -> Prompt:
    """The prompt with other file names: what a cached run named is gone, so its last nodes must run again."""
    changed = dict(prompt)
    for node, item in prompt.items():
        prefix = item.get("inputs", {}).get("filename_prefix")
        if isinstance(prefix, str):
            changed[node] = {**item, "inputs": {**item["inputs"], "filename_prefix": f"{prefix}-{attempt}"}}
    return changed


def task_error(error: RunError) -> TaskError:
    """An error as the task keeps it."""
    details = dict(error.details)
    return TaskError(
        code=error.code,
        message=error.message,
        node=details.pop("node", None),
        node_class=details.pop("node_class", None),
        details=details,
    )
