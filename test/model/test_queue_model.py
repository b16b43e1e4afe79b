"""The real transitions against a plain Python model, in random histories; see invariants.md.

Hypothesis drives synchronous rules; an `asyncio.Runner` runs the queue under them. The clock is the one of Redis plus
an offset that the rules move in steps of 6 s: no limit (7.5 s, 10 s, 15 s) is near a multiple of that, so the real
milliseconds that pass do not matter. COMFY_SOAK_EXAMPLES=20000 makes the long run.
"""

import asyncio
import itertools
import os
from collections import Counter
from collections.abc import Coroutine, Iterator
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, cast

import pytest
import redis as redis_package
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
    run_state_machine_as_test,
)

from comfy_shared.claims import Attempt, Nothing
from comfy_shared.errors import Conflict, LeaseLost
from comfy_shared.keys import Keys
from comfy_shared.models import EventType, Policy, Status
from comfy_shared.queue import Queue
from comfy_shared.registry import Registry
from comfy_shared.settings import SharedSettings
from comfy_shared.store import connect
from test.model.model import Model, Outcome, Token
from test.support.agents import Hand
from test.support.builders import NEEDS_A, NEEDS_B, new_task, output, problem
from test.support.leaks import delete_namespace, leaked_keys
from test.support.redis_server import RedisServer
from test.support.settings import settings_for

T = TypeVar("T")
SOAK = int(os.environ.get("COMFY_SOAK_EXAMPLES", "0"))
EXAMPLES = SOAK or 500
STEPS = 30
STEP = 6.0  # seconds
SERVES = {"gpu-1": (NEEDS_A, NEEDS_B), "gpu-2": (NEEDS_A,)}
LANES = {NEEDS_A: new_task(NEEDS_A).lane, NEEDS_B: new_task(NEEDS_B).lane}
AGENTS = st.sampled_from(sorted(SERVES))
CODES = st.sampled_from(["out_of_memory", "instance_lost", "timeout"])
OWNERS = st.sampled_from(["ann", "bob"])
OUTCOMES: st.SearchStrategy[Outcome] = st.sampled_from(["complete", "fail", "retry", "release"])

_namespaces = itertools.count(1)


class World:
    """One Redis, one event loop and one plain client for all histories."""

    def __init__(self, server: RedisServer, folder: Path) -> None:
        self.runner = asyncio.Runner()
        self.server = server
        self.folder = folder
        self.client = connect(settings_for(server.port, "x", folder))
        self.plain = redis_package.Redis(port=server.port)

    def settings(self) -> SharedSettings:
        return settings_for(self.server.port, f"model-{next(_namespaces)}", self.folder)

    def close(self) -> None:
        self.runner.run(self.client.aclose())
        self.runner.close()
        self.plain.close()


class QueueMachine(RuleBasedStateMachine):
    """Each rule makes a call, tells the model the same and compares the answers."""

    tasks = Bundle("tasks")
    tokens = Bundle("tokens")

    def __init__(self, world: World) -> None:
        super().__init__()
        self.world = world
        settings = world.settings()
        self.keys = Keys(settings.redis_namespace)
        self.queue = Queue(world.client, self.keys, settings)
        self.registry = Registry(world.client, self.keys, heartbeat_ttl=10**6, retention=10**6)
        self.model = Model()
        self.attempts: dict[Token, Attempt] = {}
        self.known: dict[str, set[Token]] = {name: set() for name in SERVES}  # what each process believes to hold
        self.hands: dict[str, Hand] = {}
        self.highest: dict[str, int] = {}

    def run(self, call: Coroutine[Any, Any, T]) -> T:
        return self.world.runner.run(call)

    @initialize(policy=st.sampled_from([*Policy]))
    def both_agents_register(self, policy: Policy) -> None:
        self.policy = policy
        self.run(self.queue.set_policy(policy))
        for name in SERVES:
            self.new_process(name, 1)

    def new_process(self, name: str, number: int) -> None:
        hand = Hand(self.queue, self.registry, name, session=f"{name}-{number}", serves=SERVES[name])
        self.run(hand.register())
        self.hands[name] = hand

    @rule(
        target=tasks,
        needs=st.sampled_from([NEEDS_A, NEEDS_B]),
        owner=OWNERS,
        priority=st.sampled_from([0, 5, 5, 9]),
        attempts=st.integers(1, 3),
        count=st.integers(1, 2),
    )
    def submit(self, needs: Any, owner: str, priority: int, attempts: int, count: int) -> Any:
        new = [new_task(needs, owner=owner, priority=priority, max_attempts=attempts) for _ in range(count)]
        self.run(self.queue.submit(new, queue_limit=1000))
        for task in new:
            self.model.submit(task.id, task.lane, owner, priority, attempts)
        assert self.run(self.queue.submit(new, queue_limit=1000)).known, "repeated after a lost reply"
        return multiple(*(task.id for task in new))

    @rule(target=tokens, agent=AGENTS, again=st.booleans())
    def claim(self, agent: str, again: bool) -> Any:
        token = self.take(agent)
        if token is None:
            return multiple()
        if again:
            first = self.attempts[token]
            repeated = self.run(self.queue.claim(agent, token.session, prompt_id=first.task.prompt_id))
            assert isinstance(repeated, Attempt)
            assert (repeated.id, repeated.number) == (first.id, first.number)
        return token

    def take(self, agent: str) -> Token | None:
        hand = self.hands[agent]
        lanes = frozenset(LANES[needs] for needs in SERVES[agent])
        expected = self.model.next_for(agent, lanes)
        heads = self.model.heads_for(agent, lanes)
        reply = self.run(hand.claim())
        if expected is None and isinstance(reply, Nothing):
            return None
        if self.policy is not Policy.FIFO and isinstance(reply, Nothing):
            return None  # it waits for a warm agent, or for what is bound to it
        if self.policy is Policy.LANE:  # which of the heads is its own affair
            assert isinstance(reply, Attempt)
            expected = heads[reply.task.lane, reply.task.owner]
            assert expected.order[0] == min(head.order[0] for head in heads.values()), "the highest priority first"
        elif self.policy is not Policy.FIFO:
            assert isinstance(reply, Attempt)
            expected = self.model.tasks[reply.id]
            assert expected.status == "pending"
            assert expected.lane in lanes
        assert isinstance(reply, Attempt)
        assert expected is not None, "a task that this agent must not be given"
        token = self.model.claim(expected, agent, hand.session)
        assert (reply.id, reply.number) == (token.task, token.number)
        self.attempts[token] = reply
        self.known[agent].add(token)
        return token

    @rule(agent=AGENTS)
    def renew(self, agent: str) -> None:
        known = self.known[agent]
        latest = {token.task: token.number for token in sorted(known, key=lambda token: token.number)}
        session = self.hands[agent].session
        lost = self.run(self.queue.renew(session, latest))
        for task_id, number in latest.items():
            task = self.model.tasks[task_id]
            held = task.holds(Token(task_id, number, session))
            assert held == (task_id not in lost)
            if held:
                task.lease_until = self.model.now + 15
        self.known[agent] = {token for token in known if token.task not in lost}

    @rule(token=tokens)
    def report(self, token: Token) -> None:
        task = self.model.tasks[token.task]
        call = self.queue.report(self.attempts[token], EventType.PROGRESS, {"step": 1})
        if task.holds(token):
            self.run(call)
            task.story.append("progress")
        else:
            with pytest.raises(LeaseLost):
                self.run(call)

    @rule(token=tokens, outcome=OUTCOMES, code=CODES, times=st.integers(1, 2))
    def settle(self, token: Token, outcome: Outcome, code: str, times: int) -> None:
        for _ in range(times):
            expected = self.model.settle(token, outcome, code)
            attempt = self.attempts[token]
            calls: dict[Outcome, Any] = {
                "complete": lambda attempt=attempt: self.queue.complete(attempt, [output()]),
                "fail": lambda attempt=attempt: self.queue.fail(attempt, problem(code)),
                "retry": lambda attempt=attempt: self.queue.try_again(attempt, problem(code)),
                "release": lambda attempt=attempt: self.queue.release(attempt, "test"),
            }
            if expected == "stale":
                with pytest.raises(LeaseLost):
                    self.run(calls[outcome]())
            else:
                status = self.run(calls[outcome]())
                assert status in (None, Status(expected))

    @rule(code=CODES)
    def both_agents_fail(self, code: str) -> None:
        """Each tries what comes next, most often the same task: two instances lost, two timeouts."""
        for agent in SERVES:
            token = self.take(agent)
            if token:
                self.settle(token, "retry", code, 1)

    @rule(task_id=tasks, times=st.integers(1, 2))
    def cancel(self, task_id: str, times: int) -> None:
        task = self.model.tasks[task_id]
        for _ in range(times):
            if task.status in ("completed", "failed"):
                with pytest.raises(Conflict):
                    self.run(self.queue.cancel(task_id))
                continue
            self.run(self.queue.cancel(task_id))
            if task.status != "canceled":
                task.end("canceled")

    @rule(task_id=tasks, attempts=st.integers(1, 2))
    def retry_by_hand(self, task_id: str, attempts: int) -> None:
        task = self.model.tasks[task_id]
        needs = next(needs for needs, lane in LANES.items() if lane == task.lane)
        record = self.run(self.queue.get(task_id))
        call = self.queue.retry(record, needs, attempts=attempts, queue_limit=1000)
        if task.status in ("failed", "canceled"):
            self.run(call)
            self.model.retry_by_hand(task, attempts)
        else:
            with pytest.raises(Conflict):
                self.run(call)

    @rule()
    def sweep(self) -> None:
        swept = self.run(self.queue.sweep())
        assert {name: status.value for name, status in swept.statuses.items()} == self.model.sweep()
        ends = [task.lease_until for task in self.model.of("running")]
        assert (swept.next_lease is None) == (not ends)

    @rule(steps=st.integers(1, 3))
    def time_passes(self, steps: int) -> None:
        self.world.plain.incrby(self.keys.clock, round(steps * STEP * 1000))
        self.model.now += steps * STEP

    @rule(steps=st.integers(2, 4))
    def time_passes_under_sweeps(self, steps: int) -> None:
        """What living balancers do: no grace, leases run out."""
        for _ in range(steps):
            self.time_passes(1)
            self.sweep()

    @rule(agent=AGENTS, adopts=st.booleans())
    def agent_dies_and_returns(self, agent: str, adopts: bool) -> None:
        """A new process, which knows of no attempt and may adopt what the record says it held."""
        hand = self.hands[agent]
        self.new_process(agent, int(hand.session.rsplit("-", 1)[1]) + 1)
        older, self.known[agent] = self.known[agent], set()
        if not adopts:
            return
        self.adopt(agent)
        for token in sorted(
            older, key=lambda token: (token.task, token.number)
        ):  # the older process is not dead after all, but fenced off
            assert self.run(self.queue.renew(token.session, {token.task: token.number})) == {token.task}
            self.report(token)
            self.settle(token, "complete", "", 1)

    def adopt(self, agent: str) -> None:
        session = self.hands[agent].session
        for task_id in self.run(self.queue.held(agent)):
            task = self.model.tasks[task_id]
            assert (task.status, task.agent) == ("running", agent)
            adopted = self.run(self.queue.adopt(agent, session, task_id))
            assert isinstance(adopted, Attempt)
            token = Token(task_id, task.attempt, session)
            assert adopted.number == token.number
            task.session, task.lease_until = session, self.model.now + 15
            task.story.append("adopted")
            self.attempts[token] = adopted
            self.known[agent].add(token)

    @rule(target=tokens, agent=AGENTS)
    def latest_of(self, agent: str) -> Any:
        """So that adopted attempts settle too."""
        return multiple(*sorted(self.known[agent], key=lambda token: (token.task, token.number)))

    @precondition(lambda self: self.model.tasks)
    @invariant()
    def redis_holds_what_the_model_says(self) -> None:
        """Invariants 1, 2, 4, 5, 6, 7, 8 and 11, in one round trip."""
        tasks = self.model.tasks
        pipeline = self.world.plain.pipeline(transaction=False)
        for name in (self.keys.queue, self.keys.leases, self.keys.finished):
            pipeline.zrange(name, 0, -1)
        for lane in LANES.values():
            pipeline.zrange(self.keys.lane_prefix + lane, 0, -1)
            pipeline.hgetall(self.keys.owners_prefix + lane)
            for owner in ("ann", "bob"):
                pipeline.zrange(f"{self.keys.turn_prefix}{lane}:{owner}", 0, -1)
        pipeline.hgetall(self.keys.waiting)
        pipeline.hgetall(self.keys.working)
        for agent in SERVES:
            pipeline.hvals(self.keys.held(agent))
        for task_id in tasks:
            pipeline.hmget(self.keys.task(task_id), "status", "attempt", "max_attempts", "events")
            pipeline.lrange(self.keys.story(task_id), 0, -1)
            pipeline.pttl(self.keys.task(task_id))
            pipeline.pttl(self.keys.story(task_id))
        replies = iter(pipeline.execute())
        pending, running = self.model.of("pending"), self.model.of("running")
        assert _names(next(replies)) == [task.id for task in pending]
        assert set(_names(next(replies))) == {task.id for task in running}
        ended = {task.id for task in tasks.values() if task not in pending and task not in running}
        assert set(_names(next(replies))) == ended
        for lane in LANES.values():
            in_lane = [task for task in pending if task.lane == lane]
            assert _names(next(replies)) == [task.id for task in in_lane]
            assert _counts(next(replies)) == Counter(task.owner for task in in_lane)
            for owner in ("ann", "bob"):
                assert _names(next(replies)) == [task.id for task in in_lane if task.owner == owner]
        assert _counts(next(replies)) == Counter(task.owner for task in pending)
        assert _counts(next(replies)) == Counter(task.owner for task in running)
        for agent in SERVES:
            assert set(_names(next(replies))) == {task.id for task in running if task.agent == agent}
        for task in tasks.values():
            status, attempt, most, events = next(replies)
            assert (status.decode(), int(attempt), int(most)) == (task.status, task.attempt, task.max_attempts)
            assert int(attempt) >= self.highest.get(task.id, 0)
            self.highest[task.id] = int(attempt)
            story = next(replies)
            assert [int(line.split()[0]) for line in story] == list(range(1, int(events) + 1))
            assert [line.split()[1].decode() for line in story] == task.story
            lifetimes = (next(replies), next(replies))
            assert all((lifetime == -1) == (task.status in ("pending", "running")) for lifetime in lifetimes)

    def teardown(self) -> None:
        leaked = leaked_keys(self.world.plain, self.keys)
        delete_namespace(self.world.plain, self.keys)
        assert leaked == []


def _counts(raw: Any) -> dict[str, int]:
    return {owner.decode(): int(number) for owner, number in raw.items()}


def _names(raw: Any) -> list[str]:
    return [cast("bytes", name).decode() for name in raw]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    folder = tmp_path / "redis"
    folder.mkdir()
    server = RedisServer(folder)
    world = World(server, tmp_path)
    yield world
    world.close()
    server.stop()


@pytest.mark.timeout(0 if SOAK else 120)
def test_the_queue_agrees_with_its_model_in_random_histories(world: World) -> None:
    """500 histories of up to 30 steps; equal every time, so that a failure is a change of ours."""
    phases = (Phase.explicit, Phase.generate, Phase.shrink)
    run_state_machine_as_test(
        cast("Any", partial(QueueMachine, world)),
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=STEPS,
            deadline=None,
            derandomize=not SOAK,
            database=None,
            phases=phases,
            suppress_health_check=list(HealthCheck),
        ),
    )
