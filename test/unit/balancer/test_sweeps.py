"""Lists among the parameters become tasks; what is wrong is told with the list and the place in it."""

from typing import Any

import pytest

from comfy_balancer.schemas import TaskRequest
from comfy_balancer.sweeps import Expanded, expand, new_ids, weigh
from comfy_shared.errors import FieldProblem, InvalidTask


def sweep(*, limit: int = 100, mode: str = "product", **parameters: Any) -> Expanded:
    request = TaskRequest(workflow="w", parameters=parameters, sweep=mode)  # type: ignore[arg-type]  # a text here
    return expand([request], limit=limit, batch=False)


def values(expanded: Expanded) -> list[tuple[Any, ...]]:
    return [tuple(point.request.parameters.values()) for point in expanded.points]


def refused(**wishes: Any) -> FieldProblem:
    with pytest.raises(InvalidTask) as error:
        sweep(**wishes)
    (problem,) = error.value.problems
    return problem


def test_without_a_list_the_request_stays_as_it_is() -> None:
    expanded = sweep(a=1, b="x")
    assert values(expanded) == [(1, "x")]
    assert (expanded.axes, expanded.columns, expanded.points[0].seed) == ((), 0, None)


def test_a_product_has_every_combination_and_the_last_list_changes_fastest() -> None:
    expanded = sweep(a=[1, 2], b="x", c=["u", "v", "w"])
    assert values(expanded) == [(a, "x", c) for a in (1, 2) for c in "uvw"]
    assert (expanded.axes, expanded.columns) == (("a", "c"), 3)


def test_a_zip_takes_the_first_of_each_then_the_second() -> None:
    expanded = sweep(mode="zip", a=[1, 2], b=["u", "v"])
    assert values(expanded) == [(1, "u"), (2, "v")]
    assert (expanded.axes, expanded.columns) == (("a", "b"), 0)


def test_a_list_within_a_list_is_a_value() -> None:
    assert values(sweep(a=[[1, 2], 3])) == [([1, 2],), (3,)]


def test_one_seed_serves_the_whole_sweep_unless_a_list_leaves_seeds_open() -> None:
    assert len({point.draw_seed() for point in sweep(a=[1, 2, 3]).points}) == 1
    open_seeds = sweep(seed=[-1, -1, None, 7]).points
    assert len({point.draw_seed() for point in open_seeds}) == 4


def test_a_list_without_values_is_refused_by_name() -> None:
    assert refused(a=[]).field == "parameters.a"


def test_lists_of_a_zip_have_one_length() -> None:
    problem = refused(mode="zip", a=[1, 2], b=[1, 2, 3], c=[1, 2])
    assert (problem.field, "a 2, b 3, c 2" in problem.message) == ("parameters.b", True)


def test_a_sweep_is_counted_before_it_is_made() -> None:
    problem = refused(a=list(range(50_000)), b=list(range(40_000)), c=[1] * 100)
    assert (problem.field, problem.limits) == ("parameters.a", {"maximum": 100})
    assert "200000000000 tasks" in problem.message
    assert len(sweep(a=[1] * 10, b=[1] * 10).points) == 100


def test_in_a_batch_sweeps_and_single_tasks_add_up() -> None:
    one, many = TaskRequest(workflow="w"), TaskRequest(workflow="w", parameters={"a": [1, 2]})
    expanded = expand([one, many, one], limit=4, batch=True)
    assert [point.prefix for point in expanded.points] == ["tasks.0.", "tasks.1.", "tasks.1.", "tasks.2."]
    assert (expanded.axes, expanded.columns) == (("a",), 0)
    with pytest.raises(InvalidTask, match="at most 3"):
        expand([one, many, one], limit=3, batch=True)
    with pytest.raises(InvalidTask, match=r"tasks\.1\.parameters\.a"):
        expand([one, many], limit=2, batch=True)


def test_a_problem_names_the_value_of_the_list() -> None:
    (_, point) = expand([TaskRequest(workflow="w", parameters={"a": [1, 2]})], limit=9, batch=True).points
    told = point.told(
        [FieldProblem(field="parameters.a", message="x"), FieldProblem(field="parameters.b", message="x")]
    )
    assert [problem.field for problem in told] == ["tasks.0.parameters.a.1", "tasks.0.parameters.b"]


def test_texts_that_a_sweep_would_repeat_too_often_are_refused() -> None:
    points = sweep(text="x" * 1000, a=[1] * 10).points
    weigh(points, limit=10_000)
    with pytest.raises(InvalidTask, match=r"parameters\.text"):
        weigh(points, limit=9_999)
    weigh(sweep(text="x" * 1000).points, limit=10)


def test_ids_of_one_call_sort_in_its_order() -> None:
    ids = new_ids(1000)
    assert ids == sorted(ids)
    assert len(set(ids)) == 1000
