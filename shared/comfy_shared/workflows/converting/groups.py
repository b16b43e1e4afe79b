"""Group nodes, which came before subgraphs: several nodes shown as one. Read as a subgraph with widgets of its own.

What the group shows is computed, not saved: inputs that nothing inside is linked to, all widgets, outputs that are
used outside; names that collide get the node's title before them. Links inside count nodes by their place.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from comfy_shared.workflows.converting.classes import Classes, InputSpec, NodeClass, read_class, shows_widget
from comfy_shared.workflows.converting.editor import (
    GROUP,
    INPUTS_ID,
    MOST_LINKS,
    MOST_NODES,
    PRIMITIVE,
    REROUTE,
    Link,
    Port,
    SavedGraph,
    SavedInput,
    SavedNode,
    read_node,
)
from comfy_shared.workflows.converting.errors import ConversionError


class Inside(msgspec.Struct, frozen=True, kw_only=True):
    """A link inside: from the output of one node to the input of another, by their places."""

    origin: int
    slot: int
    target: int
    target_slot: int
    type: str


class Group(msgspec.Struct, frozen=True, kw_only=True):
    """A group node's definition."""

    known: NodeClass  # the class that it amounts to
    graph: SavedGraph  # the nodes inside
    handed: tuple[tuple[str, str, str], ...]  # its widget, the node inside, that node's widget


def read_group(name: str, data: object, classes: Classes) -> Group:
    """Reads a definition from extra.groupNodes.

    Raises:
        ConversionError: it is damaged, or one of its nodes has a class that object info does not have.
    """
    return _Reader(name, data, classes).read()


class _Reader:
    def __init__(self, name: str, data: object, classes: Classes) -> None:
        self._name = name
        self._classes = classes
        self._data: Mapping[str, Any] = data if isinstance(data, dict) else {}
        listed = self._data.get("nodes")
        if not isinstance(listed, list) or not all(isinstance(node, dict) for node in listed):
            raise ConversionError("the group's definition has no list of nodes", class_type=GROUP + name)
        if len(listed) > MOST_NODES:
            raise ConversionError(f"the graph has more than {MOST_NODES} nodes")
        self._nodes = [read_node({**node, "id": place}) for place, node in enumerate(listed)]
        self._links = [link for link in self._inside() if max(link.origin, link.target) < len(listed)]
        self._outside = set(self._external())
        self._to = {(link.target, link.target_slot): link for link in self._links}
        self._from: dict[tuple[int, int], list[Inside]] = {}
        for link in self._links:
            self._from.setdefault((link.origin, link.slot), []).append(link)
        self._seen: dict[str, int] = {}
        self._shown: dict[str, list[Any]] = {}  # the inputs of the class that it amounts to
        self._slots: dict[tuple[int, int], str] = {}  # (node, place of its input) → the group's input
        self._handed: list[tuple[str, str, str]] = []

    def read(self) -> Group:
        outputs: list[tuple[int, int, str]] = []
        later: list[tuple[int, list[InputSpec], int]] = []
        for place, node in enumerate(self._nodes):
            found = self._class(place, node)
            if found is not None:
                inputs, types = found
                later.append((place, *self._inputs(place, node, inputs)))
                outputs += [(place, slot, type_) for slot, type_ in enumerate(types) if self._visible(place, slot)]
        for place, converted, after in later:
            self._converted(place, converted, after)
        info = {"input": {"required": self._shown}, "output": [type_ for _, _, type_ in outputs]}
        known = read_class(GROUP + self._name, info)
        return Group(known=known, graph=self._graph(known, outputs), handed=tuple(self._handed))

    def _inside(self) -> Iterator[Inside]:
        listed = self._data.get("links")
        for entry in listed[:MOST_LINKS] if isinstance(listed, list) else ():
            if isinstance(entry, list) and len(entry) >= 4 and all(_is_place(value) for value in entry[:4]):
                type_ = entry[5] if len(entry) > 5 and isinstance(entry[5], str) else "*"
                yield Inside(origin=entry[0], slot=entry[1], target=entry[2], target_slot=entry[3], type=type_)

    def _external(self) -> Iterator[tuple[int, int]]:
        listed = self._data.get("external")
        for entry in listed if isinstance(listed, list) else ():
            if isinstance(entry, list) and len(entry) >= 2 and all(_is_place(value) for value in entry[:2]):
                yield entry[0], entry[1]

    def _config(self, place: int, kind: str, key: str) -> Mapping[str, Any]:
        value: Any = self._data.get("config")
        for step in (str(place), kind, key):
            value = value.get(step) if isinstance(value, dict) else None
        return value if isinstance(value, dict) else {}

    def _class(self, place: int, node: SavedNode) -> tuple[list[InputSpec], list[str]] | None:
        """A node's inputs and the types of its outputs; None when the group shows nothing of it."""
        known = self._classes.get(node.type)
        if known is not None:
            return list(known.defined), list(known.outputs)
        leading = self._from.get((place, 0), [])
        if node.type == PRIMITIVE:
            return self._primitive(leading[0]) if leading else None
        if node.type == REROUTE:
            if (place, 0) in self._to and leading and (place, 0) not in self._outside:
                return None
            type_ = self._type_of(place, leading)
            return [InputSpec(name=type_, type=type_, options={"forceInput": True})], [type_]
        if node.type in ("Note", "MarkdownNote"):
            return None
        raise ConversionError(f"object info has no class {node.type}, which is in it", class_type=GROUP + self._name)

    def _primitive(self, link: Inside) -> tuple[list[InputSpec], list[str]]:
        target = self._nodes[link.target]
        known = self._classes.get(target.type)
        slot = target.inputs[link.target_slot] if link.target_slot < len(target.inputs) else None
        spec = next((each for each in known.defined if slot and each.name == slot.widget), None) if known else None
        options = spec.options if spec else {}
        type_ = spec.type if spec else link.type
        return [InputSpec(name="value", type=type_, options={**options, "control_after_generate": True})], [type_]

    def _type_of(self, place: int, leading: list[Inside]) -> str:
        for link in leading:
            inputs = self._nodes[link.target].inputs
            if link.target_slot < len(inputs) and inputs[link.target_slot].type != "*":
                return inputs[link.target_slot].type
        inward = self._to.get((place, 0))
        return inward.type if inward else "*"

    def _visible(self, place: int, slot: int) -> bool:
        hidden = (place, slot) in self._from and (place, slot) not in self._outside
        visible = self._config(place, "output", str(slot)).get("visible")
        return visible if isinstance(visible, bool) else not hidden

    def _inputs(self, place: int, node: SavedNode, inputs: list[InputSpec]) -> tuple[list[InputSpec], int]:
        """Shows what is not linked inside; gives the widgets turned into slots, which come after all else."""
        was_slot = {slot.name: number for number, slot in enumerate(node.inputs) if slot.widget == slot.name}
        slots = [spec for spec in inputs if not shows_widget(spec)]
        converted = [spec for spec in inputs if shows_widget(spec) and spec.name in was_slot]
        for spec in inputs:
            if shows_widget(spec) and spec.name not in was_slot:
                self._hand(place, node, spec, self._show(place, node, spec))
        for number, spec in enumerate(slots):
            if (place, number) in self._to:
                continue
            name = self._named(place, node, spec)
            if self._config(place, "input", spec.name).get("visible") is not False:
                self._shown[name] = [spec.type, spec.options]
                self._slots[place, number] = name
        return sorted(converted, key=lambda spec: str(was_slot[spec.name])), len(slots)

    def _converted(self, place: int, converted: list[InputSpec], after: int) -> None:
        node = self._nodes[place]
        for number, spec in enumerate(converted, after):
            if (place, number) not in self._to:
                name = self._show(place, node, spec)
                self._slots[place, number] = name
                self._hand(place, node, spec, name)

    def _show(self, place: int, node: SavedNode, spec: InputSpec) -> str:
        before = f"{node.title or node.type} "
        name = self._named(place, node, spec)
        options = dict(spec.options)
        if spec.name in ("seed", "noise_seed"):
            options["control_after_generate"] = f"{before if name.startswith(before) else ''}control_after_generate"
        self._shown[name] = [spec.type, options]
        return name

    def _named(self, place: int, node: SavedNode, spec: InputSpec) -> str:
        own = self._config(place, "input", spec.name).get("name")
        name = key = own if isinstance(own, str) else spec.name
        if (node.type == PRIMITIVE and node.title) or name in self._seen:
            before = f"{node.title or node.type} "
            name = key = before + spec.name
            if name in self._seen:
                name = f"{before}{self._seen[name]} {spec.name}"
        self._seen[key] = self._seen.get(key, 1) + 1
        return name

    def _hand(self, place: int, node: SavedNode, spec: InputSpec, name: str) -> None:
        """Notes where the value of a shown widget goes: to the node's own, or to those that it leads to."""
        if node.type not in (PRIMITIVE, REROUTE):
            self._handed.append((name, str(place), spec.name))
            return
        for link in self._from.get((place, 0), []):
            inputs = self._nodes[link.target].inputs
            widget = inputs[link.target_slot].widget if link.target_slot < len(inputs) else None
            if widget is not None:
                self._handed.append((name, str(link.target), widget))

    def _graph(self, known: NodeClass, outputs: list[tuple[int, int, str]]) -> SavedGraph:
        """The nodes inside with links as a subgraph has them."""
        order = {spec.name: number for number, spec in enumerate(known.inputs)}
        links: dict[str, Link] = {}
        nodes = []
        for place, node in enumerate(self._nodes):
            inputs = self._slots_of(node)
            for number, slot in enumerate(inputs):
                key = f"{place}/{number}"
                inside, name = self._to.get((place, number)), self._slots.get((place, number))
                if name is not None:
                    links[key] = Link(origin=INPUTS_ID, slot=order[name])
                elif inside is not None and self._nodes[inside.origin].type != PRIMITIVE:
                    links[key] = Link(origin=str(inside.origin), slot=inside.slot)
                inputs[number] = msgspec.structs.replace(slot, link=key if key in links else None)
            nodes.append(msgspec.structs.replace(node, inputs=tuple(inputs)))
        ports = []
        for number, (place, output, type_) in enumerate(outputs):
            links[f"out/{number}"] = Link(origin=str(place), slot=output)
            ports.append(Port(name=type_, type=type_, links=(f"out/{number}",)))
        return SavedGraph(name=self._name, nodes=tuple(nodes), links=links, outputs=tuple(ports))

    def _slots_of(self, node: SavedNode) -> list[SavedInput]:
        """A node's inputs in the order in which the group's links count them."""
        known = self._classes.get(node.type)
        if known is None:
            return list(node.inputs)
        slots = [spec for spec in known.inputs if not shows_widget(spec)]
        widgets = [slot for slot in node.inputs if slot.widget is not None and slot.widget == slot.name]
        return [SavedInput(name=spec.name, type=spec.type, link=None, widget=None) for spec in slots] + widgets


def _is_place(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < MOST_NODES
