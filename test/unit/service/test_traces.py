"""The measured traces of the real ComfyUI, where a developer has them beside the repository: nothing raises, no
progress goes back."""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from comfy_service.instance.protocol import Tracker, parse_binary, parse_text

FOLDER = Path(__file__).parents[4] / "shared" / "comfyui" / "traces"
TRACES = sorted(FOLDER.glob("*.jsonl"))


def submitted(events: list[dict[str, Any]]) -> dict[str, Any]:
    """The graphs of a trace by prompt id."""
    found = {}
    for event in events:
        request, answer = event.get("req"), event.get("resp")
        if event.get("path") == "/prompt" and isinstance(request, dict) and isinstance(answer, dict):
            graph = request.get("prompt")
            if "prompt_id" in answer and isinstance(graph, dict):
                found[answer["prompt_id"]] = graph
    return found


@pytest.mark.skipif(not TRACES, reason="the traces are not beside the repository")
@pytest.mark.parametrize("path", TRACES, ids=lambda path: path.stem)
def test_a_trace_replays_and_no_fraction_goes_back(path: Path) -> None:
    events = [json.loads(line) for line in path.read_text().splitlines()]
    trackers = {prompt_id: Tracker(graph) for prompt_id, graph in submitted(events).items()}
    fractions: dict[str, list[float]] = {prompt_id: [0.0] for prompt_id in trackers}
    parsed_any = False
    for event in events:
        if event["ev"] == "ws_bin":
            parse_binary(bytes.fromhex(event["head_hex"]))
        elif event["ev"] == "ws_text":
            frame = parse_text(json.dumps(event["msg"]))
            parsed_any = parsed_any or frame is not None
            prompt_id = getattr(frame, "prompt_id", None)
            if frame is not None and prompt_id in trackers:
                trackers[prompt_id].feed(frame)
                fractions[prompt_id].append(trackers[prompt_id].progress().fraction)
    assert parsed_any or not any(event["ev"] == "ws_text" for event in events)
    for seen in fractions.values():
        assert all(before <= after for before, after in pairwise(seen))
