"""Where an input's value comes from: through reroutes, bypassed nodes and the borders of subgraphs.

Each way is walked step by step, never by recursion; a circle is noticed, and the steps of one conversion are counted.
"""

import functools
from typing import Any

import msgspec

from comfy_shared.workflows.converting.editor import INPUTS_ID, Mode
from comfy_shared.workflows.converting.errors import ConversionError
from comfy_shared.workflows.converting.unfolding import Node, Role, Scope

MOST_STEPS = 300_000  # of all links of a graph; a bypassed node costs one for each of its inputs


class Origin(msgspec.Struct, frozen=True, kw_only=True):
    """What an input is linked to in the end: a node's output, or a widget shown on a subgraph."""

    node_id: str = ""
    slot: int = -1
    value: Any = None  # when there is no node: the widget's value


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """A place on the way: an input of a node, or one of its outputs."""

    node: Any  # Node
    slot: int
    type: str | None  # that the value must fit; None: what the input says
    output: bool


class Resolver:
    """Finds origins."""

    def __init__(self) -> None:
        self._left = MOST_STEPS

    def origin(self, node: Node, slot: int) -> Origin | None:
        """Where the input's value comes from; None when nothing is linked, or the way ends.

        Raises:
            ConversionError: the way goes in a circle or leads nowhere.
        """
        step: Step | Origin | None = Step(node=node, slot=slot, type=None, output=False)
        seen: set[tuple[str, int, bool]] = set()
        while isinstance(step, Step):
            place = (step.node.id, step.slot, step.output)
            if place in seen:
                raise step.node.error("its links go in a circle")
            seen.add(place)
            self._left -= 1
            if self._left < 0:
                raise ConversionError("the links are too entangled: reroutes and bypassed nodes without end")
            step = self._output(step) if step.output else self._input(step)
        return step

    def _input(self, step: Step) -> Step | Origin | None:
        node: Node = step.node
        if step.slot >= len(node.inputs):
            raise node.error(f"it has no input {step.slot}")
        slot = node.inputs[step.slot]
        if slot.link is None:
            return None
        link = node.scope.graph.links.get(slot.link)
        if link is None:
            raise node.error(f"its input {slot.name!r} has link {slot.link}, which does not exist")
        wanted = step.type or slot.type
        if link.origin == INPUTS_ID and node.scope.owner is not None:
            return self._outside(node.scope.owner, link.slot, wanted)
        origin = node.scope.nodes.get(link.origin)
        if origin is None:
            raise node.error(f"its input {slot.name!r} is linked to node {link.origin}, which does not exist")
        return Step(node=origin, slot=link.slot, type=wanted, output=True)

    def _outside(self, owner: Node, slot: int, wanted: str) -> Step | Origin | None:
        """From within a subgraph to what its instance is linked to, or to the widget that it shows."""
        if slot >= len(owner.inputs):
            raise owner.error(f"the subgraph has no input {slot}")
        if owner.inputs[slot].link is not None:
            return Step(node=owner, slot=slot, type=None, output=False)
        widget = owner.widget(owner.inputs[slot].name)
        return None if widget is None else Origin(value=widget.value)

    def _output(self, step: Step) -> Step | Origin | None:
        node: Node = step.node
        wanted = step.type or "*"
        if node.saved.mode == Mode.BYPASSED:
            self._left -= len(node.inputs)
            slot = _bypass(node, step.slot, wanted)
            return None if slot is None else Step(node=node, slot=slot, type=None, output=False)
        match node.role:
            case Role.SUBGRAPH:
                return self._inside(node, step.slot, wanted)
            case Role.VIRTUAL if step.slot >= len(node.inputs):
                return None
            case Role.VIRTUAL:
                return Step(node=node, slot=step.slot, type=wanted, output=False)
            case _:
                return Origin(node_id=node.id, slot=step.slot)

    def _inside(self, node: Node, slot: int, wanted: str) -> Step | Origin | None:
        """From an instance of a subgraph to the node within that its output comes from."""
        scope: Scope | None = node.inner
        if scope is None or slot >= len(scope.graph.outputs):
            raise node.error(f"the subgraph has no output {slot}")
        link = next(
            (scope.graph.links[link] for link in scope.graph.outputs[slot].links if link in scope.graph.links), None
        )
        if link is None:
            return None
        if link.origin == INPUTS_ID:
            return self._outside(node, link.slot, wanted)
        origin = scope.nodes.get(link.origin)
        if origin is None:
            raise node.error(f"output {slot} of the subgraph comes from node {link.origin}, which does not exist")
        return Step(node=origin, slot=link.slot, type=wanted, output=True)


def _bypass(node: Node, slot: int, wanted: str) -> int | None:
    """The input that stands for an output of a bypassed node: same place, same type, else the first that fits."""
    if slot >= len(node.outputs):
        raise node.error(f"it has no output {slot}")
    if wanted in ("*", ""):
        return (slot if slot < len(node.inputs) else 0) if node.inputs else None
    fits = [fit(each.type, node.outputs[slot]) and fit(each.type, wanted) for each in node.inputs]
    if slot < len(fits) and fits[slot]:
        return slot
    exact = next((i for i, each in enumerate(node.inputs) if each.type == wanted), None)
    return exact if exact is not None else next((i for i, fitting in enumerate(fits) if fitting), None)


@functools.lru_cache(maxsize=4096)
def fit(one: str, other: str) -> bool:
    """Whether a link between these types is allowed; a type may be a list with commas, `*` fits all."""
    ones, others = set(one.lower().split(",")), set(other.lower().split(","))
    return bool(ones & others or (ones | others) & {"", "*"})
