"""Would an instance run all of this prompt? ComfyUI's own rules, applied to every output node. Pure functions.

ComfyUI accepts a prompt as soon as one output node is valid and silently leaves the others out, so a prompt must pass
here for all of them: required inputs, links to outputs that exist and have a fitting type, values that convert to
their type and lie within the limits. What no output depends on never runs and is not looked at. What object info does
not tell (a class's own checks, inputs that come and go) is left to the instance.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from comfy_shared.errors import FieldProblem, InvalidTask
from comfy_shared.models import Needs, Prompt
from comfy_shared.needs import Offer, is_upload
from comfy_shared.workflows import Workflow
from comfy_shared.workflows.checks import is_link

MOST_PROBLEMS = 50
DYNAMIC = "COMFY_"  # types of inputs that stand for others, made up at run time


def check_complete(prompt: Prompt, needs: Needs, offers: Sequence[Offer]) -> list[FieldProblem]:
    """What the agents that can run the prompt would leave out of it, or refuse; of the one with the fewest problems."""
    able = [offer for offer in offers if offer.meets(needs)] or list(offers)
    best: list[FieldProblem] = []
    for offer in able:
        found = check_nodes(prompt, offer)
        if not found:
            return []
        if not best or len(found) < len(best):
            best = found
    return best


def check_nodes(prompt: Prompt, offer: Offer) -> list[FieldProblem]:
    """The problems of all nodes that an output depends on; the first few. Classes that it does not know are passed."""
    problems: list[FieldProblem] = []
    waiting = [node_id for node_id, node in prompt.items() if offer.is_output(node["class_type"])]
    seen = set(waiting)
    while waiting and len(problems) < MOST_PROBLEMS:
        node_id = waiting.pop()
        node = prompt[node_id]
        problems += _check_node(node_id, prompt, offer)
        for value in node["inputs"].values():
            if is_link(value) and value[0] in prompt and value[0] not in seen:
                seen.add(value[0])
                waiting.append(value[0])
    return sorted(problems[:MOST_PROBLEMS], key=lambda problem: problem.field)


def _check_node(node_id: str, prompt: Prompt, offer: Offer) -> list[FieldProblem]:
    class_type, given = prompt[node_id]["class_type"], prompt[node_id]["inputs"]
    problems = []
    for name, (entry, required) in _inputs(offer, class_type).items():
        where = f"prompt.{node_id}.inputs.{name}"
        kind = entry[0]
        options = entry[1] if len(entry) > 1 and isinstance(entry[1], Mapping) else {}
        if isinstance(kind, str) and kind.startswith(DYNAMIC):
            continue
        if name not in given:
            if required:
                problems.append(_problem(where, f"is required by {class_type}"))
        elif isinstance(given[name], list):
            if message := _check_link(given[name], kind, prompt, offer):
                problems.append(_problem(where, message))
        elif problem := _check_value(where, given[name], kind, options, upload=is_upload(entry)):
            problems.append(problem)
    return problems


def _inputs(offer: Offer, class_type: str) -> dict[str, tuple[Sequence[Any], bool]]:
    """The inputs of a class: entry in object info, and whether it is required."""
    groups = offer.object_info.get(class_type, {}).get("input", {})
    found: dict[str, tuple[Sequence[Any], bool]] = {}
    for group in ("optional", "required"):
        members = groups.get(group, {}) if isinstance(groups, Mapping) else {}
        for name, entry in members.items() if isinstance(members, Mapping) else ():
            if isinstance(entry, list) and entry:
                found[name] = (entry, group == "required")
    return found


def _problem(field: str, message: str, **limits: Any) -> FieldProblem:
    return FieldProblem(field=field, message=message, limits=limits)


def _check_link(link: list[Any], wanted: Any, prompt: Prompt, offer: Offer) -> str | None:
    if not is_link(link) or link[0] not in prompt:
        return "must be a value, or a link [node id, output slot] to a node of the prompt"
    source = prompt[link[0]]["class_type"]
    outputs = offer.object_info.get(source, {}).get("output")
    if not isinstance(outputs, list):
        return None
    slot = int(link[1])
    if not 0 <= slot < len(outputs):
        return f"is a link to output {slot} of node {link[0]} ({source}), which has {len(outputs)}"
    if not _fits(outputs[slot], wanted):
        return f"takes {_named(wanted)}, but is linked to {_named(outputs[slot])} of node {link[0]} ({source})"
    return None


def _fits(received: Any, wanted: Any) -> bool:
    """Types may be several, separated by commas; * is any; a list of choices is a type too."""
    if received == wanted:
        return True
    if not isinstance(received, str) or not isinstance(wanted, str):
        return "COMBO" in (received, wanted) or "*" in (received, wanted)
    have, want = ({part.strip() for part in kinds.split(",")} for kinds in (received, wanted))
    return bool(have & want) or "*" in have | want or any(kind.startswith(DYNAMIC) for kind in have)


def _named(kind: Any) -> str:
    return kind[:100] if isinstance(kind, str) else "a choice"


def _check_value(where: str, value: Any, kind: Any, options: Mapping[str, Any], *, upload: bool) -> FieldProblem | None:
    """ComfyUI converts what it can: "12" is an integer, 1 a text. Lists of choices are checked elsewhere."""
    if isinstance(value, dict) and "__value__" in value:
        value = value["__value__"]
    if kind in ("INT", "FLOAT"):
        try:
            value = int(value) if kind == "INT" else float(value)
        except (TypeError, ValueError, OverflowError):
            return _problem(where, f"must be {'an integer' if kind == 'INT' else 'a number'}", **_limits(options))
    if upload or not isinstance(value, int | float):
        return None
    limits = _limits(options)
    if "minimum" in limits and value < limits["minimum"]:
        return _problem(where, f"must be at least {limits['minimum']}", **limits)
    if "maximum" in limits and value > limits["maximum"]:
        return _problem(where, f"must be at most {limits['maximum']}", **limits)
    return None


def _limits(options: Mapping[str, Any]) -> dict[str, Any]:
    found = {"minimum": options.get("min"), "maximum": options.get("max")}
    return {name: limit for name, limit in found.items() if isinstance(limit, int | float)}


def placed(error: InvalidTask, workflow: Workflow | None, prompt: Mapping[str, Any]) -> InvalidTask:
    """The same refusal, each problem with the workflow, parameter and node that it is about."""
    return InvalidTask(tuple(_place(problem, workflow, prompt) for problem in error.problems), error.message)


def _place(problem: FieldProblem, workflow: Workflow | None, prompt: Mapping[str, Any]) -> FieldProblem:
    group, _, name = problem.field.partition(".")
    node, parameter = "", ""
    if group == "prompt":
        node = next((name[:end] for end in _ends(name) if name[:end] in prompt), "")
    elif workflow and group == "parameters":
        first = name.partition(".")[0]  # of a list the field names the place too
        known = next((one for one in workflow.parameters if one.name == first), None)
        parameter = known.name if known else name
        node = ", ".join(dict.fromkeys(target.node_id for target in known.targets)) if known else ""
    called = workflow.name if workflow else ""
    return msgspec.structs.replace(problem, workflow=called, parameter=parameter, node=node)


def _ends(name: str) -> list[int]:
    """Where a node id may end, longest first: ids may hold dots themselves."""
    return [len(name), *(index for index in range(len(name) - 1, 0, -1) if name[index] == ".")]
