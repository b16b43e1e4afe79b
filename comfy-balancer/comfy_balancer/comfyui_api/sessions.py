"""The ComfyUI sockets of this process: which are open, which prompts are theirs, and what each is told.

Everything comes through one queue in order: the events of the tasks (from the process's one tail) and the wish of a
new socket to know what runs. Live frames come beside it, from one subscription per owner. With no socket open here
nothing is read, decoded or asked.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Iterable

import structlog

from comfy_balancer.comfyui_api import shapes
from comfy_balancer.comfyui_api.ids import TASK_ID, prompt_id_of
from comfy_balancer.comfyui_api.sockets import Client
from comfy_balancer.comfyui_api.stories import Story, Told
from comfy_balancer.comfyui_api.tasklists import OwnTasks
from comfy_shared.errors import Damaged, TooLarge, Unavailable
from comfy_shared.events import EventHub, read_event
from comfy_shared.lifecycle import Backoff, Loops, first_of
from comfy_shared.live import LiveFrame, LiveHub
from comfy_shared.models import Event, EventType, Task

log = structlog.get_logger(__name__)

MOST_SOCKETS = 64  # of one owner in one process
MOST_WAITING = 10_000  # events that wait here; beyond, records are read instead
MOST_EARLY = 32  # tasks, and frames of each, that are kept until the task's event is here
LARGEST_EARLY = 64 * 1024  # bytes of such a frame
SETTLED = 1000  # ms after the start of a run from which its record knows the running node
FOREIGN_PAUSE = 0.5  # seconds between two statuses because of other clients' prompts
ENDS = [[event.value.encode()] for event in EventType if event.final]
QUEUE_CHANGES = (EventType.QUEUED, EventType.CLAIMED, EventType.RETRYING, EventType.RELEASED)


Item = tuple[str, bytes] | LiveFrame | Client  # a line of a task's story, a frame, a new socket


class Sessions:
    """Run `tell` as a supervised loop."""

    def __init__(self, hub: EventHub, live: LiveHub, tasks: OwnTasks) -> None:
        self._hub = hub
        self._live = live
        self._tasks = tasks
        self._clients: dict[tuple[str, str], set[Client]] = {}
        self._open: dict[str, int] = {}  # sockets by owner, also those that are not greeted yet
        self._stories: dict[str, Story] = {}
        self._early: dict[str, list[LiveFrame]] = {}  # frames that overtook the event of their task
        self._waiting: list[Item] = []
        self._busy = False  # what waits is being told
        self._news = asyncio.Event()
        self._lost = False  # events were missed: the records say what happened
        self._remaining = 0
        self._told_at = 0.0  # when everybody was told the status
        self._untold = False  # it changed since

    @contextlib.asynccontextmanager
    async def opened(self, client: Client) -> AsyncIterator[None]:
        """A socket, for as long as the block lasts; its first message is the status.

        Raises:
            TooLarge: its owner has too many.
        """
        count = self._open.get(client.owner, 0)
        if count >= MOST_SOCKETS:
            raise TooLarge(f"More than {MOST_SOCKETS} sockets are open.")
        self._open[client.owner] = count + 1
        try:
            async with self._live.watch(client.owner, self._on_frame):
                self._put(client)
                yield
        finally:
            client.gone = True
            self._open[client.owner] -= 1
            if not self._open[client.owner]:
                del self._open[client.owner]
            self._forget(client)

    def _forget(self, client: Client) -> None:
        key = (client.owner, client.client_id)
        clients = self._clients.get(key, set())
        clients.discard(client)
        if not clients and self._clients.pop(key, None) is not None:
            own = [story.task_id for story in self._stories.values() if (story.owner, story.client_id) == key]
            for task_id in own:
                del self._stories[task_id]

    def _put(self, item: Item) -> None:
        if len(self._waiting) >= MOST_WAITING and not isinstance(item, Client):
            self._lost = True
        else:
            self._waiting.append(item)
        self._news.set()

    def _on_line(self, task_id: str, line: bytes) -> None:
        """One line of any task's story; an empty task id: some were missed."""
        if not self._open:
            return
        if not task_id:
            self._lost = True
            self._news.set()
        else:
            self._put((task_id, line))
            if b" queued " in line[:32] and (event := read_event(task_id, line)):
                self._follow_new(event)  # at once: its frames may be here soon

    def _on_frame(self, frame: LiveFrame) -> None:
        """A frame is told at once, unless something that came before it is not told yet."""
        if not self._busy and not self._waiting:
            self._hear(frame)
        elif len(self._waiting) < MOST_WAITING:
            self._put(frame)

    def _hear(self, frame: LiveFrame) -> None:
        story = self._stories.get(frame.task_id)
        if story is not None:
            self._say(story, story.heard(frame, int(time.time() * 1000)))
        elif len(frame.content) <= LARGEST_EARLY:
            early = self._early.setdefault(frame.task_id, [])
            if len(early) < MOST_EARLY:
                early.append(frame)
            if len(self._early) > MOST_EARLY:
                del self._early[next(iter(self._early))]

    def _say(self, story: Story, told: Iterable[Told]) -> None:
        clients = tuple(self._clients.get((story.owner, story.client_id), ()))
        for each in told:
            for client in clients:
                if isinstance(each, LiveFrame):
                    client.put_frame(each, story.prompt_id)
                else:
                    client.put(each)

    async def tell(self, loops: Loops) -> None:
        """Works until the stop."""
        backoff = Backoff(0.1, 2.0)
        with self._hub.listened(self._on_line, in_a_hurry=lambda: bool(self._open)):
            while not loops.stop.is_set():
                await first_of(self._news, loops.stop, timeout=FOREIGN_PAUSE if self._untold else None)
                self._news.clear()
                batch, self._waiting = self._waiting, []
                self._busy = True
                try:
                    await self._work(batch)
                    backoff.reset()
                except Unavailable as error:
                    log.warning("Sockets wait for Redis", action="comfyui.waits", reason=error.message)
                    self._waiting = batch + self._waiting
                    self._news.set()
                    await loops.pause(backoff.next())
                finally:
                    self._busy = False

    async def _work(self, batch: list[Item]) -> None:
        if not self._open:
            return
        ends = len(batch) == 1 and isinstance(batch[0], tuple) and self._is_end(*batch[0])
        news = any(not isinstance(item, LiveFrame) for item in batch)
        if (news and not ends) or self._lost:  # an end reads it with its record
            self._count(await self._tasks.remaining())
        if self._lost:
            await self._catch_up()
            self._lost = False
        while batch:
            item = batch[0]
            if isinstance(item, Client):
                await self._greet(item)
            elif isinstance(item, LiveFrame):
                self._hear(item)
            elif event := read_event(*item):
                await self._on_event(event)
            batch.pop(0)
        if self._untold and time.monotonic() - self._told_at >= FOREIGN_PAUSE:
            self._tell_status()

    def _is_end(self, task_id: str, line: bytes) -> bool:
        """Whether it is the end of a prompt that is followed here."""
        return task_id in self._stories and line.split(b" ", 2)[1:2] in ENDS

    def _count(self, remaining: int) -> None:
        self._untold = self._untold or remaining != self._remaining
        self._remaining = remaining

    def _tell_status(self) -> None:
        self._untold = False
        self._told_at = time.monotonic()
        for clients in self._clients.values():
            for client in clients:
                client.put(shapes.status(self._remaining))

    async def _on_event(self, event: Event) -> None:
        story = self._stories.get(event.task_id)
        if story is None or story.ended:
            return
        if event.type in QUEUE_CHANGES:
            self._tell_status()
        elif event.type is EventType.STARTED:
            self._say(story, story.started(event.attempt, event.at))
        elif event.type.final:
            await self._end(story)

    def _follow_new(self, event: Event) -> None:
        owner, client_id = event.data.get("owner"), event.data.get("client")
        known = isinstance(owner, str) and isinstance(client_id, str) and (owner, client_id) in self._clients
        if known and TASK_ID.fullmatch(event.task_id):
            self._follow(event.task_id, str(owner), str(client_id))
            for frame in self._early.pop(event.task_id, ()):
                self._put(frame)

    def _follow(self, task_id: str, owner: str, client_id: str) -> Story:
        story = Story(task_id=task_id, prompt_id=prompt_id_of(task_id), owner=owner, client_id=client_id)
        return self._stories.setdefault(task_id, story)

    async def _end(self, story: Story) -> None:
        task, remaining = await self._tasks.ending(story.task_id)
        self._count(remaining)
        if task is not None and not task.status.final:  # put back by hand meanwhile
            return
        story.ended = True
        try:
            self._say(story, story.finished(task) if task else ())
        except Damaged as error:
            log.error("Task record is damaged", action="task.damaged", task_id=story.task_id, reason=error.message)
        self._tell_status()
        if story.attempt:  # what was deleted before it ran just vanishes
            self._say(story, [shapes.over(story.prompt_id)])
        self._stories.pop(story.task_id, None)

    async def _greet(self, client: Client) -> None:
        """The first message, and what runs: the client may have been gone for a while."""
        running = await self._learn(client)
        if client.gone:
            return
        client.put(shapes.status(self._remaining, client.client_id))
        self._clients.setdefault((client.owner, client.client_id), set()).add(client)
        now = time.time() * 1000
        for task in running:
            if task.progress and task.progress.node and now - task.started_at > SETTLED:
                client.put(shapes.message("executing", node=task.progress.node))
            elif story := self._stories.get(task.id):
                story.node_is_wanted = True  # its first frame will tell

    async def _learn(self, client: Client) -> list[Task]:
        """Follows what of the client's prompts waits or runs; those that run."""
        running, waiting = await self._tasks.queued(client.owner)
        own = [task for task in running + waiting if _client_of(task) == client.client_id]
        for task in own:
            if task.id not in self._stories and not client.gone:
                story = self._follow(task.id, client.owner, client.client_id)
                if task in running:
                    story.attempt, story.cached = task.attempt, True
        return [task for task in running if task in own]

    async def _catch_up(self) -> None:
        """Events were missed: the records tell which prompts ended, and each socket's are looked for again."""
        for task in await self._tasks.whole(list(self._stories)):
            if task.status.final and task.id in self._stories:
                await self._end(self._stories[task.id])
        for clients in tuple(self._clients.values()):
            for client in tuple(clients)[:1]:
                await self._learn(client)


def _client_of(task: Task) -> str | None:
    try:
        return task.extra.client_id
    except Damaged:
        return None
