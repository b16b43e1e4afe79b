"""Who uses what in a prompt: which nodes lead to an output, which text is wanted and which not. Pure, never recursive.

A text encoder does not know whether its text is positive. What it is wired to does: a sampler's `positive` and
`negative`, directly or through nodes that take a conditioning and give one.
"""

from collections.abc import Iterator, Mapping
from enum import Enum, auto
from typing import Any

from comfy_shared.workflows.checks import is_link
from comfy_shared.workflows.values import Graph

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
        self._users: dict[str, list[tuple[int, str, str]]] = {}  # node → (its slot, user, the user's input)
        for node_id, node in prompt.items():
            for name, value in node["inputs"].items():
                if is_link(value):
                    self._users.setdefault(value[0], []).append((int(value[1]), node_id, name))

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
        """What the text in this node is for."""
        found, seen, waiting = Sense.NONE, {node_id}, [node_id]
        while waiting:
            current = waiting.pop()
            for slot, user, name in self.users(current):
                if self._type(current, slot) not in _CARRIED:
                    continue
                word = name.lower()
                if "negative" in word or "uncond" in word:
                    found = Sense.NEGATIVE if found is Sense.NONE else found
                    continue
                if "positive" in word or not self._carries(user):
                    found = Sense.POSITIVE if self._is_prompt(current, user, slot, word) else found
                    continue
                if user not in seen:
                    seen.add(user)
                    waiting.append(user)
            if found is Sense.POSITIVE:
                return found
        return found

    def _is_prompt(self, current: str, user: str, slot: int, word: str) -> bool:
        """Whether the way ends as a prompt: as a conditioning, or as a text in a class that reads it itself."""
        return "positive" in word or self._type(current, slot) == "CONDITIONING" or "prompt" in word

    def _carries(self, node_id: str) -> bool:
        node = self._prompt[node_id]
        return node["class_type"] not in _FORGETS and any(kind in _CARRIED for kind in self._outputs(node))

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

    def inputs_fed(self, node_id: str) -> Iterator[str]:
        """The names of the inputs that a node is linked to."""
        return (name for _, _, name in self.users(node_id))
