"""Primitive nodes: each writes its value into the widgets that it is linked to."""

from collections.abc import Iterator
from typing import Any

from comfy_shared.workflows.converting.classes import InputSpec, has_widget, make_widgets, read_input
from comfy_shared.workflows.converting.editor import PRIMITIVE, SavedInput
from comfy_shared.workflows.converting.unfolding import Node, Role, Scope
from comfy_shared.workflows.converting.widgets import NOTHING, Widget, WidgetSpec, number, rounded

REPLACES = "Run widget replace on values"  # the property that asks for %Node.widget% to be replaced
_IGNORED = frozenset(
    {"default", "forceInput", "defaultInput", "control_after_generate", "multiline", "tooltip", "dynamicPrompts"}
)
_NUMBERS = ("INT", "FLOAT")


def apply_primitives(scope: Scope) -> Iterator[tuple[Node, Widget]]:
    """Writes the values of all primitive nodes of this scope; gives what asks to have its text replaced."""
    targets = _targets(scope)
    for node in scope.nodes.values():
        linked = targets.get(node.saved.id, [])
        if node.role is not Role.VIRTUAL or node.class_type != PRIMITIVE or not linked:
            continue
        value = _value(node, linked)
        if value is NOTHING:
            continue
        for target, slot in linked:
            widget = target.widget(slot.widget)
            if widget is not None:
                widget.enter(value)
                if isinstance(value, str) and value and node.saved.properties.get(REPLACES):
                    yield target, widget


def _targets(scope: Scope) -> dict[str, list[tuple[Node, SavedInput]]]:
    """By node id, the inputs that each node's first output leads to, in the order of the links."""
    order = {link: place for place, link in enumerate(scope.graph.links)}
    found: dict[str, list[tuple[int, Node, SavedInput]]] = {}
    for node in scope.nodes.values():
        for slot in node.inputs:
            link = scope.graph.links.get(slot.link or "")
            if slot.link is not None and link is not None and link.slot == 0:
                found.setdefault(link.origin, []).append((order[slot.link], node, slot))
    return {
        origin: [(node, slot) for _, node, slot in sorted(each, key=lambda it: it[0])] for origin, each in found.items()
    }


def _value(node: Node, linked: list[tuple[Node, SavedInput]]) -> Any:
    """What the primitive holds: as saved, else as its first target; numbers within what all targets allow."""
    target, slot = linked[0]
    own = target.widget(slot.widget)
    saved = node.saved.values
    if isinstance(saved, list) and saved:
        value = saved[0]
    elif own is not None:
        value = own.value
    else:
        return NOTHING
    spec = _spec(target, slot)
    if spec is None or not has_widget(spec):
        return value
    if spec.shown_as not in _NUMBERS:
        widget = Widget(make_widgets(spec)[0])
        widget.value = value
        return widget.value
    for other, other_slot in linked:
        merged = _merged(spec, _spec(other, other_slot))
        if merged is not None:
            spec = merged
            value = _limited(spec, value)
    return value


def _spec(node: Node, slot: SavedInput) -> InputSpec | None:
    if slot.widget is None:
        fake = read_input(slot.name, [slot.type, {}])
        return fake if fake is not None and has_widget(fake) else None
    widget = node.widget(slot.widget)
    if widget is None:
        return None
    return InputSpec(name="value", type=widget.spec.type, options=widget.spec.options)


def _merged(one: InputSpec, other: InputSpec | None) -> InputSpec | None:
    """What both allow; None when they differ in more than limits and step."""
    if other is None or one.type != other.type:
        return None
    least = max(number(one.options, "min", -1e300), number(other.options, "min", -1e300))
    most = min(number(one.options, "max", 1e300), number(other.options, "max", 1e300))
    keys = (set(one.options) | set(other.options)) - _IGNORED - {"min", "max", "step"}
    if least > most or any(one.options.get(key) != other.options.get(key) for key in keys):
        return None
    step = _common(number(one.options, "step", 1), number(other.options, "step", 1))
    limits = {"min": least, "max": most, "step": step}
    return InputSpec(name="value", type=one.type, options={**one.options, **other.options, **limits})


def _common(one: float, other: float) -> float:
    """The least common multiple, for steps that need not be integers."""
    a, b = one, other
    for _ in range(64):
        if b == 0:
            break
        a, b = b, a % b
    return abs(one * other) / a if a else 0


def _limited(spec: InputSpec, value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return value
    value = min(max(value, number(spec.options, "min", value)), number(spec.options, "max", value))
    return rounded(WidgetSpec(name="value", type=spec.type, options=spec.options), value)
