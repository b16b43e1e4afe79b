"""A workflow's own operation: fields, types, limits, lists; and form texts by type."""

import json
from pathlib import Path
from typing import Any

import pytest

from comfy_balancer.document import GENERAL, encode
from comfy_balancer.typed_routes import operation, schema, values_of
from comfy_shared.errors import InvalidTask
from comfy_shared.workflows import Workflow, load_workflow, make_from_request

WORKFLOWS = Path(__file__).parents[3] / "workflows"
GRAPH: dict[str, Any] = {
    "1": {"class_type": "X", "inputs": {"t": "a", "i": 8, "n": 0.5, "b": True, "c": "x", "s": 7, "f": "a.png", "m": 1}}
}
PARAMETERS = {
    "text": {"type": "text", "node_id": "1", "input_name": "t", "max_length": 9},
    "count": {"type": "integer", "node_id": "1", "input_name": "i", "minimum": 8, "maximum": 64, "step": 8},
    "amount": {"type": "number", "node_id": "1", "input_name": "n", "step": 0.1},
    "on": {"type": "boolean", "node_id": "1", "input_name": "b"},
    "kind": {"type": "choice", "node_id": "1", "input_name": "c", "choices": ["x", "y"]},
    "level": {"type": "choice", "node_id": "1", "input_name": "m", "choices": [1, 2]},
    "seed": {"type": "seed", "node_id": "1", "input_name": "s"},
    "image": {"type": "image", "node_id": "1", "input_name": "f"},
}


@pytest.fixture
def workflow() -> Workflow:
    return make_from_request("one", GRAPH, None, PARAMETERS)


def test_a_number_keeps_its_limits_and_may_be_a_list(workflow: Workflow) -> None:
    count = schema(workflow, form=False)["properties"]["count"]
    assert count["type"] == ["integer", "array"]
    assert (count["minimum"], count["maximum"], count["multipleOf"], count["default"]) == (8, 64, 8, 8)
    assert count["items"] == {"type": "integer", "minimum": 8, "maximum": 64, "multipleOf": 8}


def test_a_choice_is_one_of_them_or_a_list_of_such(workflow: Workflow) -> None:
    kind = schema(workflow, form=False)["properties"]["kind"]
    one, many = kind["anyOf"]
    assert one == {"type": "string", "enum": ["x", "y"]}
    assert many["items"] == one
    assert kind["default"] == "x"


def test_a_form_has_single_values_and_takes_files(workflow: Workflow) -> None:
    fields = schema(workflow, form=True)["properties"]
    assert fields["count"]["type"] == "integer"
    assert fields["kind"]["enum"] == ["x", "y"]
    assert (fields["image"]["type"], fields["image"]["format"]) == ("string", "binary")
    assert "task:ID/NAME" in fields["image"]["description"]


def test_a_file_as_json_tells_all_kinds_of_references(workflow: Workflow) -> None:
    image = schema(workflow, form=False)["properties"]["image"]
    assert all(word in image["description"] for word in ("sha256", "task:ID/NAME", "data URL", "http(s) URL"))


def test_a_seed_is_an_integer_from_minus_one(workflow: Workflow) -> None:
    seed = schema(workflow, form=True)["properties"]["seed"]
    assert (seed["type"], seed["minimum"], seed["default"]) == ("integer", -1, -1)


def test_no_other_field_is_taken(workflow: Workflow) -> None:
    assert schema(workflow, form=False)["additionalProperties"] is False


def test_texts_of_a_form_become_values_by_type(workflow: Workflow) -> None:
    texts = {"text": "", "count": "16", "amount": "0.3", "on": "off", "kind": "y", "level": "2", "seed": "-1"}
    assert values_of(workflow, texts) == {
        "text": "",
        "count": 16,
        "amount": 0.3,
        "on": False,
        "kind": "y",
        "level": 2,
        "seed": -1,
    }
    assert values_of(workflow, {"count": " ", "image": "task:x/y", "other": "z"}) == {"image": "task:x/y", "other": "z"}


@pytest.mark.parametrize(("name", "text"), [("count", "many"), ("on", "perhaps"), ("amount", "9" * 500)])
def test_a_text_of_another_type_is_refused(workflow: Workflow, name: str, text: str) -> None:
    with pytest.raises(InvalidTask) as raised:
        values_of(workflow, {name: text})
    assert [problem.field for problem in raised.value.problems] == [f"parameters.{name}"]


GENERIC: dict[str, Any] = {
    "operationId": "x",
    "parameters": [{"in": "path", "name": "name"}, {"in": "query", "name": "wait"}],
    "responses": {},
}


def test_an_operation_has_its_own_name_and_no_path_parameter(workflow: Workflow) -> None:
    described, schemas = operation(workflow, 3, GENERIC)
    assert described["operationId"] == "run_one"
    assert [one["name"] for one in described["parameters"]] == ["wait"]
    assert "Version 3" in described["description"]
    assert set(schemas) == {"Run-one", "Form-one"}
    assert GENERIC["operationId"] == "x", "what all share is not touched"


def test_the_document_has_a_route_for_each_workflow_in_place_of_the_general_one() -> None:
    base: dict[str, Any] = {"paths": {GENERAL: {"post": GENERIC}}, "components": {"schemas": {"A": {}}}}
    shipped = [(load_workflow(WORKFLOWS, name), 1) for name in ("first-workflow", "smoke")]
    document = json.loads(encode(base, shipped))
    assert list(document["paths"]) == [GENERAL.replace("{name}", name) for name in ("first-workflow", "smoke")]
    assert "Run-smoke" in document["components"]["schemas"]
    assert GENERAL in base["paths"]
