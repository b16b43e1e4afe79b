"""What is published becomes a checked workflow, whatever form its graph has."""

from typing import Any

import pytest

from comfy_balancer.authoring import author, graphs_in, graphs_in_picture
from comfy_balancer.eligibility import Member
from comfy_balancer.workflow_schemas import WorkflowRequest
from comfy_shared.errors import FieldProblem, InvalidTask
from comfy_shared.needs import Offer
from comfy_shared.registry import Agent, Vitals
from comfy_shared.workflows import Workflow
from test.support.builders import agent_record

MODELS = {"Load": {"input": {"required": {"name": [["a.safetensors"], {}]}}, "output": ["MODEL"]}}
SAVE = {"Save": {"input": {"required": {"model": ["MODEL"]}}, "output": [], "output_node": True}}
EDITOR: dict[str, Any] = {
    "nodes": [
        {
            "id": 1,
            "type": "Load",
            "outputs": [{"name": "MODEL", "type": "MODEL", "links": [1]}],
            "widgets_values": ["a.safetensors"],
        },
        {"id": 2, "type": "Save", "inputs": [{"name": "model", "type": "MODEL", "link": 1}]},
    ],
    "links": [[1, 1, 0, 2, 0, "MODEL"]],
    "version": 0.4,
}


def member(name: str, info: dict[str, Any], *, alive: bool = True) -> Member:
    agent = Agent(record=agent_record(name), vitals=Vitals(), alive=alive, draining=False, seen_at=0, digest=name)
    return Member(agent=agent, offer=Offer(info))


def write(graph: dict[str, Any], *members: Member, limit: int = 100, **more: Any) -> tuple[Workflow, list[str]]:
    request = WorkflowRequest(name="one", graph=graph, **more)
    return author(request, graphs_in(graph), members, node_limit=limit)


def refused(graph: dict[str, Any], *members: Member, **more: Any) -> FieldProblem:
    with pytest.raises(InvalidTask) as raised:
        write(graph, *members, **more)
    return raised.value.problems[0]


def test_classes_and_choices_of_all_agents_count() -> None:
    """No single agent has both classes; the second has another model."""
    other = {"Load": {**MODELS["Load"], "input": {"required": {"name": [["b.safetensors"], {}]}}}}
    workflow, warnings = write(EDITOR, member("a", MODELS), member("b", other | SAVE))
    (parameter,) = workflow.parameters
    assert parameter.choices == ("a.safetensors", "b.safetensors")
    assert workflow.prompt["2"]["inputs"] == {"model": ["1", 0]}
    assert warnings, "no single agent could run it"


def test_an_agent_that_is_gone_counts_only_when_none_lives() -> None:
    gone = member("a", MODELS | SAVE, alive=False)
    assert write(EDITOR, gone)[0].prompt["1"]["class_type"] == "Load"
    problem = refused(EDITOR, gone, member("b", SAVE))
    assert (problem.field, problem.node) == ("graph.1", "1")
    assert "Load" in problem.message


def test_an_editor_graph_needs_an_agent() -> None:
    assert "object info" in refused(EDITOR).message


def test_a_value_that_no_instance_takes_is_refused_although_a_parameter_may_replace_it() -> None:
    info = {
        "Make": {"input": {"required": {"width": ["INT", {"min": 1, "max": 64}]}}, "output": [], "output_node": True}
    }
    problem = refused({"1": {"class_type": "Make", "inputs": {"width": 65}}}, member("a", info))
    assert (problem.field, problem.node, problem.limits) == (
        "graph.1.inputs.width",
        "1",
        {"minimum": 1, "maximum": 64},
    )
    given = {"width": {"node_id": "1", "input_name": "width", "type": "integer", "default_value": 8}}
    workflow, _ = write({"1": {"class_type": "Make", "inputs": {"width": 65}}}, member("a", info), parameters=given)
    assert workflow.parameters[0].default == 8


def test_too_many_nodes_are_refused_in_either_format() -> None:
    everything = member("a", MODELS | SAVE)
    prompt = write(EDITOR, everything)[0].prompt
    for graph in (EDITOR, prompt):
        problem = refused(graph, everything, limit=1)
        assert problem.limits == {"maximum": 1}
        assert problem.workflow == "one"


def test_a_parameter_that_does_not_fit_is_named_with_its_key() -> None:
    parameters = {"model": {"type": "integer", "node_id": "2", "input_name": "model"}}
    problem = refused(EDITOR, member("a", MODELS | SAVE), parameters=parameters)
    assert problem.parameter == "model"
    assert problem.field.startswith("parameters.model")


def test_the_line_of_a_parameter_file_is_told() -> None:
    text = "parameters:\n  model:\n    type: nothing\n"
    problem = refused(EDITOR, member("a", MODELS | SAVE), parameters=text)
    assert problem.field == "parameters"
    assert "line 3" in problem.message


@pytest.mark.parametrize("data", [b"", b"\x89PNG\r\n\x1a\n", b"RIFF\0\0\0\0WEBP", b"GIF89a"])
def test_a_picture_without_a_graph_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidTask) as raised:
        graphs_in_picture(data, "graph")
    assert raised.value.problems[0].field == "graph"
