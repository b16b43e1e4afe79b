"""The queue alone: what a transition costs beside the bare Redis round trip of the same client, how that grows with the
tasks that wait and the agents that idle, what a waiting task takes of Redis' memory, and how many tasks a second go
through it beside two other queues, and beside the least that such a queue could be (`minimal`).

The append-only file is on: with fsync always, as we deploy it, and for the comparison with Redis' default, too.
Transitions are timed one call at a time: what one costs, not what batches hide. The prompt is a graph of 2 KiB. All
but dramatiq, which has threads, runs on uvloop, as our balancer and agents do.
"""

import asyncio
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import uvloop
from redis.asyncio import Redis

from comfy_service.ear import Ear
from comfy_shared.claims import Attempt, ClaimReply, UnknownLanes
from comfy_shared.keys import Keys
from comfy_shared.lifecycle import Loops
from comfy_shared.models import Needs, NewTask
from comfy_shared.needs import lane_of
from comfy_shared.queue import Queue
from comfy_shared.registry import AgentRecord, Registry, Vitals
from comfy_shared.settings import SharedSettings
from comfy_shared.store import connect
from test.bench import rivals
from test.bench.minimal import Minimal
from test.bench.prompt import PROMPT
from test.cluster import Process, free_port, redis_binary, wait_until

CALLS = 1000
WAITING = (10**3, 10**5, 10**6)
AGENTS = (1, 10, 1000)
SLOTS, THROUGH = 32, 10_000
NEEDS = Needs(classes=("EmptyImage",))
MOST = 10**8


def new_task(number: int) -> NewTask:
    return NewTask(id=f"bench-{number:08}", owner="bench", prompt=PROMPT, needs=NEEDS, lane=lane_of(NEEDS))


@contextmanager
def redis_server(fsync: str) -> Iterator[int]:
    """The port of a Redis of our own with an append-only file."""
    with tempfile.TemporaryDirectory() as folder:
        port = free_port()
        durable = ["--save", "", "--appendonly", "yes", "--appendfsync", fsync, "--auto-aof-rewrite-percentage", "0"]
        place = ["--port", str(port), "--bind", "127.0.0.1", "--dir", folder]
        server = Process("redis", [redis_binary(), *place, *durable], {}, Path(folder))
        server.start()
        try:
            wait_until(lambda: "Ready to accept" in server.tail(), "redis is ready")
            yield port
        finally:
            server.kill()


class Line:
    """A queue with its agents; tasks are numbered on."""

    def __init__(self, port: int) -> None:
        settings = SharedSettings(redis_port=port, redis_namespace="bench", redis_timeout=60)
        self.redis: Redis = connect(settings)
        self.keys = Keys("bench")
        self.queue = Queue(self.redis, self.keys, settings)
        self._registry = Registry(self.redis, self.keys, heartbeat_ttl=6000, retention=6000)
        self._number = 0
        self.attempts: list[Attempt] = []

    @property
    def channel(self) -> str:
        """Where the first agent is woken."""
        return self.keys.channel("0")

    async def open(self) -> None:
        """Has one agent, which knows the lane."""
        await self.submit()
        await self.join(0)
        await self.settle()

    async def take(self) -> bool:
        """Whether there was one for the first agent."""
        return isinstance(await self.claim(0), Attempt)

    async def submit_numbered(self, number: int) -> None:
        await self.queue.submit([new_task(number)], queue_limit=MOST, owner_limit=MOST)

    async def join(self, agent: int) -> None:
        record = AgentRecord(id=str(agent), address="", state="ready")
        await self._registry.register(record, Vitals(), session="s", offer=None, takeover=True)
        await self.claim(agent)

    async def claim(self, agent: int) -> ClaimReply:
        self._number += 1
        prompt_id = f"p{self._number}"
        reply = await self.queue.claim(str(agent), "s", prompt_id=prompt_id)
        if isinstance(reply, UnknownLanes):
            verdicts = dict.fromkeys(reply.needs, True)
            reply = await self.queue.claim(str(agent), "s", prompt_id=prompt_id, verdicts=verdicts)
        if isinstance(reply, Attempt):
            self.attempts.append(reply)
        return reply

    async def submit(self, number: int = 1) -> None:
        tasks = [new_task(self._number + each) for each in range(1, number + 1)]
        self._number += number
        await self.queue.submit(tasks, queue_limit=MOST, owner_limit=MOST)

    async def settle(self) -> None:
        await self.queue.complete(self.attempts.pop(), [])


async def transitions(line: Line, agents: int, label: str) -> list[str]:
    """Each transition in turn, one task at a time, so that an agent holds no more than it would."""
    took: dict[str, list[float]] = {"round trip": [], "submit": [], "claim": [], "settle": []}
    for number in range(CALLS):
        calls: tuple[tuple[str, Callable[[], Awaitable[object]]], ...] = (
            ("round trip", line.redis.ping),
            ("submit", line.submit),
            ("claim", lambda agent=number % agents: line.claim(agent)),  # type: ignore[misc]
            ("settle", line.settle),
        )
        for name, call in calls:
            at = time.perf_counter()
            await call()
            took[name].append((time.perf_counter() - at) * 1000)
    base = statistics.median(took["round trip"])
    lines = []
    for name, values in took.items():
        cuts = statistics.quantiles(values, n=100)
        rate = len(values) / (sum(values) / 1000)
        lines.append(
            f"{label:32} {name:10} {rate:7,.0f}/s  p50 {cuts[49]:6.3f} ms  p99 {cuts[98]:6.3f} ms"
            f"  {cuts[49] / base:5.2f} x"
        )
    return lines


async def growth(port: int) -> AsyncIterator[str]:
    line = Line(port)
    await line.open()
    empty = (await line.redis.info("memory"))["used_memory"]
    waiting = 0
    for number in WAITING:
        while waiting < number:
            await line.submit(1000)
            waiting += 1000
        used = ((await line.redis.info("memory"))["used_memory"] - empty) / number
        for each in await transitions(line, 1, f"{number:9,} wait, 1 agent"):
            yield each
        yield f"{number:9,} wait {used / 1024:27.2f} KiB of Redis' memory each (prompt: {len(PROMPT)} bytes)"
    await line.redis.flushall()
    for agents in AGENTS[1:]:
        for agent in range(agents):
            await line.join(agent)
        for each in await transitions(line, agents, f"nobody waits, {agents:5,} agents idle"):
            yield each
    await line.redis.aclose()


async def produce(kind: type[Line | Minimal], port: int, number: int) -> None:
    line = kind(port)
    numbers = iter(range(number))

    async def slot() -> None:
        for each in numbers:
            await line.submit_numbered(10**7 + each)

    await asyncio.gather(*[slot() for _ in range(SLOTS)])
    await line.redis.aclose()


def producer(kind: type[Line | Minimal], port: int, number: int) -> None:
    uvloop.run(produce(kind, port, number))


async def consume(line: Line | Minimal, number: int) -> int:
    """Claims and completes at least `number` tasks with `SLOTS` hands; a hand that finds nothing waits for the wake-up.
    How many it took."""
    taken = 0
    wake = asyncio.Event()

    async def slot() -> None:
        nonlocal taken
        while taken < number:
            wake.clear()
            if await line.take():
                taken += 1
                await line.settle()
            elif taken < number:
                await wake.wait()
            if taken >= number:
                wake.set()

    async with heard(line, wake.set):
        await asyncio.gather(*[slot() for _ in range(SLOTS)])
    return taken


@asynccontextmanager
async def heard(line: Line | Minimal, on_wake: Callable[[], None]) -> AsyncIterator[None]:
    """Has `on_wake` called when the first agent is woken, by the ear that agents have."""
    opened = asyncio.Event()
    ear = Ear(line.redis, line.channel)
    async with Loops(print) as loops:
        loops.start("ear", lambda: ear.listen(loops, opened.set, lambda _: on_wake()))
        await opened.wait()
        yield


async def through(kind: type[Line | Minimal], name: str, port: int) -> str:
    line = kind(port)
    await line.open()
    process = multiprocessing.get_context("spawn").Process(target=producer, args=(kind, port, THROUGH))
    process.start()
    first = await consume(line, 1)  # its interpreter has to start
    began_at = time.perf_counter()
    rate = await consume(line, THROUGH - first) / (time.perf_counter() - began_at)
    process.join()
    latency = await low_load(line)
    await line.redis.aclose()
    return f"{name:12} {rate:8,.0f} tasks/s   submit to claim at low load p50 {latency:9.2f} ms"


async def low_load(line: Line | Minimal) -> float:
    """Median ms from the begin of a submit to the claim of an idle agent that waited for it."""
    took = []
    wake = asyncio.Event()
    async with heard(line, wake.set):
        await line.take()
        for _ in range(200):
            wake.clear()
            at = time.perf_counter()
            submitted = asyncio.create_task(line.submit())
            await wake.wait()
            await line.take()
            took.append((time.perf_counter() - at) * 1000)
            await submitted
            await line.settle()
            await line.take()
    return statistics.median(took)


def run() -> Iterator[str]:
    for fsync in ("always", "everysec"):
        yield f"append-only file with appendfsync {fsync}"
        with redis_server(fsync) as port:
            yield uvloop.run(through(Line, "this queue", port))
        with redis_server(fsync) as port:
            yield uvloop.run(through(Minimal, "minimal", port))
        with redis_server(fsync) as port:
            yield from rivals.run(port, THROUGH, SLOTS)
    with redis_server("always") as port, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        lines = growth(port)
        while line := runner.run(anext(lines, "")):  # minutes pass between them
            yield line
