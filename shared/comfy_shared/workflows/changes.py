"""What differs between two versions of a workflow, for a person: by node, input and parameter. Pure."""

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from comfy_shared.workflows.values import Graph, Parameter, Workflow

MOST_CHANGES = 200  # told one by one
LONGEST_VALUE = 200  # characters of a value that is told


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that differs."""

    kind: str  # added, removed, changed
    where: str  # 'title', 'node 3 (KSampler)', 'node 3 (KSampler), input steps', 'parameter steps, maximum'
    before: str | None = None  # the value as JSON, shortened; None when there was none
    after: str | None = None  # the same, now


def changes(before: Workflow, after: Workflow) -> tuple[Change, ...]:
    """All that differs, in the order: texts, nodes, parameters, the editor's graph."""
    return tuple(_changes(before, after))


def _changes(before: Workflow, after: Workflow) -> Iterator[Change]:
    for name in ("title", "description"):
        yield from _values(name, {name: getattr(before, name)}, {name: getattr(after, name)}, name)
    yield from _nodes(before.prompt, after.prompt)
    yield from _parameters(before.parameters, after.parameters)
    if before.editor != after.editor:
        kind = "added" if before.editor is None else "removed" if after.editor is None else "changed"
        yield Change(kind=kind, where="the editor's graph")


def _values(where: str, before: Mapping[str, Any], after: Mapping[str, Any], name: str) -> Iterator[Change]:
    if name not in before:
        yield Change(kind="added", where=where, after=_told(after[name]))
    elif name not in after:
        yield Change(kind="removed", where=where, before=_told(before[name]))
    elif before[name] != after[name]:
        yield Change(kind="changed", where=where, before=_told(before[name]), after=_told(after[name]))


def _nodes(before: Graph, after: Graph) -> Iterator[Change]:
    for node_id in [*before, *(node_id for node_id in after if node_id not in before)]:
        old, new = before.get(node_id), after.get(node_id)
        if old is None or new is None:
            node = old or new or {}
            yield Change(kind="added" if old is None else "removed", where=_place(node_id, node))
            continue
        if old["class_type"] != new["class_type"]:
            where = f"node {_short(node_id)}, class"
            yield from _values(where, old, new, "class_type")
        for name in [*old["inputs"], *(name for name in new["inputs"] if name not in old["inputs"])]:
            where = f"{_place(node_id, new)}, input {_short(name)}"
            yield from _values(where, old["inputs"], new["inputs"], name)
        if _title(old) != _title(new):
            where = f"{_place(node_id, new)}, title"
            yield Change(kind="changed", where=where, before=_told(_title(old)), after=_told(_title(new)))


def _place(node_id: str, node: Mapping[str, Any]) -> str:
    return f"node {_short(node_id)} ({_short(str(node.get('class_type')))})"


def _title(node: Mapping[str, Any]) -> Any:
    meta = node.get("_meta")
    return meta.get("title") if isinstance(meta, Mapping) else None


def _parameters(before: tuple[Parameter, ...], after: tuple[Parameter, ...]) -> Iterator[Change]:
    old_of = {parameter.name: _entry(parameter) for parameter in before}
    new_of = {parameter.name: _entry(parameter) for parameter in after}
    for name in [*old_of, *(name for name in new_of if name not in old_of)]:
        if name not in old_of or name not in new_of:
            yield Change(kind="added" if name in new_of else "removed", where=f"parameter {name}")
            continue
        old, new = old_of[name], new_of[name]
        for key in [*old, *(key for key in new if key not in old)]:
            yield from _values(f"parameter {name}, {key}", old, new, key)


def _entry(parameter: Parameter) -> dict[str, Any]:
    """What is set of a parameter, by name; the order is a matter of the form."""
    entry: dict[str, Any] = msgspec.to_builtins(parameter)
    entry["targets"] = [f"{target.node_id}.{target.input_name}" for target in parameter.targets]
    return {name: value for name, value in entry.items() if name not in ("name", "order")}


def _told(value: Any) -> str:
    return _short(msgspec.json.encode(value).decode())


def _short(text: str) -> str:
    return text if len(text) <= LONGEST_VALUE else text[:LONGEST_VALUE] + "…"
