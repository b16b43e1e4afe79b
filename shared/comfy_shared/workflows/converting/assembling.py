"""The prompt from live nodes: widgets first, then links over them, then without the links to what does not run."""

from collections.abc import Iterator
from typing import Any

from comfy_shared.workflows.converting.classes import Classes, ObjectInfo
from comfy_shared.workflows.converting.editor import Mode, read_editor
from comfy_shared.workflows.converting.errors import ConversionError
from comfy_shared.workflows.converting.primitives import apply_primitives
from comfy_shared.workflows.converting.resolving import Resolver
from comfy_shared.workflows.converting.texts import with_values
from comfy_shared.workflows.converting.unfolding import Node, Role, Scope, Unfolding
from comfy_shared.workflows.converting.widgets import NOTHING
from comfy_shared.workflows.values import Graph

ALIAS = "Node name for S&R"  # the property by which file names refer to a node
MOST_NAMED = 10  # nodes of unknown classes that an error names
_SENT = (Role.REAL, Role.UNKNOWN)
_SAVERS = frozenset(
    {
        "SaveImage", "SaveAnimatedWEBP", "SaveWEBM", "SaveAudio", "SaveGLB", "SaveAnimatedPNG", "CLIPSave", "VAESave",
        "ModelSave", "LoraSave", "SaveLatent",
    },
)  # fmt: skip


def convert(editor: object, object_info: ObjectInfo, *, keep_unknown: bool = False) -> Graph:
    """The prompt that the frontend makes of an editor's graph.

    `object_info` is what GET /object_info of the instance answers. A node of a class that it does not have is an
    error; with `keep_unknown` it becomes what the frontend makes of it: no class_type, no title of its own, its links,
    and its last value as UNKNOWN.

    Raises:
        ConversionError: an unknown class that would run, or a damaged or too large graph.
    """
    scope = Unfolding(read_editor(editor), Classes(object_info)).unfold()
    nodes = list(_all(scope))
    names = _Names(nodes)
    _settle(scope, nodes, names)
    running = [node for node in nodes if node.role in _SENT and node.saved.mode not in (Mode.MUTED, Mode.BYPASSED)]
    unknown = [node for node in running if node.role is Role.UNKNOWN]
    if unknown and not keep_unknown:
        raise _unknown(unknown)
    resolver = Resolver()
    prompt: Graph = {}
    for node in running:
        prompt[node.id] = {
            "inputs": _inputs(node, names, resolver),
            "class_type": node.class_type if node.role is Role.REAL else None,
            "_meta": {"title": node.title},
        }
    _cut(prompt)
    return dict(sorted(prompt.items(), key=_place))


def _unknown(nodes: list[Node]) -> ConversionError:
    others = [f"node {node.id} ({node.class_type})" for node in nodes[1:MOST_NAMED]]
    rest = len(nodes) - 1 - len(others)
    more = f"; nor that of {', '.join(others)}" if others else ""
    return nodes[0].error(f"object info has no such class{more}" + (f" and {rest} more" if rest else ""))


def _place(item: tuple[str, Any]) -> tuple[int, int]:
    """Numbers first, in their order, as JavaScript keeps them."""
    plain = item[0].isascii() and item[0].isdigit()
    return (0, int(item[0])) if plain else (1, 0)


def _all(scope: Scope) -> Iterator[Node]:
    for node in scope.nodes.values():
        yield node
        if node.inner is not None:
            yield from _all(node.inner)


def _settle(scope: Scope, nodes: list[Node], names: "_Names") -> None:
    """Lets primitives write, then subgraphs hand the values of the widgets they show to those within."""
    scopes = [scope, *(node.inner for node in nodes if node.inner is not None)]
    for each in scopes:
        for _, widget in list(apply_primitives(each)):
            widget.value = with_values(widget.value, names.look_up)
    for node in nodes:
        for shown, inside in node.handed:
            inside.value = shown.value


class _Names:
    """How file names refer to nodes: by alias, else by title; the first of several."""

    def __init__(self, nodes: list[Node]) -> None:
        self._by_alias: dict[str, Node] = {}
        self._by_title: dict[str, Node] = {}
        for node in nodes:
            alias = _alias(node)
            if isinstance(alias, str):
                self._by_alias.setdefault(alias, node)
            if node.title:
                self._by_title.setdefault(node.title, node)

    def look_up(self, name: str, key: str) -> Any:
        """The value of a node's widget; NOTHING when there is no such node or widget."""
        node = self._by_alias.get(name) or self._by_title.get(name)
        widget = None if node is None else node.widget(key)
        return NOTHING if widget is None else widget.value


def _alias(node: Node) -> object:
    own = None if node.class_type in _SAVERS or node.role is not Role.REAL else node.class_type
    return node.saved.properties.get(ALIAS, own)


def _inputs(node: Node, names: "_Names", resolver: Resolver) -> dict[str, Any]:
    inputs: dict[str, Any] = {}
    for widget in node.widgets:
        if not widget.spec.sent or not widget.spec.name:
            continue
        value = widget.sent
        if widget.spec.name == "filename_prefix" and node.class_type in _SAVERS and isinstance(value, str):
            value = with_values(value, names.look_up)
        inputs[widget.spec.name] = _boxed(value)
    for slot, saved in enumerate(node.inputs):
        if saved.link is None:
            continue
        origin = resolver.origin(node, slot)
        if origin is not None:
            inputs[saved.name] = [origin.node_id, origin.slot] if origin.node_id else _boxed(origin.value)
    return inputs


def _boxed(value: Any) -> Any:
    """A list would be read as a link; what was never set is null."""
    if value is NOTHING:
        return None
    return {"__value__": value} if isinstance(value, list) else value


def _cut(prompt: Graph) -> None:
    """Removes links to nodes that do not run."""
    for node in prompt.values():
        gone = [name for name, value in node["inputs"].items() if isinstance(value, list) and value[0] not in prompt]
        for name in gone:
            del node["inputs"][name]
