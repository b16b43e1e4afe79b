"""The rules: does a value fit a parameter, does a parameter fit its graph, is a graph a graph.

One function decides about values, whether they come from a caller or are a workflow's own defaults, so a default that a
caller could not send is refused when the workflow is loaded.
"""

import math
import re
from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any

from comfy_shared.workflows.values import (
    INTEGER_HIGHEST,
    INTEGER_LOWEST,
    Graph,
    Parameter,
    ParameterError,
    ParameterProblem,
    ParameterType,
)

COMPARED = 64  # characters of a name that are compared or shown; a longer one is nobody's typing error
PARAMETER_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")
DEPTH = 64  # levels of a graph: objects and lists within each other
DRAW = -1  # as a seed's value: draw one

_NUMERIC = frozenset({"minimum", "maximum", "step"})
_LIMITS_OF: dict[ParameterType, frozenset[str]] = {
    ParameterType.TEXT: frozenset({"max_length"}),
    ParameterType.INTEGER: _NUMERIC,
    ParameterType.NUMBER: _NUMERIC,
    ParameterType.SEED: _NUMERIC - {"step"},
    ParameterType.CHOICE: frozenset({"choices"}),
    ParameterType.MODEL: frozenset({"choices"}),
}
_UNSENDABLE = re.compile("[\x00\ud800-\udfff]")


class Flaw(Exception):
    """What is wrong with a workflow, and where: the caller knows the files and lines."""

    def __init__(self, message: str, *, parameter: str = "", key: str = "") -> None:
        super().__init__(f"parameter {parameter}: {message}" if parameter else message)
        self.parameter = parameter  # empty: the graph itself
        self.key = key  # of the parameter's entry; empty: the entry as a whole


class Incomplete(Flaw):
    """Something is missing that object info would tell, and there is none."""


def nearest(name: object, known: list[str]) -> tuple[str, ...]:
    """Up to three known names that look like this one."""
    return tuple(get_close_matches(str(name)[:COMPARED], known, n=3))


def check_value(parameter: Parameter, value: object) -> Any:
    """The value as it goes into the prompt: 1.0 becomes 1 for an integer, 1 becomes 1.0 for a number.

    Raises:
        ParameterError: it does not fit; with exactly one problem.
    """
    match parameter.type:
        case ParameterType.BOOLEAN:
            return _boolean(parameter, value)
        case ParameterType.INTEGER | ParameterType.SEED:
            return _integer(parameter, value)
        case ParameterType.NUMBER:
            return _number(parameter, value)
        case ParameterType.CHOICE:
            return _choice(parameter, value)
        case _:
            return _text(parameter, value)


def _misfit(parameter: Parameter, message: str, near: tuple[str, ...] = ()) -> ParameterError:
    problem = ParameterProblem(parameter=parameter.name, message=message, nearest=near, limits=parameter.limits())
    return ParameterError((problem,))


def _boolean(parameter: Parameter, value: object) -> bool:
    if isinstance(value, bool):
        return value
    raise _misfit(parameter, "must be true or false")


def _integer(parameter: Parameter, value: object) -> int:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise _misfit(parameter, "must be an integer")
    lowest = 0 if parameter.type is ParameterType.SEED else INTEGER_LOWEST
    _check_range(parameter, value, lowest, INTEGER_HIGHEST)
    if parameter.step is not None and value % parameter.step:
        raise _misfit(parameter, f"must be a multiple of {parameter.step}")
    return value


def _number(parameter: Parameter, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _misfit(parameter, "must be a number")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise _misfit(parameter, "must be a finite number")
    _check_range(parameter, number, -math.inf, math.inf)
    if parameter.step is not None:
        # 0.7 is 7 x 0.1 although neither is exact: allow what rounding can do to both.
        tolerance = 1e-9 * parameter.step + 4 * math.ulp(number)
        if abs(math.remainder(number, parameter.step)) > tolerance:
            raise _misfit(parameter, f"must be a multiple of {parameter.step}")
    return number


def _check_range(parameter: Parameter, value: float, lowest: float, highest: float) -> None:
    minimum = lowest if parameter.minimum is None else parameter.minimum
    maximum = highest if parameter.maximum is None else parameter.maximum
    if value < minimum:
        raise _misfit(parameter, f"must be at least {minimum}")
    if value > maximum:
        raise _misfit(parameter, f"must be at most {maximum}")


def _choice(parameter: Parameter, value: object) -> str | int | float:
    if isinstance(value, str | int | float) and not isinstance(value, bool):
        for choice in parameter.choices:
            if choice == value:
                return choice
    near = nearest(value, [str(choice) for choice in parameter.choices]) if isinstance(value, str) else ()
    hint = f"; the nearest is {near[0]}" if near else ""
    raise _misfit(parameter, f"must be one of its {len(parameter.choices)} choices{hint}", near)


def _text(parameter: Parameter, value: object) -> str:
    if not isinstance(value, str):
        kind = {ParameterType.TEXT: "a text", ParameterType.MODEL: "the name of a model file"}
        raise _misfit(parameter, f"must be {kind.get(parameter.type, 'a reference to a file, as a text')}")
    if parameter.max_length is not None and len(value) > parameter.max_length:
        raise _misfit(parameter, f"must have at most {parameter.max_length} characters")
    if _UNSENDABLE.search(value):
        raise _misfit(parameter, "must not contain NUL characters or lone surrogates")
    if not value and parameter.type is not ParameterType.TEXT:
        raise _misfit(parameter, "must not be empty")
    if parameter.choices:
        return str(_choice(parameter, value))
    return value


def own_value(prompt: Graph, parameter: Parameter) -> Any:
    """The parameter's value when the caller gives none: the configured default, else what the graph holds."""
    if parameter.default is not None:
        return parameter.default
    target = parameter.targets[0]
    return prompt[target.node_id]["inputs"][target.input_name]


def check_workflow(prompt: Graph, parameters: tuple[Parameter, ...]) -> None:
    """Checks the graph, each parameter, and that every default is a value a caller could send.

    Raises:
        Flaw: the first thing that is wrong.
    """
    check_graph(prompt)
    taken: dict[tuple[str, str], str] = {}
    names: set[str] = set()
    for parameter in parameters:
        if parameter.name in names:
            raise Flaw("is there twice", parameter=parameter.name)
        names.add(parameter.name)
        check_parameter(prompt, parameter, taken)


def check_parameter(prompt: Graph, parameter: Parameter, taken: dict[tuple[str, str], str] | None = None) -> None:
    """Checks one parameter against a sound graph. `taken` are the slots of others; those of this one are added.

    Raises:
        Flaw: the first thing that is wrong.
    """
    _check_limits(parameter)
    _check_targets(prompt, parameter, {} if taken is None else taken)
    _check_default(prompt, parameter)


def check_graph(prompt: Graph) -> None:
    """Checks that it is a graph in API format whose links lead to nodes.

    Raises:
        Flaw: it is not.
    """
    if not prompt:
        raise Flaw("the graph has no nodes")
    if isinstance(prompt.get("nodes"), list):
        raise Flaw("this is the editor's graph; export it in API format")
    for node_id, node in prompt.items():
        if not isinstance(node, dict) or not isinstance(node.get("class_type"), str):
            raise Flaw(f"node {node_id} has no class_type")
        if not isinstance(node.get("inputs"), dict):
            raise Flaw(f"node {node_id} has no inputs")
        for input_name, value in node["inputs"].items():
            if is_link(value) and value[0] not in prompt:
                raise Flaw(f"node {node_id}, input {input_name}: linked to node {value[0]}, which does not exist")
    _check_depth(prompt)


def _check_depth(prompt: Graph) -> None:
    """Copying a graph recurses; no level is visited here by recursion."""
    level: list[Any] = [prompt]
    for _ in range(DEPTH):
        inner = [value for container in level for value in _contents(container)]
        level = [value for value in inner if isinstance(value, dict | list)]
        if not level:
            return
    raise Flaw(f"the graph is nested deeper than {DEPTH} levels")


def _contents(container: Any) -> Iterable[Any]:
    return container.values() if isinstance(container, dict) else container


def is_link(value: object) -> bool:
    """Whether ComfyUI reads this input as [node id, output slot]."""
    return (
        isinstance(value, list)
        and len(value) == 2
        and isinstance(value[0], str)
        and isinstance(value[1], int | float)
        and not isinstance(value[1], bool)
    )


def _check_limits(parameter: Parameter) -> None:
    name = parameter.name
    if not PARAMETER_NAME.fullmatch(name):
        raise Flaw("a name has 1 to 64 of a-z, 0-9 and _, and begins with a letter", parameter=name)
    for key in parameter.limits():
        if key not in _LIMITS_OF.get(parameter.type, frozenset()):
            raise Flaw(f"{key} does not apply to type {parameter.type}", parameter=name, key=key)
    for key in sorted(_NUMERIC & set(parameter.limits())):
        limit = parameter.limits()[key]
        if not math.isfinite(limit):
            raise Flaw(f"{key} must be finite", parameter=name, key=key)
        if parameter.type is not ParameterType.NUMBER and not isinstance(limit, int):
            raise Flaw(f"{key} of type {parameter.type} must be an integer", parameter=name, key=key)
    if parameter.step is not None and parameter.step <= 0:
        raise Flaw("step must be above 0", parameter=name, key="step")
    if parameter.max_length is not None and parameter.max_length < 1:
        raise Flaw("max_length must be above 0", parameter=name, key="max_length")
    if parameter.minimum is not None and parameter.maximum is not None and parameter.minimum > parameter.maximum:
        raise Flaw("minimum is above maximum", parameter=name, key="minimum")
    if parameter.type is ParameterType.SEED:
        _check_seed_range(parameter)
    if parameter.type is ParameterType.CHOICE and not parameter.choices:
        raise Flaw("type choice needs choices", parameter=name)
    if parameter.type is ParameterType.MODEL and not all(isinstance(choice, str) for choice in parameter.choices):
        raise Flaw("choices of type model must be texts", parameter=name, key="choices")


def _check_seed_range(parameter: Parameter) -> None:
    """A seed is drawn between its limits, so these must hold at least one 64-bit value; below 0 lies `DRAW`."""
    if parameter.minimum is not None and not 0 <= parameter.minimum <= INTEGER_HIGHEST:
        raise Flaw(f"minimum of type seed must be 0 to {INTEGER_HIGHEST}", parameter=parameter.name, key="minimum")
    if parameter.maximum is not None and not 0 <= parameter.maximum <= INTEGER_HIGHEST:
        raise Flaw(f"maximum of type seed must be 0 to {INTEGER_HIGHEST}", parameter=parameter.name, key="maximum")


def _check_targets(prompt: Graph, parameter: Parameter, taken: dict[tuple[str, str], str]) -> None:
    if not parameter.targets:
        raise Flaw("needs node_id and input_name, or targets", parameter=parameter.name)
    for target in parameter.targets:
        node_id, input_name = target.node_id, target.input_name
        if node_id not in prompt:
            raise Flaw(f"the graph has no node {node_id}", parameter=parameter.name, key="node_id")
        inputs = prompt[node_id]["inputs"]
        where = f"node {node_id} ({prompt[node_id]['class_type']})"
        if input_name not in inputs:
            near = nearest(input_name, list(inputs))
            hint = f"; the nearest is {near[0]}" if near else ""
            raise Flaw(f"{where} has no input {input_name}{hint}", parameter=parameter.name, key="input_name")
        if is_link(inputs[input_name]):
            message = f"input {input_name} of {where} is a link; a value would cut it"
            raise Flaw(message, parameter=parameter.name, key="input_name")
        other = taken.setdefault((node_id, input_name), parameter.name)
        if other != parameter.name:
            raise Flaw(f"input {input_name} of {where} is set by {other} already", parameter=parameter.name)


def _check_default(prompt: Graph, parameter: Parameter) -> None:
    configured = parameter.default is not None
    if parameter.required and configured:
        message = "has a default_value, which a required one never uses"
        raise Flaw(message, parameter=parameter.name, key="default_value")
    if parameter.type.is_file:
        if configured:
            message = "a file has no default_value; the graph's own file is used"
            raise Flaw(message, parameter=parameter.name, key="default_value")
        return
    if parameter.type is ParameterType.SEED and parameter.default in (None, DRAW):
        return
    if parameter.required:
        return
    values = [prompt[target.node_id]["inputs"][target.input_name] for target in parameter.targets]
    if not configured and any(value != values[0] for value in values):
        raise Flaw("its targets hold different values: give a default_value", parameter=parameter.name)
    try:
        check_value(parameter, own_value(prompt, parameter))
    except ParameterError as error:
        source = "default_value" if configured else "without default_value; the graph's value"
        raise Flaw(f"{source} {error.problems[0].message}", parameter=parameter.name, key="default_value") from error
