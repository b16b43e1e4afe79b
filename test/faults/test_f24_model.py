"""F24: the queue against a plain model, 10,000 random steps, equal after each. (`make test` and `make soak` search with
Hypothesis for short histories; these are long ones.)
"""

import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis.stateful import MultipleResults

from comfy_shared.models import Policy
from test.faults.conftest import ROWS, slow
from test.faults.oracle import Row
from test.model.test_queue_model import SERVES, QueueMachine, World
from test.support.builders import NEEDS_A, NEEDS_B
from test.support.redis_server import RedisServer

HISTORIES, STEPS = 50, 200
AGENTS = sorted(SERVES)
CODES = ["out_of_memory", "instance_lost", "timeout"]


class Walk:
    """One random history."""

    def __init__(self, world: World, seed: int) -> None:
        self.chance = random.Random(seed)
        self.machine: Any = QueueMachine(world)
        self.machine.both_agents_register(policy=self.chance.choice([*Policy]))
        self.tasks: list[str] = []
        self.tokens: list[Any] = []
        pick = self.chance.choice
        self.steps: list[tuple[int, Callable[[], object]]] = [
            (4, self.submit),
            (6, lambda: self.keep(self.machine.claim(agent=pick(AGENTS), again=pick([True, False])))),
            (2, lambda: self.keep(self.machine.latest_of(agent=pick(AGENTS)))),
            (4, lambda: self.machine.renew(agent=pick(AGENTS))),
            (2, lambda: self.tokens and self.machine.report(token=pick(self.tokens[-20:]))),
            (5, self.settle),
            (1, lambda: self.machine.both_agents_fail(code=pick(CODES))),
            (2, lambda: self.tasks and self.machine.cancel(task_id=pick(self.tasks), times=pick([1, 2]))),
            (1, lambda: self.tasks and self.machine.retry_by_hand(task_id=pick(self.tasks), attempts=pick([1, 2]))),
            (2, self.machine.sweep),
            (1, lambda: self.machine.time_passes(steps=pick([1, 2, 3]))),
            (2, lambda: self.machine.time_passes_under_sweeps(steps=pick([2, 3, 4]))),
            (1, lambda: self.machine.agent_dies_and_returns(agent=pick(AGENTS), adopts=pick([True, False]))),
        ]

    def keep(self, found: MultipleResults[Any] | object) -> None:
        self.tokens += found.values if isinstance(found, MultipleResults) else [found]

    def submit(self) -> None:
        pick = self.chance.choice
        new = self.machine.submit(
            needs=pick([NEEDS_A, NEEDS_B]),
            owner=pick(["ann", "bob"]),
            priority=pick([0, 5, 5, 9]),
            attempts=pick([1, 2, 3]),
            count=pick([1, 2]),
        )
        self.tasks += new.values

    def settle(self) -> None:
        if not self.tokens:
            return
        pick = self.chance.choice
        outcome = pick(["complete", "complete", "fail", "retry", "release"])
        self.machine.settle(token=pick(self.tokens[-20:]), outcome=outcome, code=pick(CODES), times=pick([1, 2]))

    def run(self) -> Counter[str]:
        """Steps, with the comparison after each; how many tasks there were by status."""
        weights = [weight for weight, _ in self.steps]
        for _ in range(STEPS):
            self.chance.choices([step for _, step in self.steps], weights)[0]()
            if self.machine.model.tasks:
                self.machine.redis_holds_what_the_model_says()
        ends = Counter(task.status for task in self.machine.model.tasks.values())
        self.machine.teardown()
        return ends


@slow
def test_the_queue_equals_its_model_after_each_of_ten_thousand_steps(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    server = RedisServer(tmp_path)
    world = World(server, tmp_path)
    ends: Counter[str] = Counter()
    try:
        for seed in range(HISTORIES):
            ends += Walk(world, seed).run()
    finally:
        world.close()
        server.stop()
    row = Row(
        name="F24",
        what=f"{HISTORIES * STEPS:,} random steps against the model; {ends['pending'] + ends['running']} not ended",
        accepted=ends.total(),
        completed=ends["completed"],
        failed=ends["failed"],
        canceled=ends["canceled"],
        lost=0,
        doubled=0,
    )
    request.config.stash.setdefault(ROWS, []).append(row)
