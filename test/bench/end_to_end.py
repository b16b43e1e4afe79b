"""The whole path over HTTP with simulated instances, everything on this machine.

Baseline of the gap between two prompts: one GET /prompt of the same simulator from here, a bare local HTTP call.
"""

import itertools
import statistics
import tempfile
import time
from pathlib import Path

import httpx

from test.cluster import Cluster, wait_until

TASKS = 400


def run() -> list[str]:
    with tempfile.TemporaryDirectory() as folder, Cluster(Path(folder)) as system, system.client() as client:
        bare = bare_call(system.comfyui_urls[0])
        began_at = time.perf_counter()
        for _ in range(TASKS // 100):
            batch = [{"workflow": "smoke"}] * 100
            client.post("/api/v1/tasks/batch", json={"tasks": batch}).raise_for_status()
        wait_until(lambda: count(client, "pending") + count(client, "running") == 0, "all tasks ended", 120)
        took = time.perf_counter() - began_at
        gaps = [gap for url in system.comfyui_urls for gap in gaps_of(url)]
        completed = count(client, "completed")
    return [
        f"{'bare local HTTP call':32} p50 {bare:6.2f} ms",
        f"{'end of a prompt to the next':32} p50 {statistics.median(gaps):6.2f} ms"
        f"  {statistics.median(gaps) / bare:5.2f} x the bare call",
        f"{'tasks through two agents':32} {TASKS / took:6.0f}/s  ({completed} of {TASKS} completed)",
    ]


def bare_call(url: str) -> float:
    """Median ms of a local HTTP call."""
    took = []
    with httpx.Client(base_url=url, trust_env=False) as client:
        for _ in range(200):
            at = time.perf_counter()
            client.get("/prompt")
            took.append((time.perf_counter() - at) * 1000)
    return statistics.median(took)


def count(client: httpx.Client, status: str) -> int:
    """Tasks of a status; at most 200 are counted at a time."""
    total, cursor = 0, None
    while True:
        parameters = {"status": status, "limit": "200", **({"cursor": cursor} if cursor else {})}
        page = client.get("/api/v1/tasks", params=parameters).raise_for_status().json()
        total += len(page["tasks"])
        cursor = page["next"]
        if not cursor:
            return total


def gaps_of(url: str) -> list[float]:
    """Ms from the end of each prompt of a simulator to the arrival of the next."""
    stats = httpx.get(f"{url}/simulator/stats", trust_env=False).json()
    runs = sorted(stats["prompts"], key=lambda item: item["started_at"])
    return [(b["accepted_at"] - a["ended_at"]) * 1000 for a, b in itertools.pairwise(runs)]
