"""Which task next: every policy under the same arrivals, in virtual time (see `world`).

The baseline is `round-robin`, which binds a task to the next agent in turn when it comes; `fifo` is the same queue as
`lane`, blind to what is in memory.
"""

import asyncio
import tempfile
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path

from redis.asyncio import Redis

from comfy_shared.models import Policy
from comfy_shared.settings import SharedSettings
from comfy_shared.store import connect
from test.bench.world import Case, Result, World, mean, percentile
from test.cluster import Process, free_port, redis_binary, wait_until

LOADS = (0.5, 0.7, 0.8, 0.9, 0.95)
MANY = 20_000  # arrivals where the figure has a bar
HEADER = "policy                load  arrived  useful  mean wait       p95   longest  loads/task"


def line(name: str, case: Case, result: Result) -> str:
    waits = f"{mean(result.waits):8.1f} s {percentile(result.waits, 0.95):7.0f} s {max(result.waits):7.0f} s"
    loads = result.loads / len(result.waits)
    return f"{name:20} {case.load:5.0%} {result.arrived:8.3f} {result.useful:7.3f} {waits} {loads:11.2f}"


async def policies(redis: Redis) -> AsyncIterator[str]:
    yield HEADER
    for load in LOADS:
        for policy in Policy:
            case = Case(policy=policy, load=load, tasks=MANY if policy is Policy.LANE and load >= 0.8 else 5000)
            yield line(policy.value, case, await World(redis, case).run())
    for name, case in (
        ("lane, two resident", Case(resident=2)),
        ("lane, 1,000 agents", Case(agents=1000, models=40, tasks=30_000)),
    ):
        yield line(name, case, await World(redis, case).run())


async def closed_loop(redis: Redis) -> AsyncIterator[str]:
    for policy in (Policy.LANE, Policy.FIFO, Policy.ROUND_ROBIN):
        result = await World(redis, Case(policy=policy, closed=64)).run()
        yield f"closed loop, 64 wait, {policy.value:12} {result.useful:6.1%} of the capacity without loads"


async def bursts(redis: Redis) -> AsyncIterator[str]:
    """A burst of 300 at 80 % load, against the same burst where loading takes no time; together over some seeds."""
    for policy, seeds in ((Policy.LANE, range(1, 9)), (Policy.FIFO, range(1, 2))):
        took, ideal, stuck = 0.0, 0.0, False
        for seed in seeds:
            case = Case(policy=policy, load=0.8, crowd=300, seed=seed, tasks=6000, until_drained=True)
            drained = (await World(redis, case).run()).drained
            stuck = stuck or not drained
            took += drained
            ideal += (await World(redis, replace(case, loading=0.0)).run()).drained
        each = f"{took / len(seeds):6.0f} s, {took / ideal:5.2f} x the {ideal / len(seeds):4.0f} s without loads"
        yield f"burst of 300 at 80 %, {policy.value:12} {'  never drained' if stuck else each}"


async def flood(redis: Redis) -> AsyncIterator[str]:
    """One owner puts 1,000 tasks of the most popular model in front of everybody else's, at 40 % load."""
    for policy in (Policy.LANE, Policy.FIFO):
        case = Case(policy=policy, load=0.4, tasks=6000)
        calm = await World(redis, case).run()
        flooded = await World(redis, replace(case, crowd=1000, crowd_owner="flooder")).run()
        others = mean(flooded.waits_of["o"])
        yield (
            f"one owner floods,     {policy.value:12} others wait {others:6.1f} s on average ({mean(calm.waits):.1f} s "
            f"without), the flooder {mean(flooded.waits_of['flooder']):6.1f} s"
        )


async def priorities(redis: Redis) -> AsyncIterator[str]:
    result = await World(redis, Case(load=0.9, priorities=(0, *[5] * 8, 9), tasks=10_000)).run()
    waits = ", ".join(f"{group[1:]}: {mean(result.waits_of[group]):.1f} s" for group in ("p9", "p5", "p0"))
    yield f"priorities mixed at 90 %: useful {result.useful:.3f}, mean wait of priority {waits}"


async def estimates(redis: Redis) -> AsyncIterator[str]:
    """What GET /tasks/{id}/explain tells at the submit, against what came."""
    for load in (0.7, 0.8, 0.9):
        result = await World(redis, Case(load=load, estimates=True)).run()
        off, wait = mean(abs(error) for error in result.errors), mean(result.waits)
        yield (
            f"estimated start at {load:.0%}: off by {off:5.1f} s on average (bias {mean(result.errors):+5.1f} s) where "
            f"the mean wait is {wait:5.1f} s; within its spread {result.covered / len(result.errors):4.0%}"
        )


async def measure(port: int) -> AsyncIterator[str]:
    redis = connect(SharedSettings(redis_port=port))
    for part in (policies, closed_loop, bursts, flood, priorities, estimates):
        async for line in part(redis):
            yield line
    await redis.aclose()


def run() -> Iterator[str]:
    with tempfile.TemporaryDirectory() as folder:
        port = free_port()
        place = ["--port", str(port), "--bind", "127.0.0.1", "--dir", folder, "--save", ""]
        server = Process("redis", [redis_binary(), *place], {}, Path(folder))
        server.start()
        try:
            wait_until(lambda: "Ready to accept" in server.tail(), "redis is ready")
            with asyncio.Runner() as runner:
                lines = measure(port)
                while line := runner.run(anext(lines, "")):  # minutes pass between them
                    yield line
        finally:
            server.kill()
