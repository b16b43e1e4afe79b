"""When will a waiting task start? What Redis says of its lane, and from that an estimate with its spread.

The estimate follows the lane policy in the mean: the tasks before it in its lane run one after the other on the agents
that have the lane in memory, or on as many as its backlog is worth loading for and its share of the queue allows. What
nobody can know (arrivals of higher priority, agents that come and go) is not in it; how far it is off is measured by
`make bench`.
"""

import math
from dataclasses import dataclass
from typing import Any

from redis.asyncio import Redis
from redis.asyncio.client import Pipeline

from comfy_shared.keys import Keys
from comfy_shared.store import border

DEFAULT_RUN = 8.0  # seconds, for a lane that never ran
SPREAD = 0.6  # of the work ahead, either way; measured by the benchmark to hold for some four starts of five


@dataclass(frozen=True, kw_only=True, slots=True)
class Outlook:
    """What the estimate goes by."""

    ahead: int | None  # tasks of its owner that go before it in its lane; None: it was claimed meanwhile
    owners: int  # with tasks in the lane
    in_lane: int  # tasks that wait in the lane, this one too
    waiting: int  # tasks that wait in all
    servers: int  # agents that have the lane in memory
    idle: int  # agents that wait for work, of those that have the lane in memory; of all when there are none of these
    run: float  # seconds of a run in the lane
    load: float  # seconds of the load before a first run


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """Seconds from now until the task is claimed."""

    likely: float
    earliest: float
    latest: float


async def read_outlook(redis: Redis, keys: Keys, task_id: str, lane: str, owner: str) -> Outlook:
    """One round trip. Raises Unavailable."""
    with border():
        pipeline = redis.pipeline(transaction=False)
        ask(pipeline, keys, task_id, lane, owner)
        return told(await pipeline.execute(raise_on_error=False))


QUESTIONS = 8


def ask(pipeline: Pipeline, keys: Keys, task_id: str, lane: str, owner: str) -> None:
    """Puts the `QUESTIONS` of an outlook into a pipeline."""
    pipeline.zrank(f"{keys.turn_prefix}{lane}:{owner}", task_id)
    pipeline.hlen(keys.owners_prefix + lane)
    pipeline.zcard(keys.lane_prefix + lane)
    pipeline.zcard(keys.queue)
    pipeline.smembers(keys.servers_prefix + lane)
    pipeline.zrange(keys.idle, 0, 999)
    pipeline.hmget(keys.stats_prefix + lane, ["run", "cold"])
    pipeline.hget(keys.stats_prefix + "all", "run")


def told(replies: list[Any]) -> Outlook:
    """The outlook from the replies; one of a wrong kind counts as nothing known."""
    ahead, owners, in_lane, waiting, servers, idle, costs, run_of_all = replies
    serving = servers if isinstance(servers, set) else set()
    waits = set(idle) if isinstance(idle, list) else set()
    run, cold = (_seconds(value) for value in costs) if isinstance(costs, list) else (None, None)
    usual = run or (_seconds(run_of_all) if not isinstance(run_of_all, Exception) else None) or DEFAULT_RUN
    return Outlook(
        ahead=ahead if isinstance(ahead, int) else None,
        owners=max(1, owners) if isinstance(owners, int) else 1,
        in_lane=in_lane if isinstance(in_lane, int) else 0,
        waiting=waiting if isinstance(waiting, int) else 0,
        servers=len(serving),
        idle=len(serving & waits) if serving else len(waits),
        run=usual,
        load=max(0.0, cold - usual) if cold else 0.0,
    )


def _seconds(raw: bytes | None) -> float | None:
    try:
        value = float(raw) / 1000 if raw else None
    except ValueError:
        return None
    return value if value is not None and math.isfinite(value) and value > 0 else None


def estimate(outlook: Outlook, *, able: int) -> Estimate | None:
    """When the task starts, if `able` agents can run it; None when none can, or when it was claimed meanwhile."""
    if outlook.ahead is None or able < 1:
        return None
    before = min(outlook.in_lane - 1, outlook.ahead * outlook.owners + (outlook.owners - 1) / 2)
    if outlook.idle > before:
        return Estimate(likely=0.0, earliest=0.0, latest=outlook.run)
    share = able * outlook.in_lane / max(1, outlook.waiting)
    worth = outlook.in_lane * outlook.run / outlook.load if outlook.load else able
    serving = min(able, max(1.0, outlook.servers, min(share, worth)))
    first = outlook.run / (serving + 1)
    work = before * outlook.run / serving
    loading = outlook.load if not outlook.servers and before else 0.0
    likely = first + work + loading
    return Estimate(
        likely=likely,
        earliest=max(0.0, likely - first - SPREAD * (work + loading)),
        latest=likely + outlook.run + SPREAD * (work + loading),
    )
