"""An OpenAI call → parameters of a workflow."""

import json
from pathlib import Path
from typing import Any

import pytest

from comfy_balancer.openai_api.mapping import parameters_of, places_of, told
from comfy_balancer.openai_api.requests import ImageRequest, from_json
from comfy_shared.errors import FieldProblem, InvalidTask
from comfy_shared.workflows import Workflow, WorkflowError, load_workflow, to_json
from comfy_shared.workflows import from_json as workflow_from_json
from test.integration.balancer_support import BalancerFixed

WORKFLOWS = Path(__file__).parents[3] / "workflows"
GRAPH = {"1": {"class_type": "X", "inputs": {"a": "t", "b": 1, "c": 2, "d": 3, "e": "f"}}}


def workflow(folder: Path, yaml: str) -> Workflow:
    (folder / "w-api.json").write_text(json.dumps(GRAPH))
    (folder / "w.yaml").write_text(yaml)
    return load_workflow(folder, "w")


def call(**fields: Any) -> ImageRequest:
    return from_json(json.dumps({"model": "first-workflow", "prompt": "p"} | fields).encode(), BalancerFixed())


def mapped(made: Workflow, **fields: Any) -> list[dict[str, Any]]:
    return parameters_of(made, places_of(made), call(**fields))


def test_the_usual_names_are_found() -> None:
    first = load_workflow(WORKFLOWS, "first-workflow")
    assert mapped(first, size="512x768", seed=3, n=2) == [
        {"text": "p", "width": 512, "height": 768, "seed": 3},
        {"text": "p", "width": 512, "height": 768, "seed": 4},
    ]
    assert mapped(first, size="auto", quality="high", user="u", style=None, seed=-1) == [{"text": "p", "seed": -1}]


def test_a_model_without_a_text_takes_any_prompt(tmp_path: Path) -> None:
    assert mapped(load_workflow(WORKFLOWS, "smoke"), seed=9) == [{"color": 9}]
    two = "parameters: {x: {node_id: '1', input_name: a, type: text}, y: {node_id: '1', input_name: e, type: text}}"
    assert mapped(workflow(tmp_path, two)) == [{}]
    one = "parameters: {x: {node_id: '1', input_name: a, type: text}}"
    assert mapped(workflow(tmp_path, one)) == [{"x": "p"}]


def test_the_workflows_own_section_goes_before_the_names(tmp_path: Path) -> None:
    yaml = """
parameters:
  text: {node_id: "1", input_name: a, type: text}
  other: {node_id: "1", input_name: e, type: text}
  steps: {node_id: "1", input_name: b, type: integer}
openai: {prompt: other, quality: {parameter: steps, values: {low: 1, high: 9}}}
"""
    made = workflow(tmp_path, yaml)
    assert mapped(made, quality="high") == [{"other": "p", "steps": 9}]
    assert workflow_from_json(to_json(made)) == made
    with pytest.raises(InvalidTask, match="quality"):
        mapped(made, quality="medium")


@pytest.mark.parametrize("section", ["{prompt: nope}", "{images: [nope]}", "{nope: text}", "{prompt: 5}", "[]"])
def test_a_section_that_names_nothing_is_refused_when_it_is_loaded(tmp_path: Path, section: str) -> None:
    yaml = f"parameters: {{text: {{node_id: '1', input_name: a, type: text}}}}\nopenai: {section}"
    with pytest.raises(WorkflowError):
        workflow(tmp_path, yaml)


def test_a_workflow_without_the_section_is_stored_as_before_there_was_one() -> None:
    assert b"openai" not in to_json(load_workflow(WORKFLOWS, "smoke"))


@pytest.mark.parametrize(
    ("fields", "field"),
    [({"steps": 1, "stepz": 1}, "stepz"), ({"text": "again"}, "text"), ({"width": 8, "size": "8x8"}, "width")],
)
def test_what_has_no_place_is_named(fields: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidTask) as refused:
        mapped(load_workflow(WORKFLOWS, "first-workflow"), **fields)
    assert refused.value.problems[0].field == field


def test_a_problem_of_a_parameter_is_told_as_the_field_that_set_it() -> None:
    places = places_of(load_workflow(WORKFLOWS, "first-workflow"))
    problems = tuple(
        FieldProblem(field=f"tasks.{number}.{field}", message="m")
        for number in (0, 1)
        for field in ("parameters.width", "parameters.text", "parameters.steps")
    )
    assert [problem.field for problem in told(InvalidTask(problems), places).problems] == ["size", "prompt", "steps"]


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"n": 0}, "n"), ({"n": True}, "n"), ({"n": 1.5}, "n"), ({"n": "2"}, "n"),
        ({"size": "1x"}, "size"), ({"size": "x"}, "size"), ({"size": "-1x5"}, "size"), ({"size": 5}, "size"),
        ({"size": "\uff19x9"}, "size"), ({"stream": "yes"}, "stream"), ({"partial_images": 1}, "partial_images"),
        ({"stream": True, "partial_images": 4}, "partial_images"), ({"output_compression": 101}, "output_compression"),
        ({"stream": True, "response_format": "url"}, "response_format"), ({"response_format": "x"}, "response_format"),
        ({"output_format": "png", "response_format": "url"}, "output_format"), ({"output_format": []}, "output_format"),
        ({"model": None}, "model"), ({"model": ""}, "model"), ({"prompt": None}, "prompt"), ({"quality": 1}, "quality"),
        ({"background": []}, "background"),
    ],
)  # fmt: skip
def test_a_field_that_does_not_fit_is_named(fields: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidTask) as refused:
        call(**fields)
    assert refused.value.problems[0].field == field
