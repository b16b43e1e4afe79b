"""Workflow + parameters -> prompt. Pure: chance comes in as `draw_seed`, files stay references that others resolve."""

import copy
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from comfy_shared.workflows.checks import COMPARED, DRAW, check_value, nearest, own_value
from comfy_shared.workflows.values import (
    INTEGER_HIGHEST,
    Graph,
    Parameter,
    ParameterError,
    ParameterProblem,
    ParameterType,
    Target,
    Workflow,
)

# JavaScript clients read integers beyond it wrongly, and could not repeat the picture.
DRAWN_SEEDS = 2**53
MOST_UNKNOWN = 32  # unknown parameters reported one by one; the rest as a number


class FileInput(msgspec.Struct, frozen=True, kw_only=True):
    """A slot that takes a file, which must be on the instance before the prompt runs."""

    node_id: str
    input_name: str
    parameter: str  # which the caller set
    value: str  # the caller's reference, unresolved


class Rendered(msgspec.Struct, frozen=True, kw_only=True):
    """A prompt and how it came about."""

    prompt: Graph  # the caller's own copy; file slots hold the caller's reference
    parameters: dict[str, Any]  # effective values, drawn seeds included; without files that the caller left out
    inputs: tuple[FileInput, ...]  # one for each slot of each file the caller gave


def render(workflow: Workflow, parameters: Mapping[str, object], *, draw_seed: Callable[[], int]) -> Rendered:
    """Puts the values into a copy of the graph: the caller's, else the configured default, else what the graph holds.

    A seed that is absent and has no default, or is None or -1, is drawn: `draw_seed` gives any integer, which is
    brought within the parameter's limits.

    Raises:
        ParameterError: all problems of all parameters.
    """
    problems = _unknown(workflow, parameters)
    values: dict[str, Any] = {}
    for parameter in workflow.parameters:
        try:
            if parameter.name in parameters:
                values[parameter.name] = _given(parameter, parameters[parameter.name], draw_seed)
            elif parameter.required:
                raise _missing(parameter)
            elif not parameter.type.is_file:
                values[parameter.name] = _own(workflow.prompt, parameter, draw_seed)
        except ParameterError as error:
            problems.extend(error.problems)
    if problems:
        raise ParameterError(tuple(problems))
    return _fill(workflow, values)


def _given(parameter: Parameter, value: object, draw_seed: Callable[[], int]) -> Any:
    if parameter.type is ParameterType.SEED and _asks_to_draw(value):
        return _draw(parameter, draw_seed)
    return check_value(parameter, value)


def _own(prompt: Graph, parameter: Parameter, draw_seed: Callable[[], int]) -> Any:
    if parameter.type is ParameterType.SEED and _asks_to_draw(parameter.default):
        return _draw(parameter, draw_seed)
    return check_value(parameter, own_value(prompt, parameter))


def _asks_to_draw(value: object) -> bool:
    return value is None or (isinstance(value, int | float) and value == DRAW)


def _draw(parameter: Parameter, draw_seed: Callable[[], int]) -> int:
    minimum = int(parameter.minimum or 0)
    maximum = INTEGER_HIGHEST if parameter.maximum is None else int(parameter.maximum)
    return minimum + draw_seed() % min(maximum - minimum + 1, DRAWN_SEEDS)


def _missing(parameter: Parameter) -> ParameterError:
    problem = ParameterProblem(parameter=parameter.name, message="is required", limits=parameter.limits())
    return ParameterError((problem,))


def _unknown(workflow: Workflow, parameters: Mapping[str, object]) -> list[ParameterProblem]:
    known = [parameter.name for parameter in workflow.parameters]
    unknown = [name for name in parameters if name not in known]
    problems = []
    for name in unknown[:MOST_UNKNOWN]:
        near = nearest(name, known)
        hint = f"; the nearest is {near[0]}" if near else ""
        message = f"is not a parameter of {workflow.name}{hint}"
        problems.append(ParameterProblem(parameter=_shown(name), message=message, nearest=near))
    if len(unknown) > MOST_UNKNOWN:
        message = f"and {len(unknown) - MOST_UNKNOWN} more that are not parameters of {workflow.name}"
        problems.append(ParameterProblem(parameter="…", message=message))
    return problems


def _shown(name: object) -> str:
    """A caller's name that is safe in an answer and in a log line: one short line, encodable."""
    text = str(name)
    text = text if text.isprintable() else text[:COMPARED].encode("unicode_escape", "backslashreplace").decode("ascii")
    return text if len(text) <= COMPARED else text[:COMPARED] + "…"


def _fill(workflow: Workflow, values: dict[str, Any]) -> Rendered:
    prompt = copy.deepcopy(workflow.prompt)
    inputs = []
    for parameter in workflow.parameters:
        if parameter.name not in values:
            continue
        value = values[parameter.name]
        for target in parameter.targets:
            prompt[target.node_id]["inputs"][target.input_name] = value
            if parameter.type.is_file:
                inputs.append(_file_input(target, parameter, value))
    return Rendered(prompt=prompt, parameters=values, inputs=tuple(inputs))


def _file_input(target: Target, parameter: Parameter, value: str) -> FileInput:
    return FileInput(node_id=target.node_id, input_name=target.input_name, parameter=parameter.name, value=value)
