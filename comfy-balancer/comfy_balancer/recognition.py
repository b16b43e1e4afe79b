"""Graphs that are like one before: what was checked whole once is not checked again for another seed or text.

Clients send the same graph over and over. So each node is looked up by its bytes; it stands for a *kind*: everything of
it that some check looks at. A value that is only held against its type and limits ("plain": a seed, a text, a number of
steps) is held against them here, once, and is no part of the kind; any other is, as it is written. A graph whose ids
and kinds, in their order, are those of a graph that passed all checks passes them too. Of a body that is nearly the
same as one before (`moulds`) not even all nodes are looked up.

What is remembered holds for one role and for the offers of now. It can only say yes: what is not recognised is checked
whole, which also finds the words for what is wrong. Nothing is recognised of graphs that name files.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from comfy_balancer.checks import file_inputs, names_file, path_trick
from comfy_balancer.drafts import Draft, check_fields
from comfy_balancer.linked_names import links_to_names
from comfy_balancer.moulds import MOST_HOLES, MOST_MOULDS, Mould, Node, cut
from comfy_balancer.schemas import TaskRequest
from comfy_balancer.settings import BalancerSettings
from comfy_shared.callers import Caller
from comfy_shared.models import PRIORITY_NORMAL, Needs, Prompt
from comfy_shared.needs import Offer, is_upload, needs_of
from comfy_shared.workflows.values import INTEGER_HIGHEST, INTEGER_LOWEST

LARGEST_BODY = 1024 * 1024  # bytes; a larger one is read by the whole checks only
LARGEST_NODE = 4096  # bytes
MOST_NEW = 16  # nodes of a graph that were never seen: with more it is hardly like one before
MOST_BYTES = 8 * 1024 * 1024  # of nodes; then these are forgotten
MOST_KINDS = 5_000  # then everything is forgotten
MOST_REMEMBERED = 50_000  # nodes of remembered graphs; the same
MOST_CUTS = 32  # moulds that are made of one graph: with more, something else in its bodies changes each time
TYPES: dict[str, tuple[type, ...]] = {"INT": (int,), "FLOAT": (int, float), "STRING": (str,), "BOOLEAN": (bool,)}

Nodes = Mapping[str, msgspec.Raw]
Rule = Callable[[Any], bool]


class RawRequest(TaskRequest, frozen=True, kw_only=True):
    """A request whose nodes are still bytes."""

    prompt: dict[str, msgspec.Raw] | None = None


_decoder = msgspec.json.Decoder(RawRequest)


def read_raw(body: bytes) -> RawRequest | None:
    """The request, if it is one with a graph and nothing that decides where it may run; its nodes are not read yet."""
    if len(body) > LARGEST_BODY:
        return None
    try:
        request = _decoder.decode(body)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        return None
    plain = request.prompt and request.workflow is None and not request.parameters and not request.require
    return request if plain else None


def _nodes_in(body: bytes) -> Nodes | None:
    raw = read_raw(body)
    return raw.prompt if raw else None


def may_wish(request: RawRequest, who: Caller, settings: BalancerSettings) -> bool:
    """Whether there is nothing to say against what the request wishes besides its graph."""
    return (request.priority <= PRIORITY_NORMAL or who.is_admin) and not check_fields(request, settings)


class Recognised(msgspec.Struct, frozen=True, kw_only=True):
    """A request whose graph needs no more checks."""

    request: RawRequest  # without its graph
    prompt: bytes  # as it is stored: each node decoded and encoded again
    needs: Needs

    def draft(self) -> Draft:
        return Draft(request=self.request, prompt=self.prompt, needs=self.needs, parameters={}, workflow=None, slots=())


class Recognizer:
    """The memory of one role. Two threads may use it: each looks at one memory, whole."""

    def __init__(self) -> None:
        self._memory = _Memory(())

    def at_once(self, body: bytes, offers: Sequence[Offer]) -> Recognised | None:
        """The request, if it is nearly the same, byte for byte, as one that was recognised."""
        memory = self._memory
        return memory.at_once(body) if memory.fits(offers) else None

    def recognise(self, body: bytes, raw: RawRequest, offers: Sequence[Offer]) -> Recognised | None:
        """The request that was read from `body`, if its graph is like one that passed all checks against these
        offers."""
        memory = self._memory
        return memory.recognise(body, raw) if memory.fits(offers) else None

    def remember(self, nodes: Nodes, offers: Sequence[Offer]) -> None:
        """This graph just passed all checks against these offers."""
        if self._memory.full or not self._memory.fits(offers):
            self._memory = _Memory(offers)
        self._memory.remember(nodes)


class _Graph:
    """A graph that passed all checks."""

    def __init__(self, needs: Needs, found: Sequence[Node]) -> None:
        self.needs = needs
        self.changing: set[int] = set()  # indexes of nodes that were not always the same, as far as anybody looked
        self.cuts = 0
        self._last = found

    def see(self, found: Sequence[Node]) -> None:
        """Another one like it, and what its nodes are."""
        if len(self.changing) <= MOST_HOLES:
            pairs = enumerate(zip(self._last, found, strict=True))
            self.changing |= {at for at, (old, new) in pairs if old is not new and bytes(old[1]) != bytes(new[1])}
            self._last = found


class _Memory:
    """What passed against some offers."""

    def __init__(self, offers: Sequence[Offer]) -> None:
        self._offers = offers
        self._nodes: dict[bytes, Node] = {}  # as sent → what it is
        self._bytes = 0  # of these
        self._kinds: dict[object, int] = {}
        self._rules: dict[tuple[str, str], Rule | None] = {}
        self._graphs: dict[tuple[tuple[str, ...], tuple[int, ...]], _Graph] = {}  # by (ids, kinds)
        self._remembered = 0  # nodes of these
        self._moulds: list[tuple[Mould, RawRequest, Needs]] = []  # the last used first

    @property
    def full(self) -> bool:
        return self._remembered > MOST_REMEMBERED or len(self._kinds) > MOST_KINDS

    def fits(self, offers: Sequence[Offer]) -> bool:
        """Whether it is about these: an offer never changes."""
        return self._offers is offers

    def at_once(self, body: bytes) -> Recognised | None:
        for at, known in enumerate(self._moulds):
            mould, request, needs = known
            prompt = mould.fill(body, self._node_of)
            if prompt is not None:
                if at:
                    self._moulds.insert(0, self._moulds.pop(at))
                return Recognised(request=request, prompt=prompt, needs=needs)
        return None

    def recognise(self, body: bytes, raw: RawRequest) -> Recognised | None:
        nodes = raw.prompt or {}
        found = self._look_up(nodes, new=MOST_NEW)
        graph = found and self._graphs.get((tuple(nodes), tuple([kind for kind, _ in found])))
        if not found or not graph:
            return None
        request = msgspec.structs.replace(raw, prompt=None)
        graph.see(found)
        if graph.cuts < MOST_CUTS:
            graph.cuts += 1
            sent = {node_id: bytes(node) for node_id, node in nodes.items()}
            if mould := cut(body, sent, found, graph.changing, _nodes_in):
                self._moulds = [(mould, request, graph.needs), *self._moulds[: MOST_MOULDS - 1]]
        stored = {node_id: node for node_id, (_, node) in zip(nodes, found, strict=True)}
        return Recognised(request=request, prompt=msgspec.json.encode(stored), needs=graph.needs)

    def remember(self, nodes: Nodes) -> None:
        found = self._look_up(nodes, new=len(nodes))
        if not found:
            return
        prompt = {node_id: msgspec.json.decode(raw) for node_id, raw in nodes.items()}
        if not _names_files(prompt, self._offers):
            key = tuple(nodes), tuple([kind for kind, _ in found])
            self._graphs[key] = _Graph(needs_of(prompt, self._offers), found)
            self._remembered += len(nodes)

    def _look_up(self, nodes: Nodes, *, new: int) -> list[Node] | None:
        """What each node stands for; None when one of them has no kind, or more than `new` were never seen."""
        known = self._nodes
        found = []
        for raw in nodes.values():
            node = known.get(bytes(raw))
            if node is None:
                new -= 1
                node = self._learn(bytes(raw)) if new >= 0 else None
                if node is None:
                    return None
            found.append(node)
        return found

    def _node_of(self, raw: bytes) -> Node | None:
        return self._nodes.get(raw) or self._learn(raw)

    def _learn(self, raw: bytes) -> Node | None:
        if len(raw) > LARGEST_NODE or len(self._kinds) > MOST_KINDS:
            return None
        try:
            node = msgspec.json.decode(raw)
            kind = self._kind_of(node)
            if kind is None:
                return None
            stored = msgspec.Raw(msgspec.json.encode(node))
        except (msgspec.MsgspecError, RecursionError, UnicodeError):
            return None
        if self._bytes > MOST_BYTES:
            self._nodes, self._bytes = {}, 0
        self._bytes += len(raw)
        known = self._kinds.setdefault(kind, len(self._kinds)), stored
        self._nodes[raw] = known
        return known

    def _kind_of(self, node: Any) -> object | None:
        """Class, names, links and values of a node, without the plain values; None when it is out of the ordinary."""
        if not isinstance(node, dict) or not node.keys() <= {"class_type", "inputs", "_meta"}:
            return None
        class_type, inputs, meta = node.get("class_type"), node.get("inputs"), node.get("_meta", {})
        if not isinstance(class_type, str) or not isinstance(inputs, dict):
            return None
        if not isinstance(meta, dict) or not all(isinstance(value, str) for value in meta.values()):
            return None
        parts = [self._part_of(class_type, name, value) for name, value in inputs.items()]
        return None if None in parts else (class_type, *parts)

    def _part_of(self, class_type: str, name: str, value: Any) -> object | None:
        if isinstance(value, list):
            link = len(value) == 2 and type(value[0]) is str and type(value[1]) is int
            return (name, *value) if link else None
        if isinstance(value, dict):
            return None
        key = (class_type, name)
        if key not in self._rules:
            self._rules[key] = rule_of(class_type, name, self._offers)
        rule = self._rules[key]
        return name if rule and rule(value) else (name, type(value), value)


def rule_of(class_type: str, name: str, offers: Sequence[Offer]) -> Rule | None:
    """Whether a value is fine for this input on every agent, whatever the rest of the graph; None: that depends."""
    entries = [offer.specification(class_type, name) or [None] for offer in offers if offer.knows(class_type)]
    kinds = {entry[0] if isinstance(entry[0], str) else "" for entry in entries}
    if len(kinds) != 1 or not kinds <= TYPES.keys() or any(is_upload(entry) for entry in entries):
        return None
    types = TYPES[kinds.pop()]
    if types == (str,):
        if names_file(name):
            return lambda value: type(value) is str and path_trick(value) is None
        return lambda value: type(value) is str
    options = [entry[1] if len(entry) > 1 and isinstance(entry[1], Mapping) else {} for entry in entries]
    lowest = max([INTEGER_LOWEST, *_numbers(options, "min")])
    highest = min([INTEGER_HIGHEST, *_numbers(options, "max")])
    return lambda value: type(value) in types and lowest <= value <= highest


def _numbers(options: Sequence[Mapping[str, Any]], name: str) -> list[float]:
    return [one[name] for one in options if isinstance(one.get(name), int | float)]


def _names_files(prompt: Prompt, offers: Sequence[Offer]) -> bool:
    """Whether the graph takes files of ours, or the name of a file over a link: then it depends on more than that."""
    return any(True for _ in file_inputs(prompt, offers)) or any(True for _ in links_to_names(prompt, offers))
