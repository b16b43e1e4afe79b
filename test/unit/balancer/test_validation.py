"""Would an instance run all of a prompt: required inputs, links, types, limits."""

from typing import Any

import pytest

from comfy_balancer.validation import check_complete, check_nodes, placed
from comfy_shared.errors import FieldProblem, InvalidTask
from comfy_shared.needs import Offer, needs_of

INFO: dict[str, Any] = {
    "Make": {
        "input": {"required": {"size": ["INT", {"min": 1, "max": 64}]}, "optional": {"share": ["FLOAT", {"max": 1.0}]}},
        "output": ["IMAGE", "MASK"],
    },
    "Save": {"input": {"required": {"images": ["IMAGE"]}}, "output": [], "output_node": True},
    "Any": {"input": {"required": {"value": ["*"]}}, "output": [], "output_node": True},
}
OFFER = Offer(INFO)


def prompt(link: Any = ("1", 0), **inputs: Any) -> dict[str, Any]:
    return {
        "1": {"class_type": "Make", "inputs": {"size": 8, **inputs}},
        "2": {"class_type": "Save", "inputs": {"images": list(link)}},
    }


def test_a_sound_prompt_has_no_problems() -> None:
    assert check_nodes(prompt(), OFFER) == []
    assert check_nodes({**prompt(), "3": {"class_type": "Any", "inputs": {"value": ["1", 1]}}}, OFFER) == []


@pytest.mark.parametrize(
    ("broken", "field", "word"),
    [
        (prompt(size=65), "prompt.1.inputs.size", "at most 64"),
        (prompt(size="many"), "prompt.1.inputs.size", "integer"),
        (prompt(share=1.5), "prompt.1.inputs.share", "at most 1"),
        (prompt(("1", 1)), "prompt.2.inputs.images", "takes IMAGE"),
        (prompt(("1", 2)), "prompt.2.inputs.images", "which has 2"),
        ({"2": {"class_type": "Save", "inputs": {}}}, "prompt.2.inputs.images", "required by Save"),
    ],
)
def test_what_an_instance_would_refuse_is_named(broken: dict[str, Any], field: str, word: str) -> None:
    (problem,) = check_nodes(broken, OFFER)
    assert problem.field == field
    assert word in problem.message


def test_what_no_output_depends_on_is_not_looked_at() -> None:
    assert check_nodes({**prompt(), "9": {"class_type": "Make", "inputs": {}}}, OFFER) == []


def test_one_agent_that_would_run_it_is_enough() -> None:
    strict = Offer({**INFO, "Make": {**INFO["Make"], "input": {"required": {"size": ["INT", {"max": 4}]}}}})
    made = prompt()
    assert check_nodes(made, strict) != []
    assert check_complete(made, needs_of(made, [strict, OFFER]), [strict, OFFER]) == []


def test_a_problem_tells_the_node_even_when_its_id_holds_dots() -> None:
    error = InvalidTask((FieldProblem(field="prompt.1.5.inputs.size", message="x"),))
    (problem,) = placed(error, None, {"1": {}, "1.5": {}}).problems
    assert problem.node == "1.5"
