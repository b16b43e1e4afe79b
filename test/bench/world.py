"""A fleet in virtual time: the real transitions on a real Redis, with the clock in the test's hand.

Agents with one slot, models with Zipf popularity; a load takes 12 s, a run 8 s (lognormal). The capacity is what the
agents could do if no model ever had to be loaded; useful throughput is the share of it that went into runs. Wait is
from submit to claim. Arrivals are Poisson, or a new task for each that ends (a closed loop).
"""

import heapq
import itertools
import math
import random
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import cast

from redis.asyncio import Redis

from comfy_balancer.outlook import Estimate, estimate, read_outlook
from comfy_shared.claims import Attempt, UnknownLanes
from comfy_shared.keys import Keys
from comfy_shared.models import Needs, NewTask, Policy
from comfy_shared.needs import lane_of
from comfy_shared.queue import Queue
from comfy_shared.registry import AgentRecord, Registry, Vitals
from comfy_shared.settings import SharedSettings

LOAD, RUN, SPREAD = 12.0, 8.0, 0.5  # seconds, seconds, sigma of the lognormal
FOREVER = 10.0**9  # seconds: nothing lapses in virtual time
ARRIVAL, SWEEP, CROWD = -1, -2, -3  # events that are no agent's

_numbers = itertools.count(1)


@dataclass(frozen=True, kw_only=True)
class Case:
    """One experiment."""

    policy: Policy = Policy.LANE
    load: float = 0.9  # arrivals, as a share of the capacity without loads
    agents: int = 8
    models: int = 6
    resident: int = 1  # models that fit into an instance's memory
    tasks: int = 5000  # arrivals until the end
    loading: float = LOAD  # seconds
    seed: int = 1
    closed: int = 0  # tasks that always wait; 0: arrivals are Poisson
    crowd: int = 0  # tasks that come at once, after `crowd_at` s
    crowd_at: float = 600.0
    until_drained: bool = False  # ends as soon as the crowd is gone
    crowd_owner: str = "o"  # of a single model when this is not "o": one owner floods the queue
    priorities: tuple[int, ...] = (5,)  # drawn from, evenly
    estimates: bool = False  # ask for each task when it will start


@dataclass(kw_only=True)
class Result:
    """What came of it; times in seconds of virtual time."""

    waits: list[float] = field(default_factory=list)
    waits_of: dict[str, list[float]] = field(default_factory=dict)  # by owner, and by priority as "p5"
    loads: int = 0
    arrived: float = 0  # load that really came
    useful: float = 0
    drained: float = 0  # from the crowd's arrival until at most one task for each agent waits
    errors: list[float] = field(default_factory=list)  # estimated start less the real one
    covered: int = 0  # starts within the estimate's spread


class World:
    """One experiment under way. Events are (time, tie-break, agent or one of the words above)."""

    def __init__(self, redis: Redis, case: Case) -> None:
        self.case = case
        self.result = Result()
        self._random = random.Random(case.seed)
        self._runs = random.Random(case.seed + 1)
        self._redis = redis
        self._keys = Keys(f"world-{next(_numbers)}")
        self._queue = Queue(redis, self._keys, SharedSettings(lease_seconds=FOREVER, agent_retention=FOREVER))
        self._needs = [Needs(classes=("Sampler",), choices=(("Loader", "name", f"m{i}"),)) for i in range(case.models)]
        self._lanes = [lane_of(needs) for needs in self._needs]
        self._weights = [1 / (i + 1) for i in range(case.models)]
        self._memory: list[list[str]] = [[] for _ in range(case.agents)]
        self._idle: set[int] = set()
        self._running: dict[int, tuple[Attempt, float, bool]] = {}
        self._events: list[tuple[float, float, int]] = []
        self._estimates: dict[str, Estimate] = {}
        self._now = 0.0
        self._count = 0
        self._waiting = 0
        self._work = 0.0

    async def run(self) -> Result:
        await self._queue.set_policy(self.case.policy)
        await self._set_clock()
        registry = Registry(self._redis, self._keys, heartbeat_ttl=FOREVER, retention=FOREVER)
        for agent in range(self.case.agents):
            record = AgentRecord(id=str(agent), address="", state="ready")
            await registry.register(record, Vitals(), session="s", offer=None, takeover=True)
        for agent in range(self.case.agents):
            await self._claim(agent)
        if self.case.closed:
            await self._submit(self.case.closed + self.case.agents)
            await self._wake()
        else:
            self._push(self._gap(), ARRIVAL)
        if self.case.crowd:
            self._push(self.case.crowd_at, CROWD)
        while self._count < self.case.tasks and not (self.case.until_drained and self.result.drained):
            self._now, _, what = heapq.heappop(self._events)
            await self._set_clock()
            await self._happen(what)
            await self._wake()
        self.result.arrived = self._count * RUN / (self.case.agents * self._now)
        self.result.useful = self._work / (self.case.agents * self._now)
        await self._redis.flushdb()
        return self.result

    async def _set_clock(self) -> None:
        await self._redis.set(self._keys.clock, int(self._now * 1000) + 10**6 - int(time.time() * 1000))

    async def _happen(self, what: int) -> None:
        if what == ARRIVAL:
            await self._submit(1)
            self._push(self._gap(), ARRIVAL)
            if self._count % self.case.agents == 0:
                self._push(0.0, SWEEP)  # it wakes idle agents for what has become overdue
        elif what == SWEEP:
            await self._queue.sweep()
        elif what == CROWD:
            await self._submit(self.case.crowd, owner=self.case.crowd_owner)
        else:
            await self._finish(what)

    def _gap(self) -> float:
        return self._random.expovariate(self.case.load * self.case.agents / RUN)

    def _push(self, delay: float, what: int) -> None:
        heapq.heappush(self._events, (self._now + delay, self._random.random(), what))

    async def _submit(self, number: int, *, owner: str = "o") -> None:
        for _ in range(number):
            self._count += 1
            model = self._random.choices(range(self.case.models), self._weights)[0] if owner == "o" else 0
            task = NewTask(
                id=f"{self._count:08}",
                owner=owner,
                prompt=b"{}",
                needs=self._needs[model],
                lane=self._lanes[model],
                priority=self._random.choice(self.case.priorities),
            )
            await self._queue.submit([task], queue_limit=10**7)
            self._waiting += 1
            if self.case.estimates:
                await self._estimate(task)

    async def _estimate(self, task: NewTask) -> None:
        outlook = await read_outlook(self._redis, self._keys, task.id, task.lane, task.owner)
        if found := estimate(outlook, able=self.case.agents):
            self._estimates[task.id] = found

    async def _finish(self, agent: int) -> None:
        attempt, took, cold = self._running.pop(agent)
        await self._queue.complete(attempt, [], gpu_ms=int(took * 1000), cold=cold)
        if self.case.closed:
            await self._submit(1)
        await self._claim(agent)

    async def _wake(self) -> None:
        """Whoever was woken claims; a woken agent has left the set of the idle."""
        if await self._redis.zcard(self._keys.idle) == len(self._idle):
            return
        listed = cast("list[bytes]", await self._redis.zrange(self._keys.idle, 0, -1))
        for agent in sorted(self._idle - {int(name) for name in listed}):
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
        memory, lane = self._memory[agent], attempt.task.lane
        cold = lane not in memory
        if not cold:
            memory.remove(lane)
        memory.insert(0, lane)
        del memory[self.case.resident :]
        run = self._runs.lognormvariate(math.log(RUN) - SPREAD**2 / 2, SPREAD)
        self._note(attempt, self._now + 1000 - attempt.task.created_at / 1000)
        self.result.loads += cold
        self._work += run
        took = run + (self.case.loading if cold else 0)
        self._running[agent] = (attempt, took, cold)
        self._push(took, agent)

    def _note(self, attempt: Attempt, wait: float) -> None:
        result, task = self.result, attempt.task
        result.waits.append(wait)
        for group in (task.owner, f"p{task.priority}"):
            result.waits_of.setdefault(group, []).append(wait)
        if found := self._estimates.pop(task.id, None):
            result.errors.append(found.likely - wait)
            result.covered += found.earliest - 0.5 <= wait <= found.latest + 0.5
        self._waiting -= 1
        after = self._now - self.case.crowd_at
        if self.case.crowd and after > 0 and not result.drained and self._waiting <= self.case.agents:
            result.drained = after


def mean(values: Iterable[float]) -> float:
    listed = list(values)
    return sum(listed) / len(listed) if listed else math.nan


def percentile(values: Iterable[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else math.nan
