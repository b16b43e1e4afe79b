"""When an instance gets no more tasks: the breaker and the growth of memory, with plain values."""

from typing import Any

import pytest

from comfy_service.guards import LONGEST_PAUSE, Breaker, Growth
from comfy_service.instance.client import BadAnswer
from comfy_shared.errors import (
    DeviceFailed,
    InstanceLost,
    Interrupted,
    NodeFailed,
    OutOfMemory,
    PromptRejected,
    RunError,
    RunTimeout,
)

GIB = 1024**3


def opened(breaker: Breaker, *errors: RunError) -> list[bool]:
    return [breaker.failed(error) for error in errors]


def test_so_many_failures_in_a_row_open_it() -> None:
    breaker = Breaker(3, 15)
    assert opened(breaker, InstanceLost(), BadAnswer(), NodeFailed()) == [False, False, True]
    assert breaker.codes == {"instance_lost", "bad_answer", "node_failed"}


def test_a_success_in_between_counts_from_the_beginning() -> None:
    breaker = Breaker(2, 15)
    breaker.failed(InstanceLost())
    breaker.succeeded()
    assert opened(breaker, InstanceLost(), InstanceLost()) == [False, True]


def test_zero_switches_it_off() -> None:
    assert not any(opened(Breaker(0, 15), *[InstanceLost()] * 20))


@pytest.mark.parametrize("error", [PromptRejected(), Interrupted()])
def test_what_the_instance_did_as_it_should_is_no_failure(error: RunError) -> None:
    assert not any(opened(Breaker(1, 15), *[error] * 20))


@pytest.mark.parametrize("error", [NodeFailed(), OutOfMemory(), RunTimeout()])
def test_what_a_client_may_have_caused_is_looked_at_at_once_and_forgotten_when_all_is_well(error: RunError) -> None:
    breaker = Breaker(2, 15)
    assert opened(breaker, error, error) == [False, True]
    assert breaker.pause() == 0
    breaker.found_well()
    assert opened(breaker, error, error) == [False, True]
    assert breaker.pause() == 0


def test_an_instance_on_which_our_own_prompt_fails_too_is_left_alone_ever_longer() -> None:
    breaker = Breaker(1, 15)
    breaker.failed(NodeFailed())
    assert breaker.pause() == 0
    pauses = []
    for _ in range(12):
        breaker.found_unwell()
        pauses.append(breaker.pause())
    assert pauses[:4] == [15, 30, 60, 120]
    assert pauses[-1] == LONGEST_PAUSE


@pytest.mark.parametrize("error", [InstanceLost(), BadAnswer(), DeviceFailed()])
def test_half_open_the_very_next_failure_opens_it_again_for_longer(error: RunError) -> None:
    breaker = Breaker(3, 15)
    opened(breaker, error, error, error)
    assert breaker.pause() == 15
    breaker.found_well()
    assert opened(breaker, error) == [True]
    assert breaker.pause() == 30
    breaker.found_well()
    breaker.succeeded()
    assert opened(breaker, error, error, error) == [False, False, True]
    assert breaker.pause() == 15


def stats(used: int, total: int = 100 * GIB) -> dict[str, Any]:
    return {"system": {"ram_total": total, "ram_free": total - used}, "devices": []}


def test_growth_is_measured_from_the_least_that_was_ever_used() -> None:
    growth = Growth(0.5)
    assert [growth.beyond(stats(used * GIB)) for used in (40, 10, 60)] == ["", "", ""]
    assert "51 GiB" in growth.beyond(stats(61 * GIB))
    assert growth.beyond(stats(30 * GIB)) == ""


def test_no_limit_is_never_passed() -> None:
    growth = Growth(0)
    assert [growth.beyond(stats(used * GIB)) for used in (1, 99)] == ["", ""]


@pytest.mark.parametrize(
    "odd",
    [
        {},
        {"system": None},
        {"system": {}},
        {"system": {"ram_total": "much", "ram_free": 1}},
        {"system": {"ram_total": 0, "ram_free": 0}},
        {"system": {"ram_total": 5, "ram_free": None}},
    ],
)
def test_odd_figures_say_nothing(odd: dict[str, Any]) -> None:
    assert Growth(0.1).beyond(odd) == ""
