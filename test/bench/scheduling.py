"""Which task next: the real transitions on a real Redis, in virtual time.

Eight agents, six models with Zipf popularity, Poisson arrivals; a load takes 12 s, a run 8 s (lognormal). The
capacity is what the agents could do
if no model ever had to be loaded; useful throughput is the share of it that went into runs. The baseline is `fifo`,
the same queue blind to
what is in memory. Wait is from submit to claim.
"""

import asyncio
import heapq
import math
import random
import statistics
import tempfile
import time
from pathlib import Path
from typing import cast

from redis.asyncio import Redis

from comfy_shared.claims import Attempt, UnknownLanes
from comfy_shared.keys import Keys
from comfy_shared.models import Needs, NewTask
from comfy_shared.needs import lane_of
from comfy_shared.queue import Queue
from comfy_shared.registry import AgentRecord, Registry, Vitals
from comfy_shared.settings import SharedSettings
from comfy_shared.store import connect
from test.cluster import Process, free_port, redis_binary, wait_until

AGENTS, MODELS = 8, 6
LOAD, RUN, SPREAD = 12.0, 8.0, 0.5  # seconds, seconds, sigma of the lognormal
TASKS = 5000
FOREVER = 10.0**9  # seconds: nothing lapses in virtual time


class World:
    """One run of one policy. Events are (time, order, agent or -1 for an arrival)."""

    def __init__(self, redis: Redis, policy: str, *, load: float, tasks: int = TASKS, resident: int = 1, seed: int = 1):
        self._random = random.Random(seed)
        self._redis = redis
        self._keys = Keys(f"scheduling-{policy}-{load}-{resident}-{seed}")
        settings = SharedSettings(lease_seconds=FOREVER, agent_retention=FOREVER)
        self._queue = Queue(redis, self._keys, settings)
        self._registry = Registry(redis, self._keys, heartbeat_ttl=FOREVER, retention=FOREVER)
        self._policy = policy
        self._rate = load * AGENTS / RUN
        self._tasks = tasks
        self._needs = [Needs(classes=("Sampler",), choices=(("Loader", "name", f"m{i}"),)) for i in range(MODELS)]
        weights = [1 / (i + 1) for i in range(MODELS)]
        self._weights = [weight / sum(weights) for weight in weights]
        self._memory: list[list[int]] = [[] for _ in range(AGENTS)]
        self._resident = resident
        self._idle: set[int] = set()
        self._running: dict[int, tuple[Attempt, float, bool]] = {}
        self._events: list[tuple[float, int, int]] = []
        self._models: dict[str, int] = {}
        self._now = 0.0
        self._count = 0
        self.waits: list[float] = []
        self.loads = 0
        self.work = 0.0

    async def run(self) -> tuple[float, float, float, float, float, float]:
        """Load that really arrived, useful throughput, mean, p95 and longest wait in seconds, loads per task."""
        await self._redis.set(self._keys.policy, self._policy)
        for agent in range(AGENTS):
            record = AgentRecord(id=str(agent), address="", state="ready")
            await self._registry.register(record, Vitals(), session="s", offer=None, takeover=True)
        for agent in range(AGENTS):
            await self._claim(agent)
        self._push(self._random.expovariate(self._rate), -1)
        while self._events and self._count < self._tasks:
            self._now, _, agent = heapq.heappop(self._events)
            await self._redis.set(self._keys.clock, int(self._now * 1000) + 10**6 - int(time.time() * 1000))
            if agent == -1:
                await self._arrive()
            elif agent == -2:
                await self._queue.sweep()
            else:
                await self._finish(agent)
            await self._woken()
        waits = sorted(self.waits)
        return (
            self._count * RUN / (AGENTS * self._now),
            self.work / (AGENTS * self._now),
            statistics.mean(waits),
            waits[int(0.95 * len(waits))],
            waits[-1],
            self.loads / len(waits),
        )

    def _push(self, delay: float, agent: int) -> None:
        heapq.heappush(self._events, (self._now + delay, len(self._events) + self._random.randrange(10**9), agent))

    async def _arrive(self) -> None:
        self._count += 1
        model = self._random.choices(range(MODELS), self._weights)[0]
        needs = self._needs[model]
        task_id = f"{self._count:08}"
        self._models[task_id] = model
        task = NewTask(id=task_id, owner="o", prompt=b"{}", needs=needs, lane=lane_of(needs))
        await self._queue.submit([task], queue_limit=10**7)
        self._push(self._random.expovariate(self._rate), -1)
        if self._count % 8 == 0:
            self._push(0.0, -2)  # the sweep wakes idle agents for what has become overdue

    async def _finish(self, agent: int) -> None:
        attempt, took, cold = self._running.pop(agent)
        await self._queue.complete(attempt, [], gpu_ms=int(took * 1000), cold=cold)
        await self._claim(agent)

    async def _woken(self) -> None:
        listed = cast("list[bytes]", await self._redis.zrange(self._keys.idle, 0, -1))
        waiting = {int(name) for name in listed}
        for agent in sorted(self._idle - waiting):
            await self._claim(agent)

    async def _claim(self, agent: int) -> None:
        verdicts: dict[str, bool] = {}
        while True:
            reply = await self._queue.claim(str(agent), "s", prompt_id=f"{agent}-{self._now}", verdicts=verdicts)
            if not isinstance(reply, UnknownLanes):
                break
            verdicts = dict.fromkeys(reply.needs, True)
        if not isinstance(reply, Attempt):
            self._idle.add(agent)
            return
        self._idle.discard(agent)
        self._start(agent, reply)

    def _start(self, agent: int, attempt: Attempt) -> None:
        model = self._models[attempt.id]
        memory = self._memory[agent]
        cold = model not in memory
        if not cold:
            memory.remove(model)
        memory.insert(0, model)
        del memory[self._resident :]
        run = self._random.lognormvariate(math.log(RUN) - SPREAD**2 / 2, SPREAD)
        self.waits.append(self._now + 1000 - attempt.task.created_at / 1000)
        self.loads += cold
        self.work += run
        took = run + (LOAD if cold else 0)
        self._running[agent] = (attempt, took, cold)
        self._push(took, agent)


async def measure(port: int) -> list[str]:
    redis = connect(SharedSettings(redis_port=port))
    lines = ["policy    load  arrived  useful  mean wait     p95  longest  loads/task"]
    cells = [(policy, load, 1) for load in (0.5, 0.7, 0.8, 0.9, 0.95) for policy in ("lane", "fifo")] + [
        ("lane", 0.9, 2)
    ]
    for policy, load, resident in cells:
        arrived, useful, mean, p95, longest, loads = await World(redis, policy, load=load, resident=resident).run()
        name = policy if resident == 1 else f"{policy} x{resident}"
        waits = f"{mean:8.1f} s {p95:5.0f} s {longest:6.0f} s"
        lines.append(f"{name:8} {load:5.0%} {arrived:8.3f} {useful:7.3f} {waits} {loads:11.2f}")
        await redis.flushall()
    await redis.aclose()
    return lines


def run() -> list[str]:
    with tempfile.TemporaryDirectory() as folder:
        port = free_port()
        place = ["--port", str(port), "--bind", "127.0.0.1", "--dir", folder, "--save", ""]
        server = Process("redis", [redis_binary(), *place], {}, Path(folder))
        server.start()
        try:
            wait_until(lambda: "Ready to accept" in server.tail(), "redis is ready")
            return asyncio.run(measure(port))
        finally:
            server.kill()
