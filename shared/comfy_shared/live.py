"""Live frames: what an instance says while a prompt runs, for those who watch at that moment. Nothing is stored.

An agent publishes the frames of its attempts on the channel of the task's owner (Redis pub/sub); each balancer process
subscribes once per owner that somebody watches there, on one connection, and hands on to its own watchers. Frames are
decoration: they may be lost or come late, and how a task ended is told by its events alone (`events`).

Sending is fire-and-forget beside the run. An attempt whose first frames reach nobody is silent for a moment, so that
previews cost nothing while nobody watches.

    async with hub.watch(owner, on_frame):                     # every frame of the owner's tasks, called at once
    async for frame in hub.frames(owner, task_id):             # of one task; a slow reader loses the oldest
"""

import asyncio
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import structlog
from redis.asyncio import Redis
from redis.asyncio.client import PubSub

from comfy_shared.batching import batcher_of
from comfy_shared.errors import Unavailable
from comfy_shared.keys import Keys
from comfy_shared.lifecycle import Backoff, Loops, first_of
from comfy_shared.store import border

log = structlog.get_logger(__name__)

PREVIEW, PICTURE, TEXT = "preview", "picture", "text"  # kinds whose content is bytes
LARGEST_FRAME = 8 * 1024 * 1024  # bytes of content; a larger one is not passed on
LARGEST_BACKLOG = 16 * 1024 * 1024  # bytes that wait to be published
MOST_WAITING = 1024  # frames that wait to be published, or that a reader left unread
BATCH = 64  # frames of one message
SILENCE = 0.25  # seconds without publishing after a message that nobody received
EAR = 0.2  # seconds that the listener waits before it looks for the stop
PATIENCE = 1.0  # seconds in which a subscription is confirmed, or goes on without


class LiveFrame(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """One frame of one attempt."""

    task_id: str
    attempt: int
    # ComfyUI's own word (execution_start, execution_cached, executing, progress, progress_state, executed), or
    # preview: a picture of a step; picture: an output that exists only as a frame; text: what a node shows
    kind: str
    node: str = ""  # id of the node, when the frame has one
    data: dict[str, Any] = {}  # as ComfyUI sent it; prompt ids in it are the instance's own
    content: bytes = b""  # of a picture or text


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(list[LiveFrame])


class LiveSender:
    """An agent's side. `put` never waits; run `send` as a supervised loop."""

    def __init__(self, redis: Redis, keys: Keys) -> None:
        self._batcher = batcher_of(redis)
        self._keys = keys
        self._waiting: deque[tuple[str, LiveFrame]] = deque()
        self._bytes = 0
        self._news = asyncio.Event()
        self._silent_until: dict[str, float] = {}

    def begin(self, owner: str) -> None:
        """An attempt for this owner begins: its first frames are published whoever listened before."""
        self._silent_until.pop(owner, None)

    def wanted(self, owner: str) -> bool:
        """Whether somebody may be watching: asked before a frame is made."""
        return self._silent_until.get(owner, 0.0) <= time.monotonic()

    def put(self, owner: str, frame: LiveFrame) -> None:
        """Has a frame published soon; one that is too large, or comes while too much waits, is dropped."""
        size = len(frame.content)
        if size > LARGEST_FRAME or self._bytes + size > LARGEST_BACKLOG or len(self._waiting) >= MOST_WAITING:
            return
        self._waiting.append((owner, frame))
        self._bytes += size
        self._news.set()

    async def send(self, loops: Loops) -> None:
        """Publishes until the stop."""
        while not loops.stop.is_set():
            await first_of(self._news, loops.stop)
            self._news.clear()
            while self._waiting:
                owner, frames = self._batch()
                try:
                    with border():
                        heard = await self._batcher.call("PUBLISH", self._keys.live(owner), _encoder.encode(frames))
                except Unavailable:
                    self._waiting.clear()
                    self._bytes = heard = 0
                if not heard:
                    self._silence(owner)

    def _batch(self) -> tuple[str, list[LiveFrame]]:
        owner = self._waiting[0][0]
        frames: list[LiveFrame] = []
        size = 0
        while self._waiting and self._waiting[0][0] == owner and len(frames) < BATCH and size < LARGEST_FRAME:
            frame = self._waiting.popleft()[1]
            size += len(frame.content)
            frames.append(frame)
        self._bytes -= size
        return owner, frames

    def _silence(self, owner: str) -> None:
        now = time.monotonic()
        self._silent_until = {name: until for name, until in self._silent_until.items() if until > now}
        self._silent_until[owner] = now + SILENCE


class LiveHub:
    """A balancer's side: one connection to Redis, whatever is watched. Run `listen` as a supervised loop."""

    def __init__(self, redis: Redis, keys: Keys) -> None:
        self._redis = redis
        self._keys = keys
        self._watchers: dict[str, Counter[Callable[[LiveFrame], None]]] = {}
        self._confirmed: dict[str, asyncio.Event] = {}
        self._pubsub: PubSub | None = None

    async def listen(self, loops: Loops) -> None:
        """Reads until the stop; while Redis is away nobody gets frames."""
        backoff = Backoff(0.1, 2.0)
        while not loops.stop.is_set():
            try:
                with border():
                    async with self._redis.pubsub() as pubsub:
                        # The channel of nobody: a connection without any subscription cannot be read.
                        await pubsub.subscribe(self._keys.live(""))
                        self._pubsub = pubsub  # from here on who begins to watch subscribes
                        if self._watchers:
                            await pubsub.subscribe(*map(self._keys.live, self._watchers))
                        backoff.reset()
                        while not loops.stop.is_set():
                            message = await pubsub.get_message(timeout=EAR)
                            if message is not None:
                                self._take(message)
            except Unavailable as error:
                log.warning("Live frames are not readable now", action="live.away", reason=error.message)
                await loops.pause(backoff.next())
            finally:
                self._pubsub = None

    def _take(self, message: dict[str, Any]) -> None:
        owner = bytes(message["channel"]).decode(errors="replace").removeprefix(self._keys.live(""))
        if message["type"] == "subscribe" and owner in self._confirmed:
            self._confirmed[owner].set()
        elif message["type"] == "message" and owner in self._watchers:
            try:
                frames = _decoder.decode(message["data"])
            except (msgspec.MsgspecError, RecursionError) as error:
                log.error("Live frames are damaged", action="live.damaged", reason=type(error).__name__)
                return
            for frame in frames:
                for on_frame in tuple(self._watchers.get(owner, ())):
                    on_frame(frame)

    @asynccontextmanager
    async def watch(self, owner: str, on_frame: Callable[[LiveFrame], None]) -> AsyncIterator[None]:
        """Calls `on_frame` for every frame of the owner's tasks while the block lasts; it must not wait nor raise.

        The same function in several blocks is called once for each frame, until the last of them ends.
        """
        watchers = self._watchers.setdefault(owner, Counter())
        watchers[on_frame] += 1
        try:
            if watchers.total() == 1:
                self._confirmed[owner] = asyncio.Event()
                await self._tell("subscribe", owner)
            await first_of(self._confirmed[owner], timeout=PATIENCE)
            yield
        finally:
            watchers[on_frame] -= 1
            if not watchers[on_frame]:
                del watchers[on_frame]
            if not watchers:
                del self._watchers[owner], self._confirmed[owner]
                await self._tell("unsubscribe", owner)

    async def _tell(self, word: str, owner: str) -> None:
        """Changes the subscription of the open connection; one that opens later has the right ones from the start."""
        if self._pubsub is None:
            return
        try:
            with border():
                await getattr(self._pubsub, word)(self._keys.live(owner))
        except (Unavailable, RuntimeError):  # the listener finds out itself, and begins anew
            return

    async def frames(self, owner: str, task_id: str) -> AsyncIterator[LiveFrame]:
        """The frames of one task from now on, without an end: the reader stops when the task's events end."""
        unread: deque[LiveFrame] = deque(maxlen=MOST_WAITING)
        news = asyncio.Event()

        def keep(frame: LiveFrame) -> None:
            if frame.task_id == task_id:
                unread.append(frame)
                news.set()

        async with self.watch(owner, keep):
            while True:
                await news.wait()
                news.clear()
                while unread:
                    yield unread.popleft()
