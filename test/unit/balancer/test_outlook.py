"""The estimated start of a waiting task."""

from typing import Any

import pytest
from redis.exceptions import ResponseError

from comfy_balancer.outlook import DEFAULT_RUN, Outlook, estimate, told


def outlook(**changes: Any) -> Outlook:
    values: dict[str, Any] = {
        "ahead": 4, "owners": 1, "in_lane": 5, "waiting": 5, "servers": 1, "idle": 0, "run": 8.0, "load": 12.0,
    }  # fmt: skip
    return Outlook(**(values | changes))


def likely(able: int = 4, **changes: Any) -> float:
    found = estimate(outlook(**changes), able=able)
    assert found is not None
    assert 0 <= found.earliest <= found.likely <= found.latest
    return found.likely


def test_an_idle_agent_that_has_the_lane_takes_it_at_once() -> None:
    assert likely(ahead=0, in_lane=1, idle=1) == 0


def test_what_is_ahead_runs_one_after_the_other_on_the_one_agent_that_can_run_it() -> None:
    assert likely(able=1) == 4 * 8 + 4


def test_more_agents_that_have_the_lane_make_it_sooner() -> None:
    assert likely(servers=4) < likely(servers=2) < likely(servers=1, load=100.0)


def test_a_lane_that_nobody_has_in_memory_pays_for_the_load() -> None:
    assert likely(able=1, servers=0) == likely(able=1) + 12


def test_other_owners_take_turns() -> None:
    assert likely(able=1, owners=2, ahead=1, in_lane=9) == 2.5 * 8 + 4


def test_the_lane_gets_no_more_agents_than_its_share_of_the_queue() -> None:
    assert likely(in_lane=10, ahead=9, waiting=40) > likely(in_lane=10, ahead=9, waiting=10)


@pytest.mark.parametrize("changes", [{"able": 0}, {"ahead": None}])
def test_nothing_is_told_of_what_no_agent_can_run_or_has_just_begun(changes: dict[str, Any]) -> None:
    able = changes.pop("able", 4)
    assert estimate(outlook(**changes), able=able) is None


def test_replies_of_a_wrong_kind_are_nothing_known() -> None:
    broken = ResponseError("WRONGTYPE")
    assert told([broken] * 8) == outlook(ahead=None, in_lane=0, waiting=0, servers=0, run=DEFAULT_RUN, load=0.0)
    assert told([1, 2, 3, 4, {b"a", b"b"}, [b"a", b"c"], [b"8000", b"20000"], b"x"]) == Outlook(
        ahead=1, owners=2, in_lane=3, waiting=4, servers=2, idle=1, run=8.0, load=12.0
    )
    assert told([0, 0, 1, 1, set(), [b"a"], [b"nan", b"-1"], b"4000"]).run == 4.0
