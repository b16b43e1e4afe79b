"""Whether a prompt may be queued, with ComfyUI's own error words.

The rules are ComfyUI's observable behaviour: each output node is checked with everything it depends on; one valid
output is enough for acceptance, and what is wrong elsewhere is reported beside it. Values are converted in place
(INT, FLOAT, STRING, BOOLEAN), so the queue shows the converted ones. Errors of nodes upstream are reported at those
nodes only.
"""

import traceback
from collections.abc import Callable
from typing import Any, NamedTuple

from test.simulator.catalogue import Catalogue, InputSpec

Prompt = dict[str, dict[str, Any]]
Errors = list[dict[str, Any]]

_CONVERSIONS: dict[str, Callable[[Any], Any]] = {"INT": int, "FLOAT": float, "STRING": str, "BOOLEAN": bool}
_FILE_CHECKED = {
    ("LoadImage", "image"),
    ("LoadImageMask", "image"),
}  # checked by the class itself instead of by range or list


class Verdict(NamedTuple):
    """The answer to a prompt: `error` is None when at least one output may run."""

    error: dict[str, Any] | None
    outputs: list[str]
    node_errors: dict[str, Any]


def validate(prompt: Any, targets: list[str] | None, catalogue: Catalogue, exists: Callable[[str], bool]) -> Verdict:
    """Check `prompt`; only outputs in `targets` run when given. `exists` tells whether an annotated input file is
    there.

    Malformed prompts raise whatever Python raises; the server answers 500 then.
    """
    outputs: list[str] = []
    for node_id in prompt:
        if "class_type" not in prompt[node_id]:
            return Verdict(_invalid("a node is missing the class_type property.", node_id), [], {})
        class_type = prompt[node_id]["class_type"]
        if class_type not in catalogue:
            return Verdict(_invalid(f"node {class_type} does not exist.", node_id), [], {})
        if catalogue.is_output(class_type) and (targets is None or node_id in targets):
            outputs.append(node_id)
    if not outputs:
        return Verdict(_error("prompt_no_outputs", "Prompt has no outputs", ""), [], {})
    return _Validation(prompt, catalogue, exists).run(outputs)


def _error(kind: str, message: str, details: str) -> dict[str, Any]:
    return {"type": kind, "message": message, "details": details, "extra_info": {}}


def _invalid(why: str, node_id: str) -> dict[str, Any]:
    return _error("invalid_prompt", f"Cannot execute because {why}", f"Node ID '#{node_id}'")


def _class_name(error: BaseException) -> str:
    kind = type(error)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def _types_match(received: Any, wanted: Any) -> bool:
    if received == wanted or "*" in (received, wanted):
        return True
    if not isinstance(received, str) or not isinstance(wanted, str):
        return False
    return bool({part.strip() for part in received.split(",")} & {part.strip() for part in wanted.split(",")})


class _Validation:
    """One pass over one prompt; remembers the outcome of each node."""

    def __init__(self, prompt: Prompt, catalogue: Catalogue, exists: Callable[[str], bool]) -> None:
        self._prompt = prompt
        self._catalogue = catalogue
        self._exists = exists
        self._outcomes: dict[str, tuple[bool, Errors]] = {}
        self._open: set[str] = set()  # nodes being checked: meeting one again means a cycle

    def run(self, outputs: list[str]) -> Verdict:
        good: list[str] = []
        node_errors: dict[str, Any] = {}
        details: list[str] = []
        for output in outputs:
            valid, errors = self._check_output(output)
            if valid:
                good.append(output)
                continue
            details += [f"{error['message']}: {error['details']}" for error in errors]
            self._report(output, node_errors)
        if good:
            return Verdict(None, good, node_errors)
        kind, message = "prompt_outputs_failed_validation", "Prompt outputs failed validation"
        return Verdict(_error(kind, message, "\n".join(details)), [], node_errors)

    def _report(self, output: str, node_errors: dict[str, Any]) -> None:
        for node_id, (valid, errors) in self._outcomes.items():
            if valid or not errors:
                continue  # nodes downstream of a fault carry none of their own
            fresh = {"errors": errors, "dependent_outputs": [], "class_type": self._prompt[node_id]["class_type"]}
            node_errors.setdefault(node_id, fresh)["dependent_outputs"].append(output)

    def _check_output(self, output: str) -> tuple[bool, Errors]:
        try:
            return self._check(output)
        except Exception as error:  # ComfyUI reports whatever was raised
            reason = {
                "type": "exception_during_validation",
                "message": "Exception when validating node",
                "details": str(error),
                "extra_info": {
                    "exception_type": _class_name(error),
                    "traceback": traceback.format_tb(error.__traceback__),
                },
            }
            self._outcomes[output] = (False, [reason])
            return self._outcomes[output]

    def _check(self, node_id: str) -> tuple[bool, Errors]:
        if node_id in self._outcomes:
            return self._outcomes[node_id]
        if node_id in self._open:
            return False, []
        self._open.add(node_id)
        node = self._prompt[node_id]
        inputs, class_type = node["inputs"], node["class_type"]
        errors: Errors = []
        valid = True
        for name, spec in self._catalogue.inputs(class_type).items():
            if name not in inputs:
                if spec.required:
                    missing = ("required_input_missing", "Required input is missing", name, {"input_name": name})
                    errors.append(_node_error(*missing))
            elif isinstance(inputs[name], list):
                valid = self._check_link(inputs[name], name, spec, errors) and valid
            else:
                _check_value(inputs, name, spec, errors, ranged=(class_type, name) not in _FILE_CHECKED)
        if class_type in ("LoadImage", "LoadImageMask"):
            self._check_file(inputs, errors)
        self._open.discard(node_id)
        self._outcomes[node_id] = (valid and not errors, errors)
        return self._outcomes[node_id]

    def _check_link(self, value: list[Any], name: str, spec: InputSpec, errors: Errors) -> bool:
        info: dict[str, Any] = {"input_name": name, "input_config": [spec.kind, spec.extra]}
        if len(value) != 2:
            message = "Bad linked input, must be a length-2 list of [node_id, slot_index]"
            errors.append(_node_error("bad_linked_input", message, name, {**info, "received_value": value}))
            return True
        source = value[0]
        received = self._catalogue.outputs(self._prompt[source]["class_type"])[value[1]]
        if not _types_match(received, spec.kind):
            details = f"{name}, received_type({received}) mismatch input_type({spec.kind})"
            extra = {**info, "received_type": received, "linked_node": value}
            errors.append(
                _node_error("return_type_mismatch", "Return type mismatch between linked nodes", details, extra)
            )
            return True
        try:
            return self._check(source)[0]
        except Exception as error:  # reported at the source, as ComfyUI does
            self._open.discard(source)
            extra = {
                **info,
                "exception_message": str(error),
                "exception_type": _class_name(error),
                "traceback": traceback.format_tb(error.__traceback__),
                "linked_node": value,
            }
            kind, message = "exception_during_inner_validation", "Exception when validating inner node"
            self._outcomes[source] = (False, [_node_error(kind, message, str(error), extra)])
            return False

    def _check_file(self, inputs: dict[str, Any], errors: Errors) -> None:
        name = inputs.get("image")
        if isinstance(name, str) and not self._exists(name):
            details = f"image - Invalid image file: {name}"
            message = "Custom validation failed for node"
            errors.append(_node_error("custom_validation_failed", message, details, {"input_name": "image"}))


def _node_error(kind: str, message: str, details: str, extra_info: dict[str, Any]) -> dict[str, Any]:
    return {"type": kind, "message": message, "details": details, "extra_info": extra_info}


def _check_value(inputs: dict[str, Any], name: str, spec: InputSpec, errors: Errors, ranged: bool) -> None:
    """Convert `inputs[name]` in place and check its range or its list."""
    value = inputs[name]
    config = [spec.kind, spec.extra]
    if isinstance(value, dict) and "__value__" in value:
        value = inputs[name] = value["__value__"]
    if isinstance(spec.kind, str) and spec.kind in _CONVERSIONS:
        try:
            value = inputs[name] = _CONVERSIONS[spec.kind](value)
        except Exception as error:  # the conversion's own words are part of the answer
            message = f"Failed to convert an input value to a {spec.kind} value"
            extra = {
                "input_name": name,
                "input_config": config,
                "received_value": value,
                "exception_message": str(error),
            }
            errors.append(_node_error("invalid_input_type", message, f"{name}, {value}, {error}", extra))
            return
    if not ranged:
        return
    extra = {"input_name": name, "input_config": config, "received_value": value}
    if "min" in spec.extra and value < spec.extra["min"]:
        message = f"Value {value} smaller than min of {spec.extra['min']}"
        errors.append(_node_error("value_smaller_than_min", message, name, extra))
    elif "max" in spec.extra and value > spec.extra["max"]:
        message = f"Value {value} bigger than max of {spec.extra['max']}"
        errors.append(_node_error("value_bigger_than_max", message, name, extra))
    elif isinstance(spec.kind, list) and value not in spec.kind:
        long = len(spec.kind) > 20
        listed = f"(list of length {len(spec.kind)})" if long else str(spec.kind)
        extra["input_config"] = None if long else config
        errors.append(
            _node_error("value_not_in_list", "Value not in list", f"{name}: '{value}' not in {listed}", extra)
        )
