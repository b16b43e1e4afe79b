"""What a history entry says: how a prompt ended, and which files and texts it made. Pure."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from comfy_shared.errors import DeviceFailed, Interrupted, NodeFailed, OutOfMemory
from comfy_shared.models import Prompt, Shown
from comfy_shared.needs import names_model

MOST_EXECUTED = 1000  # nodes that an error names as done
LARGEST_SHOWN = 64 * 1024  # bytes


class FileReference(msgspec.Struct, frozen=True, kw_only=True):
    """A file that a node made, as /view takes it."""

    node: str
    kind: str  # images, gifs, audio, 3d …: the key that history lists it under
    filename: str
    subfolder: str
    type: str  # output or temp


class TextOutput(msgspec.Struct, frozen=True, kw_only=True):
    """A text that a node shows."""

    node: str
    text: str


_OF_DEVICE = re.compile(r"\b(CUDA|HIP|XPU|CUBLAS|cuBLAS|cuDNN) error\b|device-side assert|unspecified launch failure")


def judge(entry: Mapping[str, Any]) -> None:
    """Returns when the prompt ended in success.

    An interrupted prompt has status "error" too: only its last message tells the two apart.

    Raises:
        Interrupted, OutOfMemory, DeviceFailed, NodeFailed.
    """
    status = _mapping(entry.get("status"))
    if status.get("status_str") == "success":
        return
    messages = status.get("messages")
    last = messages[-1] if isinstance(messages, list) and messages else None
    kind, data = (last[0], _mapping(last[1])) if isinstance(last, list) and len(last) == 2 else ("", {})
    if kind == "execution_interrupted":
        raise Interrupted
    node, node_class = str(data.get("node_id", "")), str(data.get("node_type", ""))
    exception = str(data.get("exception_type", "unknown"))
    told = str(data.get("exception_message", ""))[:2000]
    text = told.strip()
    details: dict[str, Any] = {"node": node, "node_class": node_class, "exception": exception, "text": told}
    if isinstance(executed := data.get("executed"), list):
        details["executed"] = [str(item) for item in executed[:MOST_EXECUTED]]
    if "OutOfMemory" in exception or "out of memory" in text.lower():
        raise OutOfMemory(f"Out of memory in node {node} ({node_class}): {text}", details)
    if _OF_DEVICE.search(text) and exception in ("RuntimeError", "torch.AcceleratorError"):
        raise DeviceFailed(f"The GPU failed in node {node} ({node_class}): {text}", details)
    raise NodeFailed(f"Node {node} ({node_class}) failed: {exception}: {text}", details)


def _mapping(value: object) -> Mapping[str, Any]:
    """Custom nodes write into history too: what should be an object need not be one."""
    return value if isinstance(value, Mapping) else {}


def products(entry: Mapping[str, Any]) -> Iterator[FileReference | TextOutput]:
    """The files and texts of an entry, in the order of the nodes."""
    for node, shown in _mapping(entry.get("outputs")).items():
        if not isinstance(shown, Mapping):
            continue
        for kind, items in shown.items():
            for item in items if isinstance(items, list) else ():
                if isinstance(item, Mapping) and isinstance(item.get("filename"), str):
                    yield FileReference(
                        node=str(node),
                        kind=str(kind),
                        filename=item["filename"],
                        subfolder=str(item.get("subfolder") or ""),
                        type=str(item.get("type") or "output"),
                    )
                elif kind == "text" and isinstance(item, str):
                    yield TextOutput(node=str(node), text=item)


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """What a run cost: what the lane policy learns from."""

    gpu_ms: int  # from its start to its success; 0 when the entry does not tell
    cold: bool | None  # whether it had to load a model file; None when the entry does not tell


def measure(entry: Mapping[str, Any], prompt: Prompt) -> Measured:
    """The cost of a prompt that succeeded, from the messages of its entry. A loader that was cached loaded nothing."""
    messages: dict[str, Mapping[str, Any]] = {}
    for item in (entry.get("status") or {}).get("messages", []):
        if isinstance(item, list) and len(item) == 2 and isinstance(item[1], Mapping):
            messages[str(item[0])] = item[1]
    try:
        began = int(messages["execution_start"]["timestamp"])
        gpu_ms = max(0, int(messages["execution_success"]["timestamp"]) - began)
        cached = {str(node) for node in messages["execution_cached"]["nodes"]}
    except (KeyError, TypeError, ValueError):
        return Measured(gpu_ms=0, cold=None)
    loaders = {node for node, item in prompt.items() if any(map(names_model, item.get("inputs", {}).values()))}
    return Measured(gpu_ms=gpu_ms, cold=bool(loaders - cached))


def shown(entry: Mapping[str, Any]) -> bytes:
    """What ComfyUI clients are told of a success, as JSON of `Shown`; empty when it is too much to keep."""
    messages = _mapping(entry.get("status")).get("messages")
    cached = [item[1] for item in messages or () if isinstance(item, list) and item[:1] == ["execution_cached"]]
    nodes = _mapping(cached[0]).get("nodes") if cached else ()
    kept = msgspec.json.encode(
        Shown(
            outputs=dict(_mapping(entry.get("outputs"))),
            meta=dict(_mapping(entry.get("meta"))),
            cached=tuple(map(str, nodes)) if isinstance(nodes, list) else (),
        )
    )
    return kept if len(kept) <= LARGEST_SHOWN else b""


_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")


def safe_name(filename: str, taken: set[str]) -> str:
    """A file name made of what ComfyUI calls the file: no path, no odd characters, not among `taken` (it is added
    there)."""
    base = _UNSAFE.sub("_", filename.replace("\\", "/").rsplit("/", 1)[-1])[-120:].lstrip(".") or "output"
    name, number = base, 1
    while name in taken:
        number += 1
        stem, dot, extension = base.rpartition(".")
        name = f"{stem}-{number}.{extension}" if dot else f"{base}-{number}"
    taken.add(name)
    return name
