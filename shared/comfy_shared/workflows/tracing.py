"""Who uses what in a prompt: which nodes lead to an output, which text is wanted and which not. Pure, never recursive.

A text encoder does not know whether its text is positive. What it is wired to does: a sampler's `positive` and
`negative`, directly or through nodes that take a conditioning and give one.
"""

from collections.abc import Iterator, Mapping
from enum import Enum, auto
from typing import Any

from comfy_shared.workflows.checks import is_link
from comfy_shared.workflows.values import Graph

MOST_SLOTS = 1_000  # outputs of one node; a link from beyond leads to none
_CARRIED = ("CONDITIONING", "STRING")  # what may hold a prompt's text on its way
_FORGETS = frozenset({"ConditioningZeroOut"})  # takes a conditioning, and nothing of the text comes out


class Sense(Enum):
    """What a text is for."""

    POSITIVE = auto()
    NEGATIVE = auto()
    NONE = auto()  # it ends in no conditioning


class Uses:
    """The links of a prompt, from the giving side."""

    def __init__(self, prompt: Graph, object_info: Mapping[str, Any]) -> None:
        self._prompt = prompt
        self._info = object_info
        self._senses: dict[str, Sense] | None = None
        self._users: dict[str, list[tuple[int, str, str]]] = {}  # node → (its slot, user, the user's input)
        for node_id, node in prompt.items():
            for name, value in node["inputs"].items():
                if is_link(value):
                    slot = int(value[1]) if abs(value[1]) < MOST_SLOTS else -1
                    self._users.setdefault(value[0], []).append((slot, node_id, name))

    def users(self, node_id: str) -> list[tuple[int, str, str]]:
        """Who is linked to this node: (its output slot, the other node, that node's input)."""
        return self._users.get(node_id, [])

    def needed(self) -> set[str]:
        """The nodes that lead to an output; all when no class is known to make one."""
        waiting = [node_id for node_id, node in self._prompt.items() if self._entry(node).get("output_node") is True]
        if not waiting:
            return set(self._prompt)
        found = set(waiting)
        while waiting:
            for value in self._prompt[waiting.pop()]["inputs"].values():
                if is_link(value) and value[0] in self._prompt and value[0] not in found:
                    found.add(value[0])
                    waiting.append(value[0])
        return found

    def sense(self, node_id: str) -> Sense:
        """What the text in this node is for; what is wanted somewhere is wanted."""
        if self._senses is None:
            self._senses = self._spread(Sense.NEGATIVE) | self._spread(Sense.POSITIVE)
        return self._senses.get(node_id, Sense.NONE)

    def _spread(self, sense: Sense) -> dict[str, Sense]:
        """All nodes whose text ends in this sense: backwards from where it is told, each node once."""
        sources: dict[str, list[str]] = {}  # user → nodes whose text goes on through it
        found: dict[str, Sense] = {}
        waiting: list[str] = []
        for source, users in self._users.items():
            for slot, user, name in users:
                told = self._told(source, slot, user, name.lower())
                if told is sense:
                    waiting.append(source)
                elif told is Sense.NONE:
                    sources.setdefault(user, []).append(source)
        while waiting:
            node_id = waiting.pop()
            if node_id not in found:
                found[node_id] = sense
                waiting += sources.get(node_id, [])
        return found

    def _told(self, source: str, slot: int, user: str, word: str) -> Sense | None:
        """What a link says of the text that comes through it. NONE: its user passes it on; None: there it ends."""
        kind = self._type(source, slot) if source in self._prompt else ""
        if kind not in _CARRIED or self._prompt[user]["class_type"] in _FORGETS:
            return None
        if "negative" in word or "uncond" in word:
            return Sense.NEGATIVE
        if "positive" in word:
            return Sense.POSITIVE
        if self._carries(user):
            return Sense.NONE
        return Sense.POSITIVE if kind == "CONDITIONING" or "prompt" in word else None

    def _carries(self, node_id: str) -> bool:
        return any(kind in _CARRIED for kind in self._outputs(self._prompt[node_id]))

    def _type(self, node_id: str, slot: int) -> str:
        outputs = self._outputs(self._prompt[node_id])
        return outputs[slot] if 0 <= slot < len(outputs) else ""

    def _outputs(self, node: Mapping[str, Any]) -> list[str]:
        outputs = self._entry(node).get("output")
        return [kind if isinstance(kind, str) else "" for kind in outputs] if isinstance(outputs, list) else []

    def _entry(self, node: Mapping[str, Any]) -> Mapping[str, Any]:
        entry = self._info.get(node["class_type"])
        return entry if isinstance(entry, Mapping) else {}

    def gives_only(self, node_id: str, kind: str) -> bool:
        """Whether all that is used of a node are outputs of one type."""
        used = [self._type(node_id, slot) for slot, _, _ in self.users(node_id)]
        return bool(used) and all(each == kind for each in used)

    def gives(self, node_id: str, kind: str) -> bool:
        """Whether a node has an output of this type."""
        return kind in self._outputs(self._prompt[node_id])

    def inputs_fed(self, node_id: str) -> Iterator[str]:
        """The names of the inputs that a node is linked to."""
        return (name for _, _, name in self.users(node_id))
