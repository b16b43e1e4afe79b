"""Can ComfyUI run all of this graph? Pure.

ComfyUI accepts a prompt when one of its outputs is sound, and silently leaves out the others. A graph that becomes a
workflow must be sound as a whole: every output, and everything that leads to one.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from comfy_shared.errors import FieldProblem
from comfy_shared.workflows.checks import Flaw, check_graph, is_link
from comfy_shared.workflows.tracing import Uses
from comfy_shared.workflows.values import Graph

MOST_NODES = 10_000
MOST_PROBLEMS = 50
_ANY = "*"


def check_sound(prompt: object, object_info: Mapping[str, Any]) -> list[FieldProblem]:
    """Everything because of which ComfyUI would refuse the graph or leave out a part of it; at most `MOST_PROBLEMS`.

    Structure: an object of at most `MOST_NODES` nodes in API format, links that lead to nodes, no circle. Against
    object info: known classes, required inputs that are there, links from outputs that exist and fit, an output.
    """
    if not isinstance(prompt, dict):
        return [FieldProblem(field="prompt", message="must be an object of nodes in API format")]
    if len(prompt) > MOST_NODES:
        limits = {"maximum": MOST_NODES}
        return [FieldProblem(field="prompt", message=f"has more than {MOST_NODES} nodes", limits=limits)]
    try:
        check_graph(prompt)
    except Flaw as flaw:
        return [FieldProblem(field="prompt", message=str(flaw))]
    if circle := find_circle(prompt):
        return [FieldProblem(field=f"prompt.{circle}", message="is part of a circle of links")]
    problems = []
    needed = Uses(prompt, object_info).needed()
    for problem in _against(prompt, object_info, needed):
        problems.append(problem)
        if len(problems) == MOST_PROBLEMS:
            break
    return problems


def find_circle(prompt: Graph) -> str | None:
    """A node on a circle of links, or None. Takes away nodes that wait for nothing until none is left."""
    waits_for = {
        node_id: {value[0] for value in node["inputs"].values() if is_link(value)} for node_id, node in prompt.items()
    }
    needed_by: dict[str, list[str]] = {}
    for node_id, sources in waits_for.items():
        for source in sources:
            needed_by.setdefault(source, []).append(node_id)
    free = [node_id for node_id, sources in waits_for.items() if not sources]
    while free:
        done = free.pop()
        del waits_for[done]
        for node_id in needed_by.get(done, ()):
            waits_for[node_id].discard(done)
            if not waits_for[node_id]:
                free.append(node_id)
    return min(waits_for, default=None)


def _against(prompt: Graph, object_info: Mapping[str, Any], needed: set[str]) -> Iterator[FieldProblem]:
    makes_output = False
    for node_id, node in prompt.items():
        info = object_info.get(node["class_type"])
        if not isinstance(info, Mapping):
            message = f"object info has no class {node['class_type']!r}"
            yield FieldProblem(field=f"prompt.{node_id}.class_type", message=message)
            continue
        makes_output = makes_output or info.get("output_node") is True
        if node_id in needed:
            yield from _inputs(prompt, object_info, node_id, info)
    if not makes_output and all(isinstance(object_info.get(node["class_type"]), Mapping) for node in prompt.values()):
        yield FieldProblem(field="prompt", message="has no node that makes an output (such as SaveImage)")


def _inputs(
    prompt: Graph, object_info: Mapping[str, Any], node_id: str, info: Mapping[str, Any]
) -> Iterator[FieldProblem]:
    given = prompt[node_id]["inputs"]
    for name, entry, required in inputs_of(info):
        where = f"prompt.{node_id}.inputs.{name}"
        if name not in given:
            if required and not str(entry[0]).startswith("COMFY_AUTOGROW"):
                yield FieldProblem(field=where, message=f"{prompt[node_id]['class_type']} needs this input")
        elif is_link(given[name]) and (reason := _misfit(prompt, object_info, given[name], entry[0])):
            yield FieldProblem(field=where, message=reason)


def inputs_of(info: Mapping[str, Any]) -> Iterator[tuple[str, list[Any], bool]]:
    """(name, [type, options], required) of each input of a class; what is no such entry is passed over."""
    groups = info.get("input")
    for group in ("required", "optional") if isinstance(groups, Mapping) else ():
        entries = groups.get(group) if isinstance(groups, Mapping) else None
        for name, entry in entries.items() if isinstance(entries, Mapping) else ():
            if isinstance(entry, list) and entry:
                yield name, entry, group == "required"


def _misfit(prompt: Graph, object_info: Mapping[str, Any], link: list[Any], wanted: object) -> str | None:
    source, slot = link
    info = object_info.get(prompt[source]["class_type"])
    outputs = info.get("output") if isinstance(info, Mapping) else None
    if not isinstance(outputs, list):
        return None
    if not isinstance(slot, int) or not 0 <= slot < len(outputs):
        return f"is linked to output {slot} of node {source}, which has {len(outputs)}"
    given = outputs[slot]
    if not isinstance(given, str) or not isinstance(wanted, str):
        return None  # lists of choices: any text may come
    types, kinds = set(wanted.split(",")), set(given.split(","))
    fits = _ANY in types | kinds or types & kinds or "COMBO" in types | kinds or wanted.startswith("COMFY_")
    return None if fits else f"takes {wanted}, but output {slot} of node {source} is {given}"
