"""A workflow → its own operation in the OpenAPI document, with its parameters as fields. Pure functions.

The body is the parameters themselves: as JSON, where a list of values is a sweep, or as a form, whose text parts are
converted by type and which takes files. What both describe `render` judges; where a generator or validator stumbles
over what JSON Schema could say (a seed that is -1, a fraction that is a multiple of 0.1), it is said in the
description.
"""

import copy
from collections.abc import Mapping
from typing import Any

from comfy_shared.errors import FieldProblem, InvalidTask
from comfy_shared.workflows import Parameter, ParameterType, Workflow, json_schema
from comfy_shared.workflows.checks import DRAW

Schema = dict[str, Any]

REF = "#/components/schemas/"
TAG = "Run a workflow"
REFERENCE = (
    "The sha256 of an upload, task:ID/NAME (an output of a completed task), a data URL, or an http(s) URL that is "
    "fetched."
)
REFERENCES = ["task:01m83n8xxt1me7canaqndb59s4/smoke_00001_.png", "https://example.com/picture.png"]
FILE = f"A file part; or a text part with a reference. {REFERENCE}"
SWEEP = "A list makes a sweep."
_NUMBERS = (ParameterType.INTEGER, ParameterType.SEED, ParameterType.NUMBER)
_AROUND = ("default", "examples", "x-type", "x-order", "x-group")  # said of a value and a list of them alike
_TRUE, _FALSE = ("true", "1", "on", "yes"), ("false", "0", "off", "no")
LONGEST_NUMBER = 400  # characters


def operation(workflow: Workflow, number: int, general: Mapping[str, Any]) -> tuple[Schema, dict[str, Schema]]:
    """The operation of a workflow's route, and the schemas that it refers to. `general` is that of the route which
    takes any name."""
    described = copy.deepcopy(dict(general))
    described["operationId"] = f"run_{workflow.name}"
    described["tags"] = [TAG]
    described["summary"] = f"Run {workflow.title}"
    described["description"] = f"{workflow.description}\n\nVersion {number} of `{workflow.name}`.".strip()
    described["parameters"] = [one for one in described["parameters"] if one["in"] != "path"]
    body, form = f"Run-{workflow.name}", f"Form-{workflow.name}"
    described["requestBody"] = {
        "required": True,
        "content": {
            "multipart/form-data": {"schema": {"$ref": REF + form}},
            "application/json": {"schema": {"$ref": REF + body}},
        },
    }
    return described, {body: schema(workflow, form=False), form: schema(workflow, form=True)}


def schema(workflow: Workflow, *, form: bool) -> Schema:
    """The body of the route: its fields are the parameters."""
    made = json_schema(workflow)
    described: Schema = {
        "type": "object",
        "description": f"Parameters of {workflow.title}.",
        "properties": {
            parameter.name: _property(parameter, made["properties"][parameter.name], form=form)
            for parameter in workflow.parameters
        },
        "additionalProperties": False,
    }
    if made["required"]:
        described["required"] = made["required"]
    return described


def _property(parameter: Parameter, made: Schema, *, form: bool) -> Schema:
    told = [parameter.description]
    described = {name: value for name, value in made.items() if name not in ("description", "anyOf")}
    if parameter.type is ParameterType.SEED:
        fixed = made["anyOf"][0]
        described |= {"type": "integer", "minimum": DRAW, "maximum": fixed["maximum"]}
        told.append(f"{DRAW}: one is drawn" + (f"; else at least {fixed['minimum']}." if fixed["minimum"] else "."))
    elif parameter.type is ParameterType.CHOICE:
        described |= _kind_of(parameter.choices)
    elif parameter.type is ParameterType.NUMBER and "multipleOf" in described:
        told.append(f"A multiple of {described.pop('multipleOf')}.")
    elif parameter.type.is_file and form:
        described = {"type": "string", "format": "binary"}
        told.append(FILE)
    elif parameter.type.is_file:
        told.append(REFERENCE)
        described["examples"] = REFERENCES
    if "default" in described:
        described["examples"] = [described["default"]]
    if not form:
        described = _or_list(described)
        told.append(SWEEP)
    text = " ".join(part for part in told if part)
    return ({"description": text} if text else {}) | described


def _or_list(one: Schema) -> Schema:
    """One value, or a list of such. The limits of numbers and texts say nothing about a list, so they can stay where
    a reader looks for them; choices would."""
    around = {name: value for name, value in one.items() if name in _AROUND}
    value = {name: value for name, value in one.items() if name not in _AROUND}
    items: Schema = {"type": "array", "items": value, "minItems": 1}
    if "enum" in value or "type" not in value:
        return around | {"anyOf": [value, items]}
    return around | value | {"type": [value["type"], "array"], "items": value, "minItems": 1}


def _kind_of(choices: tuple[str | int | float, ...]) -> Schema:
    """The type of the choices, when all have the same."""
    for kind, name in ((str, "string"), (int, "integer"), (int | float, "number")):
        if all(isinstance(choice, kind) for choice in choices):
            return {"type": name}
    return {}


def values_of(workflow: Workflow, texts: Mapping[str, str]) -> dict[str, Any]:
    """The parameters from the text parts of a form, by type. An empty part of a number, choice … is not given.

    Raises:
        InvalidTask: a text is none of the parameter's type.
    """
    by_name = {parameter.name: parameter for parameter in workflow.parameters}
    values: dict[str, Any] = {}
    problems = []
    for name, text in texts.items():
        parameter = by_name.get(name)
        if parameter is None or parameter.type in (ParameterType.TEXT, ParameterType.MODEL):
            values[name] = text  # an unknown one is refused with all others
            continue
        if not text.strip():
            continue
        try:
            values[name] = _value(parameter, text.strip())
        except ValueError:
            message = f"must be {'true or false' if parameter.type is ParameterType.BOOLEAN else 'a number'}"
            problems.append(FieldProblem(field=f"parameters.{name}", message=message, limits=parameter.limits()))
    if problems:
        raise InvalidTask(tuple(problems))
    return values


def _value(parameter: Parameter, text: str) -> Any:
    """Raises ValueError."""
    if parameter.type in _NUMBERS:
        return _number(text)
    if parameter.type is ParameterType.BOOLEAN:
        word = text.lower()
        if word not in _TRUE + _FALSE:
            raise ValueError
        return word in _TRUE
    if parameter.type is ParameterType.CHOICE:
        return next((choice for choice in parameter.choices if str(choice) == text), text)
    return text


def _number(text: str) -> int | float:
    if len(text) > LONGEST_NUMBER:
        raise ValueError
    try:
        return int(text)
    except ValueError:
        return float(text)
