"""The verdict on one agent, for a person."""

from typing import Any

import pytest

from comfy_balancer.eligibility import Member
from comfy_balancer.explaining import Place, fit
from comfy_shared.models import Needs
from comfy_shared.needs import Offer
from comfy_shared.registry import Agent, Vitals
from test.support.builders import agent_record

MEMBER = Member(
    agent=Agent(record=agent_record("m"), vitals=Vitals(), alive=True, draining=False, seen_at=0, digest="d"),
    offer=Offer({"A": {}}),
)


def place(**changes: Any) -> Place:
    values: dict[str, Any] = {
        "ahead": 0,
        "ahead_in_lane": 0,
        "needs": Needs(classes=("A",)),
        "avoid": "",
        "avoid_ms": 0,
        "warm": frozenset(),
        "held": {},
    }
    return Place(**(values | changes))


@pytest.mark.parametrize(
    ("changes", "eligible", "reason"),
    [
        ({}, True, "can run it, and is idle"),
        ({"held": {"m": 2}}, True, "can run it, and is busy with 2 tasks"),
        ({"held": {"other": 2}}, True, "can run it, and is idle"),
        ({"needs": Needs(classes=("B",)), "held": {"m": 1}}, False, "lacks the node class 'B'"),
        (
            {"avoid": "m", "avoid_ms": 1001},
            False,
            "its attempt at the task ended badly: for 2 s more another agent goes first",
        ),
        ({"avoid": "m", "avoid_ms": 0}, True, "can run it, and is idle"),
        ({"avoid": "other", "avoid_ms": 1000}, True, "can run it, and is idle"),
    ],
)
def test_an_agent_is_told_with_its_reason(changes: dict[str, Any], eligible: bool, reason: str) -> None:
    told = fit(MEMBER, place(**changes), alone=False)
    assert (told.eligible, told.reason) == (eligible, reason)


def test_the_only_agent_is_never_avoided() -> None:
    assert fit(MEMBER, place(avoid="m", avoid_ms=1000), alone=True).eligible


def test_what_an_agent_has_in_memory_is_told() -> None:
    assert fit(MEMBER, place(warm=frozenset({"m"})), alone=False).in_memory
    assert not fit(MEMBER, place(warm=frozenset({"n"})), alone=False).in_memory
