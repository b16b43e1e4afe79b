"""What the editor saved, as checked values: nodes, links, subgraph definitions. Whatever is damaged is refused here.

Two versions are about: 0.4 keeps a link as a list, 1 as an object; subgraphs always hold objects.
"""

import math
from collections.abc import Iterator, Mapping
from enum import IntEnum
from typing import Any

import msgspec

from comfy_shared.workflows.converting.errors import ConversionError

MOST_NODES = 10_000  # of the whole graph, subgraphs unfolded
MOST_LINKS = 100_000  # of one graph or subgraph
MOST_SLOTS = 1_000  # inputs or outputs of one node
LEVELS = 64  # objects and lists within each other
LONGEST_NAME = 256  # characters of an id, a class or a slot's name
INPUTS_ID, OUTPUTS_ID = "-10", "-20"  # the pretended nodes of a subgraph's own inputs and outputs

_RENAMED = {
    "T2IAdapterLoader": "ControlNetLoader",
    "ConditioningAverage ": "ConditioningAverage",
    "SDV_img2vid_Conditioning": "SVD_img2vid_Conditioning",
}
GROUP = "workflow>"  # prefix of a group node's class
_OLD_GROUP = "workflow/"
PRIMITIVE, REROUTE = "PrimitiveNode", "Reroute"


class Mode(IntEnum):
    """What the user decided about a node; all other numbers run it."""

    MUTED = 2
    BYPASSED = 4


class Link(msgspec.Struct, frozen=True, kw_only=True):
    """From an output; who is linked knows it by the link's id."""

    origin: str  # node id, or INPUTS_ID
    slot: int


class SavedInput(msgspec.Struct, frozen=True, kw_only=True):
    """A node's input as saved."""

    name: str
    type: str
    link: str | None
    widget: str | None  # name of the widget that it can replace


class SavedOutput(msgspec.Struct, frozen=True, kw_only=True):
    """A node's output as saved."""

    type: str
    widget: str | None  # a primitive node's: the widget it stands for


class SavedNode(msgspec.Struct, frozen=True, kw_only=True):
    """A node as saved."""

    id: str
    type: str
    title: str | None
    mode: int
    inputs: tuple[SavedInput, ...]
    outputs: tuple[SavedOutput, ...]
    values: list[Any] | dict[str, Any]  # widgets_values
    properties: dict[str, Any]


class Port(msgspec.Struct, frozen=True, kw_only=True):
    """An input or output of a subgraph."""

    name: str
    type: str
    links: tuple[str, ...]  # within the subgraph


class SavedGraph(msgspec.Struct, frozen=True, kw_only=True):
    """A graph, or the definition of a subgraph."""

    name: str
    nodes: tuple[SavedNode, ...]
    links: dict[str, Link]
    inputs: tuple[Port, ...] = ()
    outputs: tuple[Port, ...] = ()


class Editor(msgspec.Struct, frozen=True, kw_only=True):
    """All that the editor saved."""

    graph: SavedGraph
    subgraphs: dict[str, SavedGraph]  # by their id, which is their nodes' type
    groups: dict[str, Any]  # extra.groupNodes: group nodes by name, unchecked


def read_editor(saved: object) -> Editor:
    """Reads what the editor saved.

    Raises:
        ConversionError: it is no editor's graph, too large, or damaged.
    """
    if not isinstance(saved, dict) or not isinstance(saved.get("nodes"), list):
        raise ConversionError("this is not an editor's graph: it has no list of nodes")
    check_depth(saved)
    definitions = _table(saved, "definitions")
    listed = _listed(definitions, "subgraphs")
    total = len(saved["nodes"]) + sum(len(_listed(entry, "nodes")) for entry in listed if isinstance(entry, dict))
    if total > MOST_NODES:
        raise ConversionError(f"the graph has more than {MOST_NODES} nodes")
    subgraphs = {}
    for entry in listed:
        if not isinstance(entry, dict):
            raise ConversionError("a subgraph's definition is not an object")
        subgraphs[_id(entry.get("id"), "a subgraph")] = _graph(entry)
    groups = _table(_table(saved, "extra"), "groupNodes")
    return Editor(graph=_graph(saved), subgraphs=subgraphs, groups=groups)


def check_depth(value: object) -> None:
    """Refuses what is nested too deeply to be walked by recursion.

    Raises:
        ConversionError: it is.
    """
    level = [value]
    for _ in range(LEVELS):
        level = [inner for outer in level for inner in _contents(outer) if isinstance(inner, dict | list)]
        if not level:
            return
    raise ConversionError(f"the graph is nested deeper than {LEVELS} levels")


def _contents(value: object) -> Iterator[Any]:
    if isinstance(value, dict):
        yield from value.values()
    elif isinstance(value, list):
        yield from value


def _graph(saved: dict[str, Any]) -> SavedGraph:
    nodes: dict[str, SavedNode] = {}
    for entry in _listed(saved, "nodes"):
        node = read_node(entry)
        if node.id in nodes:
            raise ConversionError("two nodes have this id", node_id=node.id, class_type=node.type)
        nodes[node.id] = node
    name = saved.get("name")
    return SavedGraph(
        name=name if isinstance(name, str) else "",
        nodes=tuple(nodes.values()),
        links=dict(_links(saved)),
        inputs=_ports(saved, "inputs"),
        outputs=_ports(saved, "outputs"),
    )


def _links(saved: dict[str, Any]) -> Iterator[tuple[str, Link]]:
    entries = _listed(saved, "links")
    if len(entries) > MOST_LINKS:
        raise ConversionError(f"the graph has more than {MOST_LINKS} links")
    for entry in entries:
        if isinstance(entry, list) and len(entry) >= 5:
            link_id, origin, slot = entry[:3]
        elif isinstance(entry, dict):
            link_id, origin, slot = entry.get("id"), entry.get("origin_id"), entry.get("origin_slot")
        elif entry is None:
            continue
        else:
            raise ConversionError("a link is neither a list of 5 or 6 nor an object")
        number = _slot(slot)
        if number is None:
            raise ConversionError(f"link {_shown(link_id)} leaves no output: its slot is no number")
        yield _id(link_id, "a link"), Link(origin=_id(origin, "a link's origin"), slot=number)


def read_node(saved: object) -> SavedNode:
    """Reads one node.

    Raises:
        ConversionError: it is damaged.
    """
    if not isinstance(saved, dict):
        raise ConversionError("a node is not an object")
    node_id = _id(saved.get("id"), "a node")
    class_type = saved.get("type")
    if not isinstance(class_type, str) or len(class_type) > LONGEST_NAME:
        raise ConversionError(f"its type is not a text of at most {LONGEST_NAME} characters", node_id=node_id)
    class_type = _RENAMED.get(class_type, class_type)
    if class_type.startswith(_OLD_GROUP):
        class_type = GROUP + class_type[len(_OLD_GROUP) :]
    title, mode, values = saved.get("title"), saved.get("mode"), saved.get("widgets_values")
    inputs, outputs = _slots(saved, "inputs", node_id), _slots(saved, "outputs", node_id)
    return SavedNode(
        id=node_id,
        type=class_type,
        title=title if isinstance(title, str) and title else None,
        mode=mode if isinstance(mode, int) else 0,
        inputs=tuple(_input(entry, node_id) for entry in inputs),
        outputs=tuple(SavedOutput(type=_type(entry.get("type")), widget=_widget(entry)) for entry in outputs),
        values=values if isinstance(values, list | dict) else [],
        properties=_table(saved, "properties"),
    )


def _slots(saved: dict[str, Any], key: str, node_id: str) -> list[dict[str, Any]]:
    slots = _listed(saved, key)
    if len(slots) > MOST_SLOTS:
        raise ConversionError(f"it has more than {MOST_SLOTS} {key}", node_id=node_id)
    if not all(isinstance(slot, dict) for slot in slots):
        raise ConversionError(f"one of its {key} is not an object", node_id=node_id)
    return slots


def _input(saved: dict[str, Any], node_id: str) -> SavedInput:
    link = saved.get("link")
    return SavedInput(
        name=_name(saved.get("name"), node_id),
        type=_type(saved.get("type")),
        link=None if link is None else _id(link, "an input's link", node_id),
        widget=_widget(saved),
    )


def _widget(saved: dict[str, Any]) -> str | None:
    widget = saved.get("widget")
    name = widget.get("name") if isinstance(widget, Mapping) else None
    return name if isinstance(name, str) else None


def _ports(saved: dict[str, Any], key: str) -> tuple[Port, ...]:
    listed = _listed(saved, key)
    if len(listed) > MOST_SLOTS:
        raise ConversionError(f"a subgraph has more than {MOST_SLOTS} {key}")
    return tuple(_port(entry) for entry in listed)


def _port(saved: object) -> Port:
    if not isinstance(saved, dict):
        raise ConversionError("an input or output of a subgraph is not an object")
    links = tuple(dict.fromkeys(_id(link, "a subgraph's link") for link in _listed(saved, "linkIds")))
    return Port(name=_name(saved.get("name"), ""), type=_type(saved.get("type")), links=links)


def _name(value: object, node_id: str) -> str:
    if not isinstance(value, str) or len(value) > LONGEST_NAME:
        message = f"the name of one of its inputs is not a text of at most {LONGEST_NAME} characters"
        raise ConversionError(message, node_id=node_id)
    return value


def _type(value: object) -> str:
    if isinstance(value, str):
        return value[:LONGEST_NAME]
    return "COMBO" if isinstance(value, list) else "*"


def _id(value: object, what: str, node_id: str = "") -> str:
    """Ids are numbers or texts; 7, 7.0 and "7" are the same one."""
    if isinstance(value, float) and math.isfinite(value) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int | str) or len(_shown(value)) > LONGEST_NAME or value == "":
        raise ConversionError(f"the id of {what} is neither a number nor a short text", node_id=node_id)
    return str(value)


def _shown(value: object) -> str:
    """Short and printable; a huge number is never written out."""
    if isinstance(value, int) and value.bit_length() > 64:
        return "?" * (LONGEST_NAME + 1)
    text = str(value) if isinstance(value, str | int) else type(value).__name__
    return text if text.isprintable() else ascii(text)


def _slot(value: object) -> int | None:
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= 4:
        value = int(value)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < MOST_SLOTS else None


def _listed(saved: Mapping[str, Any], key: str) -> list[Any]:
    value = saved.get(key)
    if value is None:
        return []
    if not isinstance(value, list):
        raise ConversionError(f"{key} is not a list")
    return value


def _table(saved: Mapping[str, Any], key: str) -> dict[str, Any]:
    value = saved.get(key)
    return value if isinstance(value, dict) else {}
