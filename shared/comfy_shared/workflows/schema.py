"""JSON Schema (2020-12) of a workflow's parameters, for forms. `render` is the judge; this describes it."""

from typing import Any

from comfy_shared.workflows.checks import DRAW, own_value
from comfy_shared.workflows.values import INTEGER_HIGHEST, Graph, Parameter, ParameterType, Workflow

_JSON_TYPES = {
    ParameterType.INTEGER: "integer",
    ParameterType.NUMBER: "number",
    ParameterType.BOOLEAN: "boolean",
}
_KEYWORDS = {
    "minimum": "minimum",
    "maximum": "maximum",
    "step": "multipleOf",
    "max_length": "maxLength",
    "choices": "enum",
}


def json_schema(workflow: Workflow) -> dict[str, Any]:
    """The schema of the `parameters` object.

    `x-type` tells what JSON cannot: that a string is a file or a model, and an integer a seed.
    """
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": workflow.title,
        "description": workflow.description,
        "type": "object",
        "properties": {parameter.name: _property(workflow.prompt, parameter) for parameter in workflow.parameters},
        "required": [parameter.name for parameter in workflow.parameters if parameter.required],
        "additionalProperties": False,
    }


def _property(prompt: Graph, parameter: Parameter) -> dict[str, Any]:
    schema: dict[str, Any] = {"x-type": parameter.type.value, "x-order": parameter.order}
    if parameter.description:
        schema["description"] = parameter.description
    if parameter.group:
        schema["x-group"] = parameter.group
    if parameter.type is ParameterType.SEED:
        return schema | _seed(parameter)
    if parameter.type is not ParameterType.CHOICE:
        schema["type"] = _JSON_TYPES.get(parameter.type, "string")
    for limit, value in parameter.limits().items():
        schema[_KEYWORDS[limit]] = value
    if parameter.type.is_file or parameter.type is ParameterType.MODEL:
        schema["minLength"] = 1
    if not parameter.required and not parameter.type.is_file:
        schema["default"] = own_value(prompt, parameter)
    return schema


def _seed(parameter: Parameter) -> dict[str, Any]:
    """An integer within the limits, or one of the two ways to ask for a drawn one."""
    fixed = {
        "type": "integer",
        "minimum": parameter.minimum or 0,
        "maximum": INTEGER_HIGHEST if parameter.maximum is None else parameter.maximum,
    }
    schema: dict[str, Any] = {"anyOf": [fixed, {"const": DRAW}, {"type": "null"}]}
    if not parameter.required:
        schema["default"] = DRAW if parameter.default is None else parameter.default
    return schema
