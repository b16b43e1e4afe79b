"""`core/ASSET` references of a graph: where they stand, and the graph with files in their place. Pure functions.

A reference is the whole value of a node's input, where a file's name would stand; the agent puts the file on its
instance and that instance's name into the graph. Within a list or an object of an input there is no place for a file.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

TAG = "core/ASSET"
LONGEST_ID = 200  # characters of an id that is told back


class Reference(msgspec.Struct, frozen=True, kw_only=True):
    """One reference."""

    node: str
    input: str
    id: str | None  # of the asset
    hash: str | None  # a hint: blake3:HEX
    formed: bool  # it has the block that says which asset

    @property
    def told(self) -> str:
        """How a refusal names it."""
        if not self.formed:
            return "<malformed core/ASSET: missing info>"
        return "<no id>" if self.id is None else self.id[:LONGEST_ID]


def is_reference(value: object) -> bool:
    """Whether a value claims to be one; whether it is well formed is another question."""
    return isinstance(value, dict) and value.get("__type") == TAG


def find_references(workflow: Mapping[str, Any]) -> list[Reference]:
    """The references that stand as the value of an input."""
    return [
        _read(node_id, name, value)
        for node_id, node in workflow.items()
        for name, value in _inputs(node).items()
        if is_reference(value)
    ]


def _read(node_id: str, name: str, value: Mapping[str, Any]) -> Reference:
    info = value.get("info")
    block = info if isinstance(info, dict) else {}
    found, hint = block.get("id"), block.get("hash")
    return Reference(
        node=node_id,
        input=name,
        id=found if isinstance(found, str) else None,
        hash=hint if isinstance(hint, str) else None,
        formed=isinstance(info, dict),
    )


def misplaced(workflow: Mapping[str, Any]) -> Iterator[str]:
    """Ids of the nodes that hold a reference elsewhere. Walks level by level: no depth exhausts the stack."""
    for node_id, node in workflow.items():
        level = [value for value in _inputs(node).values() if not is_reference(value)]
        if isinstance(node, dict):
            level += [value for name, value in node.items() if name != "inputs"]
        while level:
            value = level.pop()
            if is_reference(value):
                yield node_id
                break
            if isinstance(value, dict | list):
                level += value.values() if isinstance(value, dict) else value


def put_files(workflow: Mapping[str, Any], files: Mapping[str, Mapping[str, str]]) -> dict[str, Any]:
    """The graph with `files` (node → input → value) in place."""
    return {
        node_id: {**node, "inputs": {**node["inputs"], **files[node_id]}} if node_id in files else node
        for node_id, node in workflow.items()
    }


def _inputs(node: Any) -> Mapping[str, Any]:
    inputs = node.get("inputs") if isinstance(node, dict) else None
    return inputs if isinstance(inputs, dict) else {}
