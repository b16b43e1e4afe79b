"""The story of one prompt as a client's sockets hear it: live frames while it runs, its end from the task's events.

Pure. Frames are decoration and may come late or not at all; so every attempt has a start, nothing of a prompt comes
after its end, and what the frames left out is made up for at the end. A node's `executed` is held until the task
completed, because only then its files are in the file store; what followed it directly comes after it.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from comfy_balancer.comfyui_api import shapes
from comfy_balancer.comfyui_api.shapes import Message
from comfy_shared.live import PICTURE, PREVIEW, TEXT, LiveFrame
from comfy_shared.models import Status, Task

MOST_HELD = 64  # messages
Told = Message | LiveFrame


@dataclass(kw_only=True, slots=True)
class Story:
    """What was told of one prompt."""

    task_id: str
    prompt_id: str
    owner: str
    client_id: str
    attempt: int = 0  # whose start was told
    ended: bool = False
    cached: bool = False  # whether it was told which nodes are cached
    shown: set[str] = field(default_factory=set)  # nodes that made something in this attempt
    node_is_wanted: bool = False  # who came back is to be told the running node first
    held: list[Message] | None = None  # what came after an `executed` that is not told yet

    def started(self, attempt: int, at: int) -> Iterator[Told]:
        """An attempt runs."""
        if not self.ended and attempt > self.attempt:
            self.attempt, self.cached, self.held = attempt, False, None
            self.shown.clear()
            yield shapes.start(self.prompt_id, at)

    def heard(self, frame: LiveFrame, now: int) -> Iterator[Told]:
        """A frame of an attempt."""
        if self.ended or frame.attempt < self.attempt:
            return
        if frame.kind == "execution_start":
            at = frame.data.get("timestamp")
            yield from self.started(frame.attempt, at if isinstance(at, int) else now)
            return
        yield from self.started(frame.attempt, now)
        if self.node_is_wanted and frame.node:
            self.node_is_wanted = False
            yield shapes.message("executing", node=frame.node)
        if frame.kind in (PREVIEW, PICTURE, TEXT):
            yield frame
        elif frame.kind == "executed":
            self.shown.add(frame.node)
            self.held = self.held if self.held is not None else []
        else:
            yield from self._message(frame)

    def _message(self, frame: LiveFrame) -> Iterator[Told]:
        told = shapes.message(frame.kind, **self._own(frame.data))
        if frame.kind == "execution_cached":
            self.cached = True
        if self.held is not None:
            if frame.kind == "progress_state" and len(self.held) < MOST_HELD:
                self.held.append(told)
                return
            yield from self.held
            self.held = None
        yield told

    def _own(self, data: dict[str, Any]) -> dict[str, Any]:
        """The data with the client's prompt id in the place of the instance's."""
        own = {**data, "prompt_id": self.prompt_id}
        nodes = data.get("nodes")
        if isinstance(nodes, dict):
            own["nodes"] = {
                node: {**state, "prompt_id": self.prompt_id} if isinstance(state, dict) else state
                for node, state in nodes.items()
            }
        return own

    def finished(self, task: Task) -> Iterator[Told]:
        """The task ended, as its record says; the caller tells the status and then `shapes.over`. Raises Damaged."""
        self.ended = True
        if task.status is Status.CANCELED and task.attempt == 0:
            return
        at = task.finished_at
        if self.attempt < task.attempt:
            self.attempt, self.cached = task.attempt, False
            yield shapes.start(self.prompt_id, task.started_at or at)
        if task.status is Status.COMPLETED:
            shown = shapes.shown_of(task)
            if not self.cached:
                yield shapes.cached(self.prompt_id, shown.cached, at)
            yield from shapes.executed(task, shown)
        yield from self.held or ()
        yield shapes.ending(task)
