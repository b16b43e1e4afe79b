"""An instance's frame → the live frame that balancers pass on to who watches. Pure."""

from typing import Any

import msgspec

from comfy_service.instance.protocol import (
    Cached,
    Frame,
    Image,
    NodeFinished,
    NodeOutput,
    NodeRunning,
    Started,
    Step,
    Text,
)
from comfy_shared.live import PICTURE, PREVIEW, TEXT, LiveFrame

_KINDS: dict[type[Any], str] = {
    Started: "execution_start",
    Cached: "execution_cached",
    NodeRunning: "executing",
    NodeFinished: "progress_state",
    Step: "progress",
    NodeOutput: "executed",
}


def live_frame(
    task_id: str, attempt: int, frame: Frame, message: str | bytes, *, node: str, is_output: bool
) -> LiveFrame | None:
    """The frame as it is passed on; None when it is not.

    `node` is the node that runs now, `is_output` whether a picture without a prompt id is an output of that node.
    """
    if isinstance(frame, Image):
        output = frame.prompt_id is None and is_output
        return LiveFrame(
            task_id=task_id,
            attempt=attempt,
            kind=PICTURE if output else PREVIEW,
            node=frame.node or node,
            data={"image_type": frame.content_type, **frame.places},
            content=frame.data,
        )
    if isinstance(frame, Text):
        return LiveFrame(task_id=task_id, attempt=attempt, kind=TEXT, node=frame.node, content=frame.content)
    kind = _KINDS.get(type(frame))
    if kind is None:
        return None
    data: dict[str, Any] = msgspec.json.decode(message)["data"]  # it was read as this frame before
    shown = str(data.get("node") or "")
    return LiveFrame(task_id=task_id, attempt=attempt, kind=kind, node=shown, data=data)
