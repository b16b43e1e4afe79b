"""Two pure questions about a prompt: in which order its nodes run, and under which key a node's outputs are remembered.

Order: of the nodes whose inputs are ready, an output node goes first, then one that feeds an output node directly,
then one two steps before an output node, else the one found first. Key: the node's class and inputs and those of all
its ancestors; node ids do not count, so equal branches share their outputs (classes that ask for their own id
excepted).
"""

from collections.abc import Callable
from typing import Any

Prompt = dict[str, dict[str, Any]]
Key = tuple[Any, ...]


def is_link(value: Any) -> bool:
    """Whether an input value is `[node id, output index]`."""
    return (
        isinstance(value, list)
        and len(value) == 2
        and isinstance(value[0], str)
        and isinstance(value[1], int | float)
        and not isinstance(value[1], bool)
    )


class RunOrder:
    """The nodes still to run, handed out one by one. `is_cached` is asked when a node is added: cached ancestors do not
    run.
    """

    def __init__(
        self, prompt: Prompt, is_cached: Callable[[str], bool], is_output: Callable[[str], bool], outputs: list[str]
    ) -> None:
        self._prompt = prompt
        self._is_cached = is_cached
        self._is_output = is_output
        self._waits_for: dict[str, set[str]] = {}
        self._blocks: dict[str, list[str]] = {}
        for output in outputs:
            self._add(output)

    def _add(self, output: str) -> None:
        found = [output]
        links: list[tuple[str, str]] = []
        while found:
            node_id = found.pop()
            if node_id in self._waits_for:
                continue
            self._waits_for[node_id] = set()
            self._blocks[node_id] = []
            for value in self._prompt[node_id]["inputs"].values():
                if is_link(value) and not self._is_cached(value[0]):
                    found.append(value[0])
                    links.append((value[0], node_id))
        for source, target in links:
            if source not in self._waits_for[target]:
                self._waits_for[target].add(source)
                self._blocks[source].append(target)

    def __bool__(self) -> bool:
        return bool(self._waits_for)

    def next(self) -> str:
        """The node to run now. Validation has refused cycles, so one is always ready."""
        ready = [node_id for node_id, sources in self._waits_for.items() if not sources]
        for distance in (0, 1, 2):
            for node_id in ready:
                if self._reaches_output(node_id, distance):
                    return node_id
        return ready[0]

    def _reaches_output(self, node_id: str, distance: int) -> bool:
        if distance == 0:
            return self._is_output(node_id)
        return any(self._reaches_output(target, distance - 1) for target in self._blocks[node_id])

    def finished(self, node_id: str) -> None:
        """The node has run: what waited for it may follow."""
        del self._waits_for[node_id]
        for target in self._blocks.pop(node_id):
            self._waits_for[target].discard(node_id)


def cache_keys(prompt: Prompt, fingerprint: Callable[[str], Any], needs_id: Callable[[str], bool]) -> dict[str, Key]:
    """The key of every node; `fingerprint(node_id)` adds what else the outputs depend on (a file's content, say)."""
    fingerprints = {node_id: fingerprint(node_id) for node_id in prompt}
    keys: dict[str, Key] = {}
    for node_id in prompt:
        ranks: dict[str, int] = {}
        _rank_ancestors(prompt, node_id, ranks)
        keys[node_id] = tuple(_own_key(prompt, each, ranks, fingerprints, needs_id) for each in (node_id, *ranks))
    return keys


def _rank_ancestors(prompt: Prompt, node_id: str, ranks: dict[str, int]) -> None:
    inputs = prompt[node_id].get("inputs", {}) if node_id in prompt else {}
    for name in sorted(inputs):
        value = inputs[name]
        if is_link(value) and value[0] not in ranks:
            ranks[value[0]] = len(ranks)
            _rank_ancestors(prompt, value[0], ranks)


def _own_key(
    prompt: Prompt,
    node_id: str,
    ranks: dict[str, int],
    fingerprints: dict[str, Any],
    needs_id: Callable[[str], bool],
) -> Key:
    node = prompt.get(node_id)
    if node is None:
        return (object(),)  # a missing node equals nothing
    class_type = node["class_type"]
    inputs = node["inputs"]
    parts: list[Any] = [class_type, fingerprints[node_id], node_id if needs_id(class_type) else None]
    for name in sorted(inputs):
        value = inputs[name]
        parts.append((name, ("link", ranks[value[0]], value[1]) if is_link(value) else _hashable(value)))
    return tuple(parts)


def _hashable(value: Any) -> Any:
    if isinstance(value, dict):
        return ("dict", *((key, _hashable(value[key])) for key in sorted(value)))
    if isinstance(value, list):
        return ("list", *map(_hashable, value))
    return value
