"""What the stories share: prompts, and questions to the balancer and the simulators."""

import json
from collections.abc import Callable
from typing import Any

import httpx

from test.cluster import Cluster, wait_until


def slow_prompt(color: int, *, steps: int, ms_per_step: float = 50.0) -> dict[str, Any]:
    """A prompt that shows progress for `steps * ms_per_step` ms."""
    return {
        "1": {"class_type": "EmptyImage", "inputs": {"width": 64, "height": 64, "batch_size": 1, "color": color}},
        "2": {"class_type": "SlowProgress", "inputs": {"image": ["1", 0], "steps": steps, "ms_per_step": ms_per_step}},
        "3": {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": "story"}},
    }


def submit(client: httpx.Client, prompt: dict[str, Any]) -> str:
    answer = client.post("/api/v1/tasks", json={"prompt": prompt})
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"])


def task(client: httpx.Client, task_id: str) -> dict[str, Any]:
    found: dict[str, Any] = client.get(f"/api/v1/tasks/{task_id}").raise_for_status().json()
    return found


def wait_for(
    client: httpx.Client,
    task_id: str,
    condition: Callable[[dict[str, Any]], object],
    description: str,
    timeout: float = 25,
) -> dict[str, Any]:
    """The task as soon as the condition holds for it; a balancer that is away is asked again."""
    seen: dict[str, Any] = {}

    def holds() -> object:
        try:
            seen.update(task(client, task_id))
        except httpx.HTTPError:
            return False
        return condition(seen)

    wait_until(holds, f"{description} (last seen: {seen.get('status')})", timeout)
    return seen


def wait_running(client: httpx.Client, task_id: str) -> dict[str, Any]:
    """The task when its slow node has made a step."""
    return wait_for(
        client,
        task_id,
        lambda seen: seen["status"] == "running" and seen["progress"] and seen["progress"]["value"] > 0,
        "the task makes progress",
    )


def wait_completed(client: httpx.Client, task_id: str, timeout: float = 25) -> dict[str, Any]:
    return wait_for(client, task_id, lambda seen: seen["status"] == "completed", "the task completed", timeout)


def events(client: httpx.Client, task_id: str) -> list[dict[str, Any]]:
    """The whole story of a finished task."""
    with client.stream("GET", f"/api/v1/tasks/{task_id}/events") as stream:
        return [json.loads(line[5:]) for line in stream.iter_lines() if line.startswith("data:")]


def assert_sound_story(client: httpx.Client, task_id: str, last: str) -> list[str]:
    """Numbered 1, 2, 3 … without a gap, and one final event, at the end. The types."""
    story = events(client, task_id)
    assert [event["seq"] for event in story] == list(range(1, len(story) + 1))
    types = [str(event["type"]) for event in story]
    assert [kind for kind in types if kind in ("completed", "failed", "canceled")] == [last]
    assert types[-1] == last
    return types


def runs(system: Cluster, number: int) -> list[dict[str, Any]]:
    """What a simulated instance ran to an end, oldest first."""
    stats = httpx.get(f"{system.comfyui_urls[number - 1]}/simulator/stats", trust_env=False).json()
    found: list[dict[str, Any]] = sorted(stats["prompts"], key=lambda run: float(run["started_at"]))
    return found


def agent_number(seen: dict[str, Any]) -> int:
    """1 for agent-1 …"""
    return int(str(seen["agent"]).rpartition("-")[2])
