"""May this prompt be queued? Told in ComfyUI's own words, from the object info of all agents. Pure.

As in ComfyUI each output node is checked with everything it depends on, one valid output is enough, and what is wrong
elsewhere is told beside the acceptance. Values are converted (INT, FLOAT, STRING, BOOLEAN). What is handed on is the
part of the graph that the valid outputs depend on: what was checked is what runs. No recursion: a chain of any length
is fine.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from comfy_balancer.comfyui_api.definitions import GROUPS, Classes, choices
from comfy_shared.needs import is_upload

MOST_FAULTY = 50  # nodes that are told about
MOST_LISTED = 20  # choices of a list that is told
LONGEST_VALUE = 1000  # characters of a value that is told
LONGEST_LIST = 20_000  # characters of an input's entry that is told

_CONVERSIONS: dict[str, Callable[[Any], Any]] = {"INT": int, "FLOAT": float, "STRING": str, "BOOLEAN": bool}
TRACEBACK = ("  (found by the balancer before the prompt was queued)\n",)
FAILED = ("prompt_outputs_failed_validation", "Prompt outputs failed validation")


def problem(kind: str, message: str, details: str = "", extra_info: Mapping[str, Any] = {}) -> dict[str, Any]:
    """One error as ComfyUI writes it."""
    return {"type": kind, "message": message, "details": details, "extra_info": dict(extra_info)}


NO_PROMPT = problem("no_prompt", "No prompt provided", "No prompt provided")
NO_OUTPUTS = problem("prompt_no_outputs", "Prompt has no outputs")


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """The answer to a prompt: `error` is None when at least one output may run."""

    error: dict[str, Any] | None = None
    node_errors: dict[str, Any] = field(default_factory=dict)
    targets: tuple[str, ...] = ()  # the valid outputs
    prompt: dict[str, Any] = field(default_factory=dict)  # converted: what they depend on, in the client's order


def validate(
    prompt: Mapping[str, Any],
    classes: Classes,
    *,
    targets: Sequence[str] | None,
    exists: Callable[[str], bool],
) -> Verdict:
    """Checks a graph; with `targets` only these of its outputs are to run. `exists` knows the caller's files."""
    outputs = []
    for node_id, node in prompt.items():
        if not isinstance(node, dict) or "class_type" not in node:
            return Verdict(error=_invalid("a node is missing the class_type property.", node_id))
        class_type = node["class_type"]
        if not isinstance(class_type, str) or class_type not in classes:
            return Verdict(error=_invalid(f"node {_told(class_type)} does not exist.", node_id))
        if classes[class_type].get("output_node") and (targets is None or node_id in targets):
            outputs.append(node_id)
    if not outputs:
        return Verdict(error=NO_OUTPUTS)
    return _Validation(prompt, classes, exists).run(outputs)


def _invalid(why: str, node_id: str) -> dict[str, Any]:
    return problem("invalid_prompt", f"Cannot execute because {why}", f"Node ID '#{node_id[:200]}'")


class _Validation:
    """One pass over one prompt."""

    def __init__(self, prompt: Mapping[str, Any], classes: Classes, exists: Callable[[str], bool]) -> None:
        self._prompt = prompt
        self._classes = classes
        self._exists = exists
        self._converted: dict[str, Any] = {}
        self._sources: dict[str, list[str]] = {}
        self._errors: dict[str, list[dict[str, Any]]] = {}
        self._valid: dict[str, bool] = {}

    def run(self, outputs: list[str]) -> Verdict:
        for output in outputs:
            self._check_all(output)
        good = [output for output in outputs if self._valid[output]]
        node_errors = self._node_errors([output for output in outputs if not self._valid[output]])
        if good:
            needed = self._needed(good)
            kept = {node_id: self._converted[node_id] for node_id in self._prompt if node_id in needed}
            return Verdict(node_errors=node_errors, targets=tuple(good), prompt=kept)
        told = [f"{error['message']}: {error['details']}" for each in outputs for error in self._errors[each]]
        return Verdict(error=problem(*FAILED, "\n".join(told[:MOST_FAULTY])), node_errors=node_errors)

    def _check_all(self, output: str) -> None:
        """Checks a node after everything it depends on; a node on a circle is not valid and has no error."""
        waiting: list[tuple[str, bool]] = [(output, False)]
        open_nodes: set[str] = set()
        while waiting:
            node_id, sources_done = waiting.pop()
            if sources_done:
                open_nodes.discard(node_id)
                self._valid[node_id] = not self._errors[node_id] and all(
                    self._valid.get(source, False) for source in self._sources[node_id]
                )
            elif node_id not in self._errors:
                self._check(node_id, is_output=node_id == output)
                open_nodes.add(node_id)
                waiting.append((node_id, True))
                waiting += [(source, False) for source in self._sources[node_id] if source not in open_nodes]

    def _check(self, node_id: str, *, is_output: bool) -> None:
        node = self._prompt[node_id]
        errors = self._errors[node_id] = []
        sources = self._sources[node_id] = []
        inputs = node.get("inputs")
        if not isinstance(inputs, dict):
            errors.append(self._raised("'inputs'", "KeyError", node_id, is_output=is_output))
            self._converted[node_id] = node
            return
        changed = dict(inputs)
        for group, name, entry in _declared(self._classes[node["class_type"]]):
            if name not in inputs:
                if group == "required":
                    text = "Required input is missing"
                    errors.append(problem("required_input_missing", text, name, {"input_name": name}))
            elif isinstance(inputs[name], list) and not _takes_lists(entry):
                trouble = self._check_link(name, entry, inputs[name], sources)
                if isinstance(trouble, tuple):  # what ComfyUI says of it depends on who looks
                    errors[:] = [self._raised(*trouble, node_id, is_output=is_output)]
                    break
                errors += trouble
            else:
                errors += _check_value(changed, name, entry, self._exists)
        self._converted[node_id] = {**node, "inputs": changed}

    def _check_link(
        self, name: str, entry: list[Any], link: list[Any], sources: list[str]
    ) -> list[dict[str, Any]] | tuple[str, str]:
        """Errors of one link, or details and exception when it leads into nothing."""
        about = _about(name, entry)
        if len(link) != 2:
            message = "Bad linked input, must be a length-2 list of [node_id, slot_index]"
            return [problem("bad_linked_input", message, name, {**about, "received_value": _brief(link)})]
        source, slot = link
        if not isinstance(source, str) or source not in self._prompt:
            return (repr(_brief(source)), "KeyError")
        outputs = self._classes[self._prompt[source]["class_type"]].get("output")
        if not isinstance(outputs, list) or not isinstance(slot, int) or not -len(outputs) <= slot < len(outputs):
            return ("tuple index out of range", "IndexError")
        if not _types_match(outputs[slot], entry[0]):
            details = f"{name}, received_type({_brief(outputs[slot])}) mismatch input_type({entry[0]})"
            extra = {**about, "received_type": _brief(outputs[slot]), "linked_node": link}
            return [problem("return_type_mismatch", "Return type mismatch between linked nodes", details, extra)]
        sources.append(source)
        return []

    def _raised(self, details: str, kind: str, node_id: str, *, is_output: bool) -> dict[str, Any]:
        """What ComfyUI says of an exception; a traceback of its own would hold server paths."""
        extra: dict[str, Any] = {"exception_type": kind, "traceback": list(TRACEBACK)}
        if is_output:
            return problem("exception_during_validation", "Exception when validating node", details, extra)
        asked_by = next(
            (
                (name, entry, value)
                for user in self._sources
                if node_id in self._sources[user]
                for _, name, entry in _declared(self._classes[self._prompt[user]["class_type"]])
                if isinstance(value := self._prompt[user]["inputs"].get(name), list) and value[:1] == [node_id]
            ),
            None,
        )
        if asked_by is not None:
            name, entry, link = asked_by
            extra |= {**_about(name, entry), "exception_message": details, "linked_node": link}
        return problem("exception_during_inner_validation", "Exception when validating inner node", details, extra)

    def _node_errors(self, outputs: list[str]) -> dict[str, Any]:
        dependent = {output: self._needed([output]) for output in outputs[:MOST_FAULTY]}
        faulty = [node_id for node_id in self._prompt if self._errors.get(node_id)][:MOST_FAULTY]
        return {
            node_id: {
                "errors": self._errors[node_id],
                "dependent_outputs": [output for output in dependent if node_id in dependent[output]],
                "class_type": self._prompt[node_id]["class_type"],
            }
            for node_id in faulty
        }

    def _needed(self, outputs: Sequence[str]) -> set[str]:
        found: set[str] = set()
        waiting = list(outputs)
        while waiting:
            node_id = waiting.pop()
            if node_id not in found:
                found.add(node_id)
                waiting += self._sources[node_id]
        return found


def _declared(entry: Mapping[str, Any]) -> list[tuple[str, str, list[Any]]]:
    """(group, name, entry) of a class's inputs, as far as they are what they should be."""
    inputs = entry.get("input")
    found = []
    for group in GROUPS if isinstance(inputs, Mapping) else ():
        members = inputs.get(group)  # type: ignore[union-attr]  # checked above
        for name, value in members.items() if isinstance(members, Mapping) else ():
            if isinstance(value, list) and value:
                found.append((group, name, value))
    return found


def _options(entry: list[Any]) -> Mapping[str, Any]:
    return entry[1] if len(entry) > 1 and isinstance(entry[1], Mapping) else {}


def _takes_lists(entry: list[Any]) -> bool:
    return bool(_options(entry).get("multiselect") or _options(entry).get("multi_select"))


def _types_match(received: Any, wanted: Any) -> bool:
    if not isinstance(received, str) or not isinstance(wanted, str) or "*" in (received, wanted):
        return True  # lists of choices, and what takes anything
    if "COMFY_" in wanted or "COMFY_" in received:  # types that only the class itself can judge
        return True
    return bool({part.strip() for part in received.split(",")} & {part.strip() for part in wanted.split(",")})


def _about(name: str, entry: list[Any]) -> dict[str, Any]:
    config = [entry[0], dict(_options(entry))]
    return {"input_name": name, "input_config": config if len(str(config)) <= LONGEST_LIST else None}


def _check_value(
    inputs: dict[str, Any], name: str, entry: list[Any], exists: Callable[[str], bool]
) -> list[dict[str, Any]]:
    """Converts `inputs[name]` in place and checks its range or its list."""
    value = inputs[name]
    if isinstance(value, dict) and "__value__" in value:
        value = inputs[name] = value["__value__"]
    about = _about(name, entry)
    if isinstance(entry[0], str) and entry[0] in _CONVERSIONS:
        try:
            value = inputs[name] = _finite(_CONVERSIONS[entry[0]](value))
        except (ValueError, TypeError, OverflowError) as error:
            words = str(error)[:LONGEST_VALUE]
            message = f"Failed to convert an input value to a {entry[0]} value"
            extra = {**about, "received_value": _brief(value), "exception_message": words}
            return [problem("invalid_input_type", message, f"{name}, {_told(value)}, {words}", extra)]
    if is_upload(entry):
        if isinstance(value, str) and exists(value):
            return []
        details = f"{name} - Invalid {name} file: {_told(value)}"
        return [problem("custom_validation_failed", "Custom validation failed for node", details, {"input_name": name})]
    return _check_limits(value, name, entry, {**about, "received_value": _brief(value)})


def _check_limits(value: Any, name: str, entry: list[Any], extra: dict[str, Any]) -> list[dict[str, Any]]:
    options = _options(entry)
    lowest, highest = options.get("min"), options.get("max")
    if isinstance(value, int | float) and isinstance(lowest, int | float) and value < lowest:
        return [problem("value_smaller_than_min", f"Value {value} smaller than min of {lowest}", name, extra)]
    if isinstance(value, int | float) and isinstance(highest, int | float) and value > highest:
        return [problem("value_bigger_than_max", f"Value {value} bigger than max of {highest}", name, extra)]
    listed = choices(entry)
    if listed is None or value in listed or _takes_lists(entry):
        return []
    long = len(listed) > MOST_LISTED
    words = f"(list of length {len(listed)})" if long else str(listed)
    extra = {**extra, "input_config": None} if long else extra
    return [problem("value_not_in_list", "Value not in list", f"{name}: '{_told(value)}' not in {words}", extra)]


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{value} is no finite number")
    return value


def _told(value: Any) -> str:
    return str(value)[:LONGEST_VALUE]


def _brief(value: Any) -> Any:
    """A value as it is told again: what is long is cut to its text."""
    if value is None or isinstance(value, int | float) or (isinstance(value, str) and len(value) <= LONGEST_VALUE):
        return value
    return value if isinstance(value, list) and len(str(value)) <= LONGEST_VALUE else _told(value)
