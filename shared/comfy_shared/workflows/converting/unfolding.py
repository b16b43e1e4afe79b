"""The saved graph as live nodes: every subgraph instance with nodes of its own, every node with its class's slots.

A node in an instance of a subgraph has the id of the instance before its own: `5:12`; so on for nested ones.
"""

from enum import Enum, auto
from typing import Any

from comfy_shared.workflows.converting.classes import Classes, NodeClass, fill
from comfy_shared.workflows.converting.editor import (
    GROUP,
    MOST_NODES,
    PRIMITIVE,
    REROUTE,
    Editor,
    Port,
    SavedGraph,
    SavedInput,
    SavedNode,
)
from comfy_shared.workflows.converting.errors import ConversionError
from comfy_shared.workflows.converting.groups import Group, read_group
from comfy_shared.workflows.converting.widgets import Widget, unknown_widget

LEVELS = 32  # subgraphs within each other
MOST_WORK = 1_000_000  # nodes, links and ends of links of all instances of subgraphs
VIRTUAL = frozenset({"Note", "MarkdownNote", REROUTE, PRIMITIVE})


class Role(Enum):
    """What a node is for the prompt."""

    REAL = auto()
    UNKNOWN = auto()  # of a class that object info does not have
    VIRTUAL = auto()  # only the editor knows it
    SUBGRAPH = auto()  # or a group node


class Node:
    """A live node."""

    def __init__(self, saved: SavedNode, scope: "Scope", role: Role, known: NodeClass | None) -> None:
        self.saved = saved
        self.scope = scope
        self.role = role
        self.known = known
        self.id = ":".join([*scope.path, saved.id])
        self.title = saved.title or (known.title if known else None)
        self.inputs: tuple[SavedInput, ...] = saved.inputs
        self.outputs: tuple[str, ...] = tuple(output.type for output in saved.outputs)
        self.widgets: list[Widget] = []
        self.inner: Scope | None = None  # a subgraph's
        self.handed: list[tuple[Widget, Widget]] = []  # (a widget that it shows, one inside that gets its value)

    @property
    def class_type(self) -> str:
        return self.saved.type

    def widget(self, name: str | None) -> Widget | None:
        """Its widget of that name."""
        return next((widget for widget in self.widgets if widget.spec.name == name), None)

    def error(self, message: str) -> ConversionError:
        """An error at this node."""
        return ConversionError(message, node_id=self.id, class_type=self.class_type)


class Scope:
    """The nodes and links among which ids are looked up: the graph itself or one instance of a subgraph."""

    def __init__(self, graph: SavedGraph, owner: Node | None) -> None:
        self.graph = graph
        self.owner = owner
        self.path: tuple[str, ...] = (*owner.scope.path, owner.saved.id) if owner else ()
        self.nodes: dict[str, Node] = {}
        self.ends: dict[str, list[tuple[Node, SavedInput]]] = {}  # by link id: the inputs that name it


class Unfolding:
    """Makes the live nodes of a saved graph."""

    def __init__(self, editor: Editor, classes: Classes) -> None:
        self._editor = editor
        self._classes = classes
        self._count = 0
        self._work = 0
        self._groups: dict[str, Group] = {}

    def unfold(self) -> Scope:
        """The graph with everything in it.

        Raises:
            ConversionError: subgraphs contain themselves, are nested too deeply or unfold to too many nodes.
        """
        return self._scope(self._editor.graph, None, ())

    def _scope(self, graph: SavedGraph, owner: Node | None, within: tuple[str, ...]) -> Scope:
        scope = Scope(graph, owner)
        self._count += len(graph.nodes)
        if self._count > MOST_NODES:
            raise ConversionError(f"the graph has more than {MOST_NODES} nodes, subgraphs unfolded")
        self._work += len(graph.nodes) + len(graph.links) + sum(len(port.links) + 1 for port in graph.inputs)
        if self._work > MOST_WORK:
            raise ConversionError("the graph's subgraphs unfold to too many links")
        for saved in graph.nodes:
            node = scope.nodes[saved.id] = self._node(saved, scope, within)
            for slot in node.inputs:
                if slot.link is not None:
                    scope.ends.setdefault(slot.link, []).append((node, slot))
        return scope

    def _node(self, saved: SavedNode, scope: Scope, within: tuple[str, ...]) -> Node:
        definition = self._editor.subgraphs.get(saved.type)
        if definition is not None:
            return self._subgraph(Node(saved, scope, Role.SUBGRAPH, None), definition, within)
        if saved.type in VIRTUAL:
            return Node(saved, scope, Role.VIRTUAL, None)
        if saved.type.startswith(GROUP) and saved.type[len(GROUP) :] in self._editor.groups:
            return self._group(saved, scope, within)
        known = self._classes.get(saved.type)
        if known is None:
            node = Node(saved, scope, Role.UNKNOWN, None)
            node.widgets = [unknown_widget(value) for value in saved.values if isinstance(saved.values, list)]
            return node
        return configured(Node(saved, scope, Role.REAL, known), known)

    def _subgraph(self, node: Node, definition: SavedGraph, within: tuple[str, ...]) -> Node:
        if node.class_type in within:
            raise node.error("this subgraph contains itself")
        if len(within) >= LEVELS:
            raise node.error(f"subgraphs are nested deeper than {LEVELS} levels")
        node.inner = self._scope(definition, node, (*within, node.class_type))
        links = {slot.name: slot.link for slot in node.saved.inputs}
        node.inputs = tuple(
            SavedInput(name=port.name, type=port.type, link=links.get(port.name), widget=port.name)
            for port in definition.inputs
        )
        node.outputs = tuple(port.type for port in definition.outputs)
        inside = [(port, linked_widgets(node.inner, port)) for port in definition.inputs]
        node.widgets = [widgets[0].copy_as(port.name) for port, widgets in inside if widgets]
        kept = [widget for widget in node.widgets if widget.spec.kept]
        if isinstance(node.saved.values, dict):
            for widget in kept:
                widget.value = node.saved.values.get(widget.spec.name, widget.value)
        else:
            for widget, value in zip(kept, node.saved.values, strict=False):
                widget.value = value
        node.handed = [
            (shown, widget)
            for port, widgets in inside
            if (shown := node.widget(port.name)) is not None
            for widget in widgets
        ]
        return node

    def _group(self, saved: SavedNode, scope: Scope, within: tuple[str, ...]) -> Node:
        name = saved.type[len(GROUP) :]
        if name not in self._groups:
            self._groups[name] = read_group(name, self._editor.groups[name], self._classes)
        group = self._groups[name]
        node = configured(Node(saved, scope, Role.SUBGRAPH, group.known), group.known)
        if len(within) >= LEVELS:
            raise node.error(f"subgraphs are nested deeper than {LEVELS} levels")
        node.inner = self._scope(group.graph, node, (*within, saved.type))
        for name, inside, widget_name in group.handed:
            shown, widget = node.widget(name), node.inner.nodes[inside].widget(widget_name)
            if shown is not None and widget is not None:
                node.handed.append((shown, widget))
        return node


def configured(node: Node, known: NodeClass) -> Node:
    """A node of a known class with its saved values and links in the class's own order."""
    node.widgets = fill(known.widgets, migrated(known, node.saved.values))
    saved = {slot.name: slot for slot in node.saved.inputs}
    names = {spec.name for spec in known.inputs}
    inputs = []
    for spec in known.inputs:
        link = saved[spec.name].link if spec.name in saved else None
        widget = spec.name if spec.name in known.with_widget else None
        inputs.append(SavedInput(name=spec.name, type=spec.type, link=link, widget=widget))
    extra = [slot for slot in node.saved.inputs if slot.name not in names]
    inputs += [slot for slot in extra if slot.widget is None or node.widget(slot.widget) is not None]
    node.inputs = tuple(inputs)
    node.outputs = (*known.outputs, *node.outputs[len(known.outputs) :])
    sampler = node.widget("sampler_name") if known.name in ("KSampler", "KSamplerAdvanced") else None
    if sampler is not None and isinstance(sampler.value, str):
        sampler.value = sampler.value.removeprefix("sample_")  # very old graphs
    return node


def migrated(known: NodeClass, values: list[Any] | dict[str, Any]) -> list[Any] | dict[str, Any]:
    """Saved values without those of inputs that have become slots.

    Old versions kept a place for them. Places are counted with the controls, values are not: as the frontend does.
    """
    if isinstance(values, dict) or sum(places for _, places in known.saved) != len(values):
        return values
    forced = [each for each, _ in known.saved] + [False] * (len(values) - len(known.saved))
    return [value for value, gone in zip(values, forced, strict=False) if not gone]


def linked_widgets(scope: Scope, port: Port) -> list[Widget]:
    """The widgets within a subgraph that one of its inputs leads to."""
    ends = (end for link in port.links for end in scope.ends.get(link, ()))
    return [widget for node, slot in ends if (widget := node.widget(slot.widget)) is not None]
