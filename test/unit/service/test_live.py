"""Which of an instance's frames are passed on to who watches, and as what."""

import json
import struct

import pytest

from comfy_service.instance.protocol import parse_binary, parse_text
from comfy_service.live import live_frame
from comfy_shared.live import LiveFrame


def passed(message: str | bytes, *, is_output: bool = False) -> LiveFrame | None:
    frame = parse_text(message) if isinstance(message, str) else parse_binary(message)
    assert frame is not None
    return live_frame("t1", 2, frame, message, node="7", is_output=is_output)


@pytest.mark.parametrize(
    ("kind", "data", "node"),
    [
        ("execution_start", {"prompt_id": "p", "timestamp": 1}, ""),
        ("execution_cached", {"prompt_id": "p", "nodes": ["1"], "timestamp": 1}, ""),
        ("executing", {"prompt_id": "p", "node": "3", "display_node": "3"}, "3"),
        ("progress", {"prompt_id": "p", "node": "3", "value": 1, "max": 2}, "3"),
        ("executed", {"prompt_id": "p", "node": "3", "output": {"text": ["a"]}}, "3"),
        ("progress_state", {"prompt_id": "p", "nodes": {"3": {"value": 1, "max": 2, "state": "running"}}}, ""),
    ],
)
def test_a_message_of_a_run_is_passed_on_as_it_is(kind: str, data: dict[str, object], node: str) -> None:
    expected = LiveFrame(task_id="t1", attempt=2, kind=kind, node=node, data=data)
    assert passed(json.dumps({"type": kind, "data": data})) == expected


@pytest.mark.parametrize("kind", ["execution_success", "execution_error", "execution_interrupted"])
def test_an_ending_is_not_passed_on(kind: str) -> None:
    """How a task ended is told by its events."""
    assert passed(json.dumps({"type": kind, "data": {"prompt_id": "p"}})) is None


def test_a_preview_keeps_its_places() -> None:
    meta = {"node_id": "3", "prompt_id": "p", "display_node_id": "4", "parent_node_id": None, "image_type": "image/png"}
    packed = json.dumps(meta).encode()
    found = passed(struct.pack(">II", 4, len(packed)) + packed + b"picture")
    data = {"image_type": "image/png", "display_node_id": "4", "parent_node_id": None}
    assert found == LiveFrame(task_id="t1", attempt=2, kind="preview", node="3", data=data, content=b"picture")


@pytest.mark.parametrize(("is_output", "kind"), [(True, "picture"), (False, "preview")])
def test_a_picture_without_metadata_belongs_to_the_running_node(is_output: bool, kind: str) -> None:
    found = passed(struct.pack(">II", 1, 2) + b"\x89PNG", is_output=is_output)
    data = {"image_type": "image/png"}
    assert found == LiveFrame(task_id="t1", attempt=2, kind=kind, node="7", data=data, content=b"\x89PNG")


def test_a_text_names_its_node() -> None:
    found = passed(struct.pack(">II", 3, 1) + b"1hello")
    assert found == LiveFrame(task_id="t1", attempt=2, kind="text", node="1", content=b"hello")
