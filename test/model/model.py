"""The queue as plain Python: what each transition should do, in a few lines. Times are seconds by the test's clock."""

from dataclasses import dataclass, field
from typing import Literal

LEASE = 15.0
GRACE = LEASE / 2
AVOID = 10.0

Outcome = Literal["complete", "fail", "retry", "release"]


@dataclass(frozen=True)
class Token:
    """What an agent's process knows of an attempt."""

    task: str
    number: int
    session: str


@dataclass
class ModelTask:
    """A task; `order` is lower for what goes first."""

    id: str
    lane: str
    owner: str
    order: tuple[int, int]
    max_attempts: int
    status: str = "pending"
    attempt: int = 0
    agent: str = ""
    session: str = ""
    lease_until: float = 0
    settled: str = ""
    avoid: tuple[str, float] = ("", 0)
    counts: dict[str, int] = field(default_factory=dict)
    story: list[str] = field(default_factory=lambda: ["queued"])

    def end(self, status: str) -> None:
        self.status = status
        self.story.append(status)

    def holds(self, token: Token) -> bool:
        return self.status == "running" and (self.attempt, self.session) == (token.number, token.session)


class Model:
    """All tasks and the clock."""

    def __init__(self) -> None:
        self.tasks: dict[str, ModelTask] = {}
        self.now = 0.0
        self.last_sweep: float | None = None

    def of(self, status: str) -> list[ModelTask]:
        return sorted((task for task in self.tasks.values() if task.status == status), key=lambda task: task.order)

    def submit(self, task_id: str, lane: str, owner: str, priority: int, max_attempts: int) -> None:
        order = (9 - priority, len(self.tasks))
        task = ModelTask(id=task_id, lane=lane, owner=owner, order=order, max_attempts=max_attempts)
        self.tasks[task_id] = task

    def next_for(self, agent: str, lanes: frozenset[str]) -> ModelTask | None:
        """By priority and age, of what the agent can serve and need not avoid."""
        heads = self.heads_for(agent, lanes).values()
        return min(heads, key=lambda task: task.order, default=None)

    def heads_for(self, agent: str, lanes: frozenset[str]) -> dict[tuple[str, str], ModelTask]:
        """Lane and owner → the first of these tasks that this agent need not avoid."""
        found: dict[tuple[str, str], ModelTask] = {}
        for task in self.of("pending"):
            avoided = task.avoid[0] == agent and self.now < task.avoid[1]
            if task.lane in lanes and not avoided:
                found.setdefault((task.lane, task.owner), task)
        return found

    def claim(self, task: ModelTask, agent: str, session: str) -> Token:
        task.status, task.agent, task.session = "running", agent, session
        task.attempt += 1
        task.lease_until = self.now + LEASE
        task.story.append("claimed")
        return Token(task.id, task.attempt, session)

    def settle(self, token: Token, outcome: Outcome, code: str) -> str:
        """The reply: the task's status, or stale."""
        task = self.tasks[token.task]
        if (task.attempt, task.session) != (token.number, token.session):
            return "stale"
        mark = f"{token.number}:{outcome}"
        if task.settled == mark:
            return task.status
        if task.status != "running":
            return "stale"
        task.settled = mark
        if outcome == "complete":
            task.story.append("output")
            task.end("completed")
        elif outcome == "fail":
            task.end("failed")
        elif outcome == "retry":
            self.try_again(task, code)
        else:
            task.status = "pending"
            task.max_attempts += 1
            task.story.append("released")
        return task.status

    def try_again(self, task: ModelTask, code: str) -> None:
        if code in ("instance_lost", "timeout"):
            task.counts[code] = task.counts.get(code, 0) + 1
        if task.attempt >= task.max_attempts or task.counts.get(code, 0) >= 2:
            task.end("failed")
            return
        task.avoid = (task.agent, self.now + AVOID)
        task.status = "pending"
        task.story.append("retrying")

    def retry_by_hand(self, task: ModelTask, attempts: int) -> None:
        task.status = "pending"
        task.max_attempts = task.attempt + attempts
        task.avoid, task.counts = ("", 0), {}
        task.story.append("queued")

    def sweep(self) -> dict[str, str]:
        """The tasks that were put back or failed."""
        last = self.now if self.last_sweep is None else self.last_sweep
        self.last_sweep = self.now
        running = self.of("running")
        if self.now - last > LEASE / 2:
            for task in running:
                task.lease_until = max(task.lease_until, self.now + GRACE)
            return {}
        expired = [task for task in running if task.lease_until <= self.now]
        for task in expired:
            self.try_again(task, "agent_lost")
        return {task.id: task.status for task in expired}
