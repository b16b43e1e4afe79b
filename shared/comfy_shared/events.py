"""The events of tasks: one tail per process, fanned out to its own watchers.

Every event stands in two places: the task's story (a list, numbered from 1 without gaps) and the stream of all. The
hub reads the latter once per process; a watcher first reads the story from where it left off, then takes live events
from the hub. A watcher that falls behind, and everybody after Redis was away, reads the story again: nothing is
missed, nothing comes twice, and memory per watcher is bounded.
"""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import msgspec
import structlog
from redis.asyncio import Redis

from comfy_shared.errors import Unavailable
from comfy_shared.keys import Keys
from comfy_shared.lifecycle import Backoff
from comfy_shared.models import Event, EventType
from comfy_shared.store import border

log = structlog.get_logger(__name__)

BEHIND = 256  # live events that a watcher may leave unread before it reads the story again
PAGE = 500  # events of a story read at once
ENTRIES = 100  # of the stream read at once; each has up to 17 lines
GATHER, GATHER_UNWATCHED = 0.002, 0.05  # seconds between two readings of the stream


class Watcher:
    """One reader of one task's events."""

    def __init__(self) -> None:
        self._live: asyncio.Queue[Event] = asyncio.Queue(BEHIND)
        self.behind = True  # must read the story
        self._news = asyncio.Event()
        self._news.set()

    def put(self, event: Event) -> None:
        try:
            self._live.put_nowait(event)
        except asyncio.QueueFull:
            self.fall_behind()
        self._news.set()

    def fall_behind(self) -> None:
        """What came live is dropped; the story has it."""
        while not self._live.empty():
            self._live.get_nowait()
        self.behind = True
        self._news.set()

    async def take(self) -> Event | None:
        """The next live event; None when the story has to be read instead."""
        while True:
            if self.behind:
                self.behind = False
                return None
            if not self._live.empty():
                return self._live.get_nowait()
            self._news.clear()
            await self._news.wait()


class EventHub:
    """Tails the stream of all events for this process. Run `tail` as a supervised loop."""

    def __init__(self, redis: Redis, keys: Keys, *, on_news: Callable[[str], None] = lambda _kind: None) -> None:
        self._redis = redis
        self._tailing = Redis(connection_pool=redis.connection_pool)
        self._tailing.set_response_callback("XREAD", _as_it_comes)
        self._keys = keys
        self._on_news = on_news  # told "agents" or "workflow" when those changed, and both after Redis was away
        self._watchers: dict[str, set[Watcher]] = defaultdict(set)
        self._batches: dict[str, set[asyncio.Event]] = defaultdict(set)
        self._listeners: dict[Callable[[str, bytes], None], Callable[[], bool]] = {}  # listener → is it in a hurry?

    async def tail(self, stop: asyncio.Event) -> None:
        """Reads until `stop`. While Redis is away it waits and tries again; then everybody reads the story again."""
        backoff = Backoff(0.1, 2.0)
        while not stop.is_set():
            try:
                with border():
                    last = await self._redis.xrevrange(self._keys.events, count=1)
                position = cast("bytes", last[0][0]) if last else b"0-0"
                self._resynchronize()
                while not stop.is_set():
                    position = await self._read(position)
                    backoff.reset()
                    # Each reading costs more than what it reads: what comes meanwhile is read together.
                    await asyncio.sleep(GATHER if self._hurried() else GATHER_UNWATCHED)
            except Unavailable as error:
                log.warning("Events are not readable now", action="events.away", reason=error.message)
                await asyncio.sleep(backoff.next())

    def _hurried(self) -> bool:
        return bool(self._watchers or self._batches) or any(in_a_hurry() for in_a_hurry in self._listeners.values())

    async def _read(self, position: bytes) -> bytes:
        with border():
            # Shorter than the client's own time limit for a command.
            reply = await self._tailing.xread({self._keys.events: position}, count=ENTRIES, block=1000)
        for entry_id, pairs in _entries(reply):
            position = entry_id
            self._hear(pairs)
        return position

    def _hear(self, pairs: Iterable[tuple[bytes, bytes]]) -> None:
        """One entry: news of a kind, or lines of stories, each behind the task that it is of and the task's batch."""
        task_id = ""
        for name, value in pairs:
            if name == b"type" and (kind := value.decode(errors="replace")) in ("agents", "workflow"):
                self._on_news(kind)
            elif name == b"task":
                task_id = value.decode(errors="replace")
            elif name == b"batch":
                self._tell_batch(value.decode(errors="replace"))
            elif name == b"line":
                self._tell(task_id, value)

    def _tell(self, task_id: str, line: bytes) -> None:
        for listener in tuple(self._listeners):
            listener(task_id, line)
        if task_id in self._watchers and (event := read_event(task_id, line)):
            for watcher in self._watchers[task_id]:
                watcher.put(event)

    def _tell_batch(self, batch_id: str) -> None:
        for news in self._batches.get(batch_id, ()):
            news.set()

    def _resynchronize(self) -> None:
        for batch_id in self._batches:
            self._tell_batch(batch_id)
        for watchers in self._watchers.values():
            for watcher in watchers:
                watcher.fall_behind()
        for listener in tuple(self._listeners):
            listener("", b"")
        self._on_news("agents")
        self._on_news("workflow")

    @contextmanager
    def batch_news(self, batch_id: str) -> Iterator[asyncio.Event]:
        """Set whenever a task of the batch told something, for as long as the block lasts."""
        news = asyncio.Event()
        self._batches[batch_id].add(news)
        try:
            yield news
        finally:
            self._batches[batch_id].discard(news)
            if not self._batches[batch_id]:
                del self._batches[batch_id]

    @contextmanager
    def listened(self, listener: Callable[[str, bytes], None], in_a_hurry: Callable[[], bool]) -> Iterator[None]:
        """Has every line of every task's story told to `listener`, with the task's id; it must not wait nor raise.

        An empty id says that some may have been missed. While it is not `in_a_hurry`, lines may come 50 ms late.
        """
        self._listeners[listener] = in_a_hurry
        try:
            yield
        finally:
            del self._listeners[listener]

    @contextmanager
    def subscribed(self, task_id: str) -> Iterator[Watcher]:
        """A watcher of one task, for as long as the block lasts."""
        watcher = Watcher()
        self._watchers[task_id].add(watcher)
        try:
            yield watcher
        finally:
            self._watchers[task_id].discard(watcher)
            if not self._watchers[task_id]:
                del self._watchers[task_id]

    async def watch(self, task_id: str, *, after: int = 0) -> AsyncIterator[Event]:
        """The task's events after number `after`, those of the past first; ends after the final one.

        While Redis is away the iteration waits. A task that is retried by hand later begins a new watch.
        """
        with self.subscribed(task_id) as watcher:
            backoff = Backoff(0.1, 2.0)
            while True:
                event = await watcher.take()
                if event is not None:
                    if event.seq > after + 1 or (event.type.final and event.seq <= after):
                        watcher.fall_behind()  # an end that was passed: a promoted replica told less of the story
                    elif event.seq == after + 1:
                        after = event.seq
                        yield event
                        if event.type.final:
                            return
                    continue
                try:
                    past, read = await self._page(task_id, after)
                    ended = read is None and await self._ended(task_id, after)
                except Unavailable:
                    await asyncio.sleep(backoff.next())
                    watcher.fall_behind()
                    continue
                backoff.reset()
                for event in past:
                    yield event
                if ended or (past and past[-1].type.final and past[-1].seq == read and len(past) < PAGE):
                    return
                if read is not None:  # also past entries that are damaged, and until nothing is left
                    after = read
                    watcher.fall_behind()

    async def story(self, task_id: str, *, after: int = 0) -> list[Event]:
        """Events of the past after number `after`, at most `PAGE`."""
        found, _ = await self._page(task_id, after)
        return found

    async def _page(self, task_id: str, after: int) -> tuple[list[Event], int | None]:
        """Events of the past after number `after`, and the number up to which was read; None when there are none."""
        lost, lines = await self._lines(task_id, after)
        if lost:  # a long story has lost its beginning: what is left has moved to the front
            start = max(0, after - lost)
            _, lines = await self._lines(task_id, start)
            after = lost + start
        events = [read_event(task_id, line) for line in lines]
        return [event for event in events if event], after + len(lines) if lines else None

    async def _lines(self, task_id: str, start: int) -> tuple[int, list[bytes]]:
        """How many events the story has lost at its beginning, and a page of what is left, from an index on."""
        story = self._keys.story(task_id)
        with border():
            pipeline = self._redis.pipeline(transaction=False)
            pipeline.lindex(story, 0)
            pipeline.lrange(story, start, start + PAGE - 1)
            first, lines = await pipeline.execute()
        return max(0, _number(first or b"") - 1), lines

    async def _ended(self, task_id: str, after: int) -> bool:
        """Whether the story is over and told, or gone."""
        with border():
            last = await self._redis.lindex(self._keys.story(task_id), -1)
        if not last:
            return True
        event = read_event(task_id, cast("bytes", last))
        return event is not None and event.type.final and event.seq <= after


def _as_it_comes(response: Any, **_: Any) -> Any:
    """The client's own shape of it costs more than all that is done with it."""
    return response


def _entries(reply: Any) -> list[tuple[bytes, Iterable[tuple[bytes, bytes]]]]:
    if not reply:
        return []
    streams = reply.values() if isinstance(reply, dict) else [entries for _, entries in reply]
    return [(entry_id, zip(flat[::2], flat[1::2], strict=True)) for entries in streams for entry_id, flat in entries]


def _number(line: bytes) -> int:
    """The number that a line begins with; 0 when it is damaged."""
    word = line.partition(b" ")[0]
    return int(word) if word.isdigit() and len(word) < 16 else 0


def read_event(task_id: str, line: bytes) -> Event | None:
    """What one line of a story says; None, and logged, when it is damaged."""
    try:
        number, kind, at, attempt, data = line.split(b" ", 4)
        return Event(
            seq=int(number),
            task_id=task_id,
            type=EventType(kind.decode()),
            at=int(at),
            attempt=int(attempt),
            data=msgspec.json.decode(data, type=dict[str, Any]),
        )
    except (ValueError, RecursionError, msgspec.MsgspecError) as error:
        log.error("Event is damaged", action="events.damaged", task_id=task_id, reason=type(error).__name__)
        return None
