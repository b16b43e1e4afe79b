"""The simulator, put through the recorded scenarios, sends what the real ComfyUI sent."""

import json
from itertools import groupby
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from test.contract.comfy import describe
from test.contract.record import SCENARIOS, Lines, record
from test.simulator import Options, Simulator

FOLDER = Path(__file__).parent.parent / "fixtures" / "comfyui"


def recorded(name: str) -> Lines:
    return [json.loads(line) for line in (FOLDER / f"{name}.jsonl").read_text().splitlines()]


def story(lines: Lines) -> list[str]:
    """The frames in short words; runs of progress in the middle of a node, whose length is chance, become one."""
    words = []
    for line in lines:
        if "open" in line or "closed" in line:
            words.append("open" if "open" in line else "closed")
        elif "text" in line or "hex" in line:
            word = describe(line["text"] if "text" in line else bytes.fromhex(line["hex"]))
            words.append("progress" if "3 running" in word or word.startswith("progress ") else word)
    return [word for word, _ in groupby(words)]


def shape(value: Any) -> Any:
    """The keys and types of a value, without its contents."""
    if isinstance(value, dict):
        return {key: shape(inner) for key, inner in value.items() if key != "current_inputs"}
    if isinstance(value, list):
        return [shape(value[0])] if value else []
    return "number" if isinstance(value, int | float) and not isinstance(value, bool) else type(value).__name__


def shapes(lines: Lines) -> dict[str, Any]:
    """The shape of each kind of text message, and of the history entry."""
    found = {line["text"]["type"]: shape(line["text"]["data"]) for line in lines if "text" in line}
    for kind in ("progress_state", "status"):
        found.pop(kind, None)  # keyed by node ids, with and without sid: covered by the story
    return {**found, "history": {key: shape(lines[-1]["history"][key]) for key in ("status", "outputs", "meta")}}


@pytest.mark.parametrize("name", SCENARIOS)
async def test_the_simulator_tells_the_recorded_story(name: str) -> None:
    async with Simulator(Options()) as simulator, aiohttp.ClientSession() as session:
        simulated = await record(simulator.url, session, name)
    real = recorded(name)
    assert story(simulated) == story(real)
    assert shapes(simulated) == shapes(real)


def test_every_scenario_is_recorded_and_small() -> None:
    files = {path.stem for path in FOLDER.glob("*.jsonl")}
    assert files == set(SCENARIOS)
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 300_000


def test_the_recordings_hold_no_server_paths() -> None:
    for name in SCENARIOS:
        text = (FOLDER / f"{name}.jsonl").read_text()
        assert 'File \\"/' not in text
