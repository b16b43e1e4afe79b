"""ComfyUI's websocket frames as values. Pure: no sockets, no clock.

A frame that we do not know, or that is not what it should be, is None: the socket is a hint, and queue and history
are the truth.
`executing` with node null follows every ending (success, error, interruption): it says that the prompt is over, not
how it ended.
"""

import math
import struct
from collections.abc import Mapping
from typing import Any

import msgspec

from comfy_shared.models import Progress, Prompt


class QueueStatus(msgspec.Struct, frozen=True, kw_only=True):
    """How many prompts wait or run; the first frame of a socket also carries its client id."""

    remaining: int
    client_id: str | None


class Started(msgspec.Struct, frozen=True, kw_only=True):
    prompt_id: str


class Cached(msgspec.Struct, frozen=True, kw_only=True):
    """Nodes whose results are taken from the cache."""

    prompt_id: str
    nodes: tuple[str, ...]


class NodeRunning(msgspec.Struct, frozen=True, kw_only=True):
    """A node begins. After a reconnect the frame names no prompt."""

    prompt_id: str | None
    node: str


class NodeFinished(msgspec.Struct, frozen=True, kw_only=True):
    """Nodes that are done by now (of a cumulative progress_state), and where the running ones are."""

    prompt_id: str
    finished: tuple[str, ...]
    running: Mapping[str, tuple[float, float]]  # node → (value, maximum)


class Step(msgspec.Struct, frozen=True, kw_only=True):
    prompt_id: str | None
    node: str | None
    value: float
    maximum: float


class NodeOutput(msgspec.Struct, frozen=True, kw_only=True):
    """A node has something to show or keep."""

    prompt_id: str
    node: str


class Ended(msgspec.Struct, frozen=True, kw_only=True):
    """The prompt is over; history says how."""

    prompt_id: str


class Image(msgspec.Struct, frozen=True, kw_only=True):
    """A picture in a frame: a preview (with metadata), or the output of SaveImageWebsocket (without)."""

    data: bytes
    content_type: str
    prompt_id: str | None = None
    node: str | None = None
    places: Mapping[str, str | None] = {}  # display_node_id, parent_node_id, real_node_id, as far as they are told


class Text(msgspec.Struct, frozen=True, kw_only=True):
    """A text that a node shows while it runs; the frame names no prompt."""

    node: str
    content: bytes
    prompt_id: None = None


class LogLines(msgspec.Struct, frozen=True, kw_only=True):
    """Lines of the instance's own log, of whichever client."""

    lines: tuple[str, ...]


Frame = (
    QueueStatus | Started | Cached | NodeRunning | NodeFinished | Step | NodeOutput | Ended | Image | Text | LogLines
)

_ENDINGS = ("execution_success", "execution_error", "execution_interrupted")


def parse_text(frame: str | bytes) -> Frame | None:
    """A text frame as a value; None when it says nothing to us."""
    try:
        message = msgspec.json.decode(frame)
        kind, data = message["type"], message["data"]
        return _message(kind, data)
    except (msgspec.MsgspecError, KeyError, TypeError, ValueError, AttributeError, OverflowError, RecursionError):
        return None


def _message(kind: str, data: dict[str, Any]) -> Frame | None:
    match kind:
        case "progress":
            return Step(
                prompt_id=_optional(data.get("prompt_id")),
                node=_optional(data.get("node")),
                value=_finite(data["value"]),
                maximum=_finite(data["max"]),
            )
        case "progress_state":
            return _node_states(data)
        case "executing" if data["node"] is not None:
            return NodeRunning(prompt_id=_optional(data.get("prompt_id")), node=str(data["node"]))
        case "executing" if data.get("prompt_id"):
            return Ended(prompt_id=str(data["prompt_id"]))
        case "executed":
            return NodeOutput(prompt_id=str(data["prompt_id"]), node=str(data["node"]))
        case "execution_start":
            return Started(prompt_id=str(data["prompt_id"]))
        case "execution_cached":
            return Cached(prompt_id=str(data["prompt_id"]), nodes=tuple(str(node) for node in data["nodes"]))
        case "status":
            remaining = int(data["status"]["exec_info"]["queue_remaining"])
            return QueueStatus(remaining=remaining, client_id=_optional(data.get("sid")))
        case "logs":
            return LogLines(lines=tuple(str(entry["m"]) for entry in data["entries"]))
        case _ if kind in _ENDINGS:
            return Ended(prompt_id=str(data["prompt_id"]))
    return None


def _node_states(data: dict[str, Any]) -> NodeFinished:
    nodes: dict[str, dict[str, Any]] = data["nodes"]
    return NodeFinished(
        prompt_id=str(data["prompt_id"]),
        finished=tuple(node for node, state in nodes.items() if state["state"] == "finished"),
        running={
            node: (_finite(state["value"]), _finite(state["max"]))
            for node, state in nodes.items()
            if state["state"] == "running"
        },
    )


def _finite(value: Any) -> float:
    """A number that JSON can hold again: a node may count to "nan"."""
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"{value!r} is no finite number")
    return number


def _optional(value: object) -> str | None:
    return None if value is None else str(value)


_PLACES = ("display_node_id", "parent_node_id", "real_node_id")
_FORMATS = {1: "image/jpeg", 2: "image/png"}


def parse_binary(frame: bytes) -> Image | Text | None:
    """A binary frame (big-endian u32 event type first) as a value; None when it holds no picture and no text."""
    try:
        (event,) = struct.unpack_from(">I", frame)
        (second,) = struct.unpack_from(">I", frame, 4)
    except struct.error:
        return None
    if event == 1:
        return Image(data=frame[8:], content_type=_FORMATS.get(second, "application/octet-stream"))
    if event == 3 and second <= len(frame) - 8:
        return Text(node=frame[8 : 8 + second].decode(errors="replace"), content=frame[8 + second :])
    if event == 4:
        try:
            meta = msgspec.json.decode(frame[8 : 8 + second], type=dict[str, Any])
        except (msgspec.MsgspecError, ValueError, RecursionError):
            return None
        return Image(
            data=frame[8 + second :],
            content_type=str(meta.get("image_type", "application/octet-stream")),
            prompt_id=_optional(meta.get("prompt_id")),
            node=_optional(meta.get("node_id")),
            places={name: _optional(meta[name]) for name in _PLACES if name in meta},
        )
    return None


_Place = tuple[float, str | None, float, float, int]  # fraction, node, value, maximum, nodes done


class Tracker:
    """How far one prompt is, from its frames. Its fraction never goes back: nodes done plus the share of the running
    one."""

    def __init__(self, prompt: Prompt) -> None:
        self._classes = {node: str(entry.get("class_type")) for node, entry in prompt.items()}
        self._done: set[str] = set()
        self._node: str | None = None
        self._value = 0.0
        self._maximum = 0.0
        self._fraction = 0.0
        self._place = self._measured()

    @property
    def node(self) -> str | None:
        """The node that runs now, as far as is known."""
        return self._node

    def feed(self, frame: Frame) -> bool:
        """Takes in a frame of this prompt; True when the progress changed."""
        match frame:
            case Cached():
                self._done.update(frame.nodes)
            case NodeRunning():
                self._enter(frame.node)
            case NodeFinished():
                self._done.update(frame.finished)
                for node, (value, maximum) in frame.running.items():
                    self._enter(node)
                    self._value, self._maximum = value, maximum
            case Step():
                if frame.node is not None:
                    self._enter(frame.node)
                self._value, self._maximum = frame.value, frame.maximum
            case _:
                return False
        before, self._place = self._place, self._measured()
        return self._place != before

    def _enter(self, node: str) -> None:
        if node != self._node:
            self._node, self._value, self._maximum = node, 0.0, 0.0

    def _measured(self) -> _Place:
        total = len(self._classes)
        done = len(self._done & self._classes.keys())
        share = 0.0
        if self._node not in self._done and self._maximum > 0:
            share = min(max(self._value / self._maximum, 0.0), 1.0)
        self._fraction = max(self._fraction, min((done + share) / total, 1.0) if total else 0.0)
        return round(self._fraction, 4), self._node, self._value, self._maximum, done

    def progress(self) -> Progress:
        fraction, node, value, maximum, done = self._place
        return Progress(
            fraction=fraction,
            node=node,
            node_class=self._classes.get(node or ""),
            value=value,
            maximum=maximum,
            nodes_done=done,
            nodes_total=len(self._classes),
        )

    def finished(self) -> Progress:
        """The progress of a prompt that succeeded: all of it, whatever frames were missed."""
        return msgspec.structs.replace(self.progress(), fraction=1.0, nodes_done=len(self._classes))
