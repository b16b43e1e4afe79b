"""Why is this task waiting? Its place, and each agent with the reason why it does or does not take the task.

What is told is what the claim goes by: the needs of the task's lane, the agents' offers and labels, who drains, which
agent is avoided after a bad attempt, how many of its owner's tasks may run; and when it will probably start.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from redis.asyncio import Redis

from comfy_balancer.catalog import Fleet
from comfy_balancer.eligibility import Member, hindrances, read_needs
from comfy_balancer.outlook import QUESTIONS, Estimate, Outlook, ask, estimate, told
from comfy_balancer.schemas import AgentFit, EstimateView, ExplainView
from comfy_shared.keys import Keys
from comfy_shared.models import Needs, Status, Task
from comfy_shared.moments import iso
from comfy_shared.store import border


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """Where a pending task stands, as Redis says."""

    ahead: int | None  # tasks before it; None: it was claimed meanwhile
    ahead_in_lane: int | None
    needs: Needs | None  # of its lane; None: not known, then agents try it
    avoid: str  # agent of a bad attempt; empty: none
    avoid_ms: int  # how long it is still avoided; not positive: no more
    warm: frozenset[str]  # agents that hold the lane in memory
    held: dict[str, int]  # agent → tasks that it holds
    more_vram: int = 0  # bytes that were too little for the task; 0: none were
    running: int = 0  # tasks of its owner that run
    outlook: Outlook | None = None  # of its lane


class Explainer:
    """Explains tasks of one namespace. Raises `Unavailable` while Redis is away."""

    def __init__(self, redis: Redis, keys: Keys, fleet: Fleet, *, running_limit: int = 0) -> None:
        self._redis = redis
        self._keys = keys
        self._fleet = fleet
        self._running_limit = running_limit  # of one owner's tasks; 0: none

    async def explain(self, task: Task) -> ExplainView:
        """What is known of `task`, which was just read."""
        if task.status is not Status.PENDING:
            return ExplainView(
                task_id=task.id, status=task.status, explanation=_not_waiting(task), lane=task.lane,
                require={}, ahead=None, ahead_in_lane=None, agents=[],
            )  # fmt: skip
        members = await self._fleet.now()
        place = await self._place(task, members)
        roomiest = max((vram(member) for member in members if member.agent.alive), default=0)
        agents = [fit(member, place, alone=_alone(members), roomiest=roomiest) for member in members]
        able = sum(agent.eligible for agent in agents)
        found = estimate(place.outlook, able=able) if place.outlook else None
        return ExplainView(
            task_id=task.id,
            status=task.status,
            explanation=self._waiting(agents, place),
            lane=task.lane,
            require=dict(place.needs.labels) if place.needs else {},
            ahead=place.ahead,
            ahead_in_lane=place.ahead_in_lane,
            agents=agents,
            estimate=_view(found) if found else None,
        )

    def _waiting(self, agents: Sequence[AgentFit], place: Place) -> str:
        if self._running_limit and place.running >= self._running_limit:
            return f"It waits for one of its owner's {place.running} running tasks to end: no more may run at a time."
        return _waiting(agents, place)

    async def _place(self, task: Task, members: Sequence[Member]) -> Place:
        keys = self._keys
        ids = [member.agent.record.id for member in members]
        with border():
            pipeline = self._redis.pipeline(transaction=False)
            pipeline.zrank(keys.queue, task.id)
            pipeline.zrank(keys.lane_prefix + task.lane, task.id)
            pipeline.get(keys.needs_prefix + task.lane)
            pipeline.hmget(keys.task(task.id), ["avoid", "avoid_until", "more_vram"])
            pipeline.hget(keys.working, task.owner)
            pipeline.time()
            pipeline.get(keys.clock)
            pipeline.smembers(keys.servers_prefix + task.lane)
            ask(pipeline, keys, task.id, task.lane, task.owner)
            for agent_id in ids:
                pipeline.hlen(keys.held(agent_id))
            # A broken key must not take the explanation of the rest along; replies of a wrong kind count as unknown.
            replies: list[Any] = await pipeline.execute(raise_on_error=False)
        ahead, in_lane, raw_needs, avoid, running, time, offset, servers, *rest = replies
        questions, held = rest[:QUESTIONS], rest[QUESTIONS:]
        agent, until, more_vram = avoid if isinstance(avoid, list) else (None, None, None)
        now = time[0] * 1000 + time[1] // 1000 + int(offset or 0)
        return Place(
            ahead=ahead if isinstance(ahead, int) else None,
            ahead_in_lane=in_lane if isinstance(in_lane, int) else None,
            needs=read_needs(raw_needs),
            avoid=agent.decode(errors="replace") if agent else "",
            avoid_ms=int(until) - now if until and until.isdigit() else 0,
            warm=frozenset(item.decode(errors="replace") for item in (servers if isinstance(servers, set) else ())),
            more_vram=int(more_vram) if more_vram and more_vram.isdigit() else 0,
            running=int(running) if isinstance(running, bytes) and running.isdigit() else 0,
            outlook=told(questions),
            held={agent_id: n if isinstance(n, int) else 0 for agent_id, n in zip(ids, held, strict=True)},
        )


def _alone(members: Sequence[Member]) -> bool:
    return sum(member.agent.alive for member in members) <= 1


def _view(found: Estimate) -> EstimateView:
    likely, earliest, latest = (round(each, 1) for each in (found.likely, found.earliest, found.latest))
    return EstimateView(likely=likely, earliest=earliest, latest=latest)


def vram(member: Member) -> int:
    """Bytes, over all devices."""
    return sum(device.vram_total for device in member.agent.record.devices)


def fit(member: Member, place: Place, *, alone: bool, roomiest: int = 0) -> AgentFit:
    """Whether the agent can take the task, and why or why not. An agent that is `alone` is never avoided; `roomiest`
    is the most VRAM of any that is alive, in bytes."""
    agent_id = member.agent.record.id
    reasons = hindrances(member, place.needs)
    if agent_id == place.avoid and place.avoid_ms > 0 and not alone:
        seconds = -(-place.avoid_ms // 1000)
        reasons.append(f"its attempt at the task ended badly: for {seconds} s more another agent goes first")
    if place.more_vram and vram(member) <= place.more_vram < roomiest:
        reasons.append("the task ran out of memory on an agent with as little VRAM: one with more goes first")
    eligible = not reasons
    held = place.held.get(agent_id, 0)
    if eligible and held:
        reasons = [f"can run it, and is busy with {held} task{'s' if held > 1 else ''}"]
    elif eligible:
        reasons = ["can run it, and is idle"]
    return AgentFit(
        id=agent_id,
        eligible=eligible,
        reason="; ".join(reasons),
        in_memory=agent_id in place.warm,
        holds=held,
    )


def _waiting(agents: Sequence[AgentFit], place: Place) -> str:
    if place.ahead is None:
        return "It is being claimed just now."
    if not agents:
        return "It waits for an agent: none is known yet."
    able = [agent for agent in agents if agent.eligible]
    if not able:
        return f"It waits for an agent that can run it: none of the {len(agents)} known can now."
    ahead = f"{place.ahead} ahead of it, {place.ahead_in_lane or 0} of them in its lane"
    if any(not agent.holds for agent in able):
        return f"It waits to be claimed ({ahead}); an idle agent may keep to the models that it has in memory."
    agents_able = "the one agent" if len(able) == 1 else f"one of the {len(able)} agents"
    return f"It waits for {agents_able} that can run it, busy now ({ahead})."


def _not_waiting(task: Task) -> str:
    if task.status is Status.RUNNING:
        return f"It runs on {task.agent} since {iso(task.started_at)}, attempt {task.attempt} of {task.max_attempts}."
    ended = f" at {iso(task.finished_at)}" if task.finished_at else ""
    if task.status is Status.COMPLETED:
        return f"It completed{ended} on {task.agent}."
    if task.status is Status.CANCELED:
        return f"It was canceled{ended}."
    return f"It failed{ended}: {task.error.message if task.error else 'the reason is not known.'}"
