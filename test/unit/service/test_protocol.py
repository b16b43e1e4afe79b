"""Frames become values, whatever comes; recordings of the real ComfyUI replay without a step back."""

import json
import struct
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from comfy_service.instance.protocol import (
    Cached,
    Ended,
    Frame,
    Image,
    LogLines,
    NodeFinished,
    NodeOutput,
    NodeRunning,
    QueueStatus,
    Started,
    Step,
    Text,
    Tracker,
    parse_binary,
    parse_text,
)

RECORDINGS = sorted((Path(__file__).parents[2] / "fixtures" / "comfyui").glob("*.jsonl"))


def frame(kind: str, **data: Any) -> Frame | None:
    return parse_text(json.dumps({"type": kind, "data": data}))


STATE = {"1": {"state": "finished", "value": 1, "max": 1}, "2": {"state": "running", "value": 2.0, "max": 5}}


@pytest.mark.parametrize(
    ("kind", "data", "expected"),
    [
        (
            "status",
            {"status": {"exec_info": {"queue_remaining": 0}}, "sid": "cid-A"},
            QueueStatus(remaining=0, client_id="cid-A"),
        ),
        ("status", {"status": {"exec_info": {"queue_remaining": 3}}}, QueueStatus(remaining=3, client_id=None)),
        ("execution_start", {"prompt_id": "p", "timestamp": 1}, Started(prompt_id="p")),
        ("execution_cached", {"nodes": ["1", "2"], "prompt_id": "p"}, Cached(prompt_id="p", nodes=("1", "2"))),
        ("executing", {"node": "2", "display_node": "2", "prompt_id": "p"}, NodeRunning(prompt_id="p", node="2")),
        ("executing", {"node": "2"}, NodeRunning(prompt_id=None, node="2")),
        ("executing", {"node": None, "prompt_id": "p"}, Ended(prompt_id="p")),
        ("executing", {"node": None}, None),
        ("executed", {"node": "3", "output": {"images": []}, "prompt_id": "p"}, NodeOutput(prompt_id="p", node="3")),
        (
            "progress",
            {"value": 1, "max": 5, "prompt_id": "p", "node": "2"},
            Step(prompt_id="p", node="2", value=1.0, maximum=5.0),
        ),
        ("progress", {"value": 1, "max": 5}, Step(prompt_id=None, node=None, value=1.0, maximum=5.0)),
        (
            "progress_state",
            {"prompt_id": "p", "nodes": STATE},
            NodeFinished(prompt_id="p", finished=("1",), running={"2": (2.0, 5.0)}),
        ),
        ("execution_success", {"prompt_id": "p"}, Ended(prompt_id="p")),
        ("execution_error", {"prompt_id": "p", "node_id": "2"}, Ended(prompt_id="p")),
        ("execution_interrupted", {"prompt_id": "p", "node_id": "2"}, Ended(prompt_id="p")),
        ("logs", {"entries": [{"t": "now", "m": "got prompt\n"}], "size": None}, LogLines(lines=("got prompt\n",))),
        ("feature_flags", {"supports_preview_metadata": True}, None),
        ("something_new", {}, None),
    ],
)
def test_a_text_frame_is_what_comfyui_means_by_it(kind: str, data: dict[str, Any], expected: Frame | None) -> None:
    assert frame(kind, **data) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "no JSON",
        "[]",
        "null",
        '{"type": "progress"}',
        '{"type": ["progress"], "data": {}}',
        '{"type": "status", "data": []}',
        '{"type": "executing", "data": [1]}',
        '{"type": "progress_state", "data": {"prompt_id": "p", "nodes": {"1": 5}}}',
        '{"type": "logs", "data": {"entries": [5]}}',
        "[" * 100_000,
        # A number too large for a float used to raise OverflowError, and "nan" was taken: both ended the agent or
        # left a progress in the task's record that could not be read again.
        '{"type": "progress", "data": {"max": 5, "value": ' + "9" * 400 + "}}",
        '{"type": "progress", "data": {"max": 5, "value": "nan"}}',
        '{"type": "progress", "data": {"max": "inf", "value": 1}}',
        '{"type": "progress_state", "data": {"prompt_id": "p", "nodes": {"1": {"state": "running", "value": "nan"}}}}',
    ],
)
def test_a_text_frame_that_is_not_as_it_should_be_is_nothing(text: str) -> None:
    assert parse_text(text) is None


def with_metadata(metadata: object, picture: bytes = b"\xff\xd8") -> bytes:
    packed = json.dumps(metadata).encode()
    return struct.pack(">II", 4, len(packed)) + packed + picture


METADATA = {"node_id": "2", "prompt_id": "p", "image_type": "image/jpeg"}


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (struct.pack(">II", 1, 1) + b"\xff\xd8", Image(data=b"\xff\xd8", content_type="image/jpeg")),
        (struct.pack(">II", 1, 2) + b"\x89PNG", Image(data=b"\x89PNG", content_type="image/png")),
        (struct.pack(">II", 1, 9) + b"?", Image(data=b"?", content_type="application/octet-stream")),
        (with_metadata(METADATA), Image(data=b"\xff\xd8", content_type="image/jpeg", prompt_id="p", node="2")),
        (with_metadata({}), Image(data=b"\xff\xd8", content_type="application/octet-stream")),
        (struct.pack(">II", 3, 1) + b"1hello", Text(node="1", content=b"hello")),
        (struct.pack(">II", 3, 99) + b"1hello", None),
        (with_metadata([1]), None),
        (struct.pack(">II", 4, 1_000_000) + b"{", None),
        (struct.pack(">II", 4, 1) + b"\xff", None),
        (b"\x00\x00\x00\x01", None),
        (b"", None),
    ],
)
def test_a_binary_frame_is_a_picture_a_text_or_nothing(data: bytes, expected: Image | Text | None) -> None:
    assert parse_binary(data) == expected


KINDS = ["progress", "progress_state", "executing", "executed", "execution_start", "execution_cached", "status", "logs"]
NAMES = [
    "node",
    "prompt_id",
    "value",
    "max",
    "nodes",
    "status",
    "exec_info",
    "queue_remaining",
    "entries",
    "m",
    "state",
]
LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(["nan", "running", "1", "x"])
JSON = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=4),
    max_leaves=12,
)
PROMPT = {node: {"class_type": "A", "inputs": {}} for node in ("1", "2", "3", "x", "node", "value")}


@given(st.lists(st.tuples(st.sampled_from([*KINDS, "execution_success", "?"]), JSON), max_size=6))
def test_whatever_json_comes_nothing_raises_and_the_progress_can_be_stored(messages: list[tuple[str, object]]) -> None:
    tracker = Tracker(PROMPT)
    fraction = 0.0
    for kind, data in messages:
        parsed = parse_text(json.dumps({"type": kind, "data": data}))
        if parsed is not None:
            tracker.feed(parsed)
        progress = tracker.progress()
        assert fraction <= progress.fraction <= 1.0
        assert msgspec.json.decode(msgspec.json.encode(progress), type=type(progress)) == progress
        fraction = progress.fraction


@given(st.binary(max_size=64))
def test_whatever_bytes_come_nothing_raises(data: bytes) -> None:
    parse_text(data)
    parse_binary(data)
    for event in (1, 3, 4):
        parse_binary(struct.pack(">I", event) + data)


def test_the_fraction_is_nodes_done_plus_the_share_of_the_running_one() -> None:
    tracker = Tracker({str(node): {"class_type": f"Class{node}"} for node in range(4)})
    assert tracker.feed(Cached(prompt_id="p", nodes=("0",)))
    assert tracker.feed(NodeRunning(prompt_id="p", node="1"))
    assert tracker.feed(Step(prompt_id="p", node="1", value=1, maximum=2))
    progress = tracker.progress()
    assert (progress.fraction, progress.node, progress.node_class) == (0.375, "1", "Class1")
    assert (progress.value, progress.maximum, progress.nodes_done, progress.nodes_total) == (1, 2, 1, 4)


def test_a_frame_that_says_nothing_new_is_no_progress() -> None:
    tracker = Tracker({"1": {"class_type": "A"}})
    step = Step(prompt_id="p", node="1", value=1, maximum=2)
    assert tracker.feed(step)
    assert not tracker.feed(step)
    assert not tracker.feed(Started(prompt_id="p"))


@pytest.mark.parametrize("maximum", [0.0, -3.0])
def test_a_node_without_a_maximum_counts_as_not_begun(maximum: float) -> None:
    tracker = Tracker({"1": {"class_type": "A"}})
    tracker.feed(Step(prompt_id="p", node="1", value=5, maximum=maximum))
    assert tracker.progress().fraction == 0.0


def test_a_node_that_counts_beyond_its_maximum_is_no_more_than_done() -> None:
    tracker = Tracker({"1": {"class_type": "A"}, "2": {"class_type": "A"}})
    tracker.feed(Step(prompt_id="p", node="1", value=50, maximum=5))
    assert tracker.progress().fraction == 0.5


def test_the_fraction_stays_when_a_node_begins_to_count_again() -> None:
    """A node may run a second bar (tiles, then upscaling)."""
    tracker = Tracker({"1": {"class_type": "A"}, "2": {"class_type": "A"}})
    tracker.feed(Step(prompt_id="p", node="1", value=4, maximum=5))
    tracker.feed(Step(prompt_id="p", node="1", value=1, maximum=5))
    assert (tracker.progress().fraction, tracker.progress().value) == (0.4, 1)


def test_an_empty_prompt_has_no_progress_and_ends_whole() -> None:
    tracker = Tracker({})
    assert tracker.progress().fraction == 0.0
    assert tracker.finished().fraction == 1.0


def frames_of(lines: list[dict[str, Any]]) -> Iterator[Frame]:
    """The frames of one of our own recordings."""
    for line in lines:
        if "text" in line:
            parsed = parse_text(json.dumps(line["text"]))
        elif "hex" in line:
            parsed = parse_binary(bytes.fromhex(line["hex"]))
        else:
            continue
        if parsed is not None:
            yield parsed


@pytest.mark.parametrize("path", RECORDINGS, ids=lambda path: path.stem)
def test_a_recording_replays_and_its_fraction_never_goes_back(path: Path) -> None:
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    submitted = next(line for line in lines if "prompt" in line)
    tracker = Tracker(submitted["prompt"])
    fractions = [0.0]
    ended = False
    for parsed in frames_of(lines):
        tracker.feed(parsed)
        fractions.append(tracker.progress().fraction)
        ended = ended or parsed == Ended(prompt_id=submitted["prompt_id"])
    assert all(before <= after for before, after in pairwise(fractions))
    heard = submitted["client_id"] is not None
    assert ended == heard  # without a client id the ending is told to nobody
    if heard and lines[-1]["history"]["status"]["status_str"] == "success":
        assert fractions[-1] == 1.0


def test_the_recordings_show_every_picture_they_hold() -> None:
    pictures = {
        path.stem: [
            (parsed.content_type, parsed.node)
            for parsed in frames_of([*map(json.loads, path.read_text().splitlines())])
            if isinstance(parsed, Image)
        ]
        for path in RECORDINGS
    }
    assert pictures["websocket_image"] == [("image/png", None)]
    assert set(pictures["preview"]) == {("image/jpeg", None)}
    assert set(pictures["preview_with_metadata"]) == {("image/jpeg", "3")}
    assert pictures["text"] == []
