"""A graph that becomes a workflow is sound as a whole, not in one of its outputs only."""

import json
import time
from pathlib import Path
from typing import Any

import pytest

from comfy_shared.workflows.soundness import MOST_PROBLEMS, check_sound, find_circle

OBJECT_INFO = json.loads((Path(__file__).parents[2] / "fixtures" / "conversion" / "object_info.json").read_text())


def node(class_type: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": class_type, "inputs": inputs}


GOOD: dict[str, Any] = {
    "1": node("LoadImage", image="in.png"),
    "2": node("SaveImage", images=["1", 0], filename_prefix="x"),
}


def fields(prompt: object) -> list[str]:
    return [problem.field for problem in check_sound(prompt, OBJECT_INFO)]


def test_a_sound_graph_has_no_problem() -> None:
    assert check_sound(GOOD, OBJECT_INFO) == []


@pytest.mark.parametrize(
    ("more", "field", "message"),
    [
        ({"3": node("SaveImage", filename_prefix="y")}, "prompt.3.inputs.images", "SaveImage needs this input"),
        ({"3": node("SaveGone", images=["1", 0])}, "prompt.3.class_type", "object info has no class 'SaveGone'"),
        (
            {"3": node("SaveImage", images=["1", 7], filename_prefix="y")},
            "prompt.3.inputs.images",
            "is linked to output 7 of node 1, which has 2",
        ),
        (
            {"3": node("SaveImage", images=["1", 1], filename_prefix="y")},
            "prompt.3.inputs.images",
            "takes IMAGE, but output 1 of node 1 is MASK",
        ),
        (
            {"3": node("SaveImage", images=["4", 0], filename_prefix="y"), "4": node("Decode", samples=["5", 0])}
            | {"5": node("Empty", width=8, height=8, batch_size=1)},
            "prompt.4.inputs.vae",
            "Decode needs this input",
        ),
    ],
)
def test_one_good_and_one_bad_output_are_refused(more: dict[str, Any], field: str, message: str) -> None:
    """ComfyUI itself would run the good one and say nothing."""
    problems = check_sound(GOOD | more, OBJECT_INFO)
    assert [(problem.field, problem.message) for problem in problems] == [(field, message)]


def test_a_node_that_leads_to_no_output_may_be_incomplete() -> None:
    """ComfyUI never looks at it."""
    assert fields(GOOD | {"9": node("Decode")}) == []


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ([], "must be an object"),
        ({}, "has no nodes"),
        ({"nodes": []}, "this is the editor's graph"),
        ({"1": node("LoadImage", image="in.png")}, "has no node that makes an output"),
        ({"1": node("SaveImage", images=["5", 0])}, "linked to node 5, which does not exist"),
        ({str(number): node("Const", value=1) for number in range(100_000)}, "more than 10000 nodes"),
    ],
)
def test_what_is_no_whole_graph_is_refused(prompt: object, message: str) -> None:
    started = time.monotonic()
    problems = check_sound(prompt, OBJECT_INFO)
    assert len(problems) == 1
    assert message in problems[0].message
    assert time.monotonic() - started < 5


def test_a_circle_is_refused_and_names_a_node_on_it() -> None:
    circle = {"1": node("Any", in1=["2", 0], in2=["2", 0]), "2": node("Any", in1=["1", 0], in2=["1", 0])}
    assert fields(GOOD | {"7": circle["1"] | {"inputs": {"in1": ["7", 0]}}}) == ["prompt.7"]
    assert find_circle(circle) == "1"


def test_a_long_chain_is_no_circle_and_costs_no_stack() -> None:
    chain = {str(n): node("Any", in1=[str(n - 1), 0], in2=[str(n - 1), 0]) for n in range(1, 9000)}
    assert find_circle(chain | {"0": node("Const", value=1)}) is None


def test_at_most_so_many_problems_are_told() -> None:
    bad = {str(number): node("SaveImage") for number in range(200)}
    assert len(check_sound(bad, OBJECT_INFO)) == MOST_PROBLEMS
