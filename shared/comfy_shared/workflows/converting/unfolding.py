"""The saved graph as live nodes: every subgraph instance with nodes of its own, every node with its class's slots.

A node in an instance of a subgraph has the id of the instance before its own: `5:12`; so on for nested ones.
"""

from enum import Enum, auto
from typing import Any

from comfy_shared.workflows.converting.classes import Classes, NodeClass, fill
from comfy_shared.workflows.converting.editor import (
    GROUP,
    MOST_NODES,
    Editor,
    Port,
    SavedGraph,
    SavedInput,
    SavedNode,
)
from comfy_shared.workflows.converting.errors import ConversionError
from comfy_shared.workflows.converting.widgets import Widget, unknown_widget

LEVELS = 32  # subgraphs within each other
VIRTUAL = frozenset({"Note", "MarkdownNote", "Reroute", "PrimitiveNode"})


class Role(Enum):
    """What a node is for the prompt."""

    REAL = auto()
    UNKNOWN = auto()  # of a class that object info does not have
    VIRTUAL = auto()  # only the editor knows it
    SUBGRAPH = auto()
    GROUP = auto()


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


class Unfolding:
    """Makes the live nodes of a saved graph."""

    def __init__(self, editor: Editor, classes: Classes) -> None:
        self._editor = editor
        self._classes = classes
        self._count = 0

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
        for saved in graph.nodes:
            scope.nodes[saved.id] = self._node(saved, scope, within)
        return scope

    def _node(self, saved: SavedNode, scope: Scope, within: tuple[str, ...]) -> Node:
        definition = self._editor.subgraphs.get(saved.type)
        if definition is not None:
            return self._subgraph(Node(saved, scope, Role.SUBGRAPH, None), definition, within)
        if saved.type in VIRTUAL:
            return Node(saved, scope, Role.VIRTUAL, None)
        if saved.type.startswith(GROUP) and saved.type[len(GROUP) :] in self._editor.groups:
            return Node(saved, scope, Role.GROUP, None)
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
        shown = [(port, shown_widget(node.inner, port)) for port in definition.inputs]
        node.widgets = [widget.copy_as(port.name) for port, widget in shown if widget is not None]
        kept = [widget for widget in node.widgets if widget.spec.kept]
        if isinstance(node.saved.values, dict):
            for widget in kept:
                widget.value = node.saved.values.get(widget.spec.name, widget.value)
        else:
            for widget, value in zip(kept, node.saved.values, strict=False):
                widget.value = value
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
    return node


def migrated(known: NodeClass, values: list[Any] | dict[str, Any]) -> list[Any] | dict[str, Any]:
    """Saved values without those of inputs that have become slots.

    Old versions kept a place for them. Places are counted with the controls, values are not: as the frontend does.
    """
    if isinstance(values, dict) or sum(places for _, places in known.saved) != len(values):
        return values
    forced = [each for each, _ in known.saved] + [False] * (len(values) - len(known.saved))
    return [value for value, gone in zip(values, forced, strict=False) if not gone]


def shown_widget(scope: Scope, port: Port) -> Widget | None:
    """The widget that a subgraph's input shows outside: that of the first node it leads to which has one."""
    return next(iter(linked_widgets(scope, port)), None)


def linked_widgets(scope: Scope, port: Port) -> list[Widget]:
    """The widgets within a subgraph that one of its inputs leads to."""
    found = []
    for node, slot in _targets(scope, port):
        widget = node.widget(slot.widget)
        if widget is not None:
            found.append(widget)
    return found


def _targets(scope: Scope, port: Port) -> list[tuple[Node, SavedInput]]:
    wanted = {link: place for place, link in enumerate(port.links)}
    found = [
        (wanted[slot.link], node, slot)
        for node in scope.nodes.values()
        for slot in node.inputs
        if slot.link is not None and slot.link in wanted
    ]
    return [(node, slot) for _, node, slot in sorted(found, key=lambda each: each[0])]
