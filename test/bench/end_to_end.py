"""The whole path over HTTP with simulated instances, everything on this machine.

Baseline of the gap between two prompts: one GET /prompt of the same simulator from here, a bare local HTTP call; of the
way from a submit to an idle ComfyUI: that and one bare round trip to Redis.
"""

import itertools
import statistics
import tempfile
import time
from pathlib import Path

import httpx
from redis import Redis

from comfy_shared.keys import Keys
from test.cluster import Cluster, wait_until

TASKS = 1000
IDLE = 100  # tasks that find everything idle
TASK = {"workflow": "smoke", "parameters": {"width": 64, "height": 64}}


def run() -> list[str]:
    with tempfile.TemporaryDirectory() as folder, Cluster(Path(folder)) as system, system.client() as client:
        bare, trip = bare_call(system.comfyui_urls[0]), round_trip(system.redis_port)
        arrivals = [idle_arrival(system, client) for _ in range(IDLE)]
        began_at = time.perf_counter()
        for _ in range(TASKS // 100):
            client.post("/api/v1/tasks/batch", json={"tasks": [TASK] * 100}).raise_for_status()
        wait_for_ends(system.redis_port, IDLE + TASKS)
        took = time.perf_counter() - began_at
        gaps = [gap for url in system.comfyui_urls for gap in gaps_of(url)]
        completed = count(client, "completed") - IDLE
    return [
        f"{'bare local HTTP call':32} p50 {bare:6.2f} ms",
        f"{'bare round trip to Redis':32} p50 {trip:6.2f} ms",
        f"{'202 to POST /prompt when idle':32} p50 {statistics.median(arrivals):6.2f} ms"
        f"  {statistics.median(arrivals) / (bare + trip):5.2f} x the round trip and the bare call",
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


def round_trip(port: int) -> float:
    """Median ms of a PING."""
    took = []
    with Redis(port=port) as redis:
        for _ in range(500):
            at = time.perf_counter()
            redis.ping()
            took.append((time.perf_counter() - at) * 1000)
    return statistics.median(took)


def idle_arrival(system: Cluster, client: httpx.Client) -> float:
    """Ms from the 202 of a submit to the arrival of its prompt at a ComfyUI, everything idle before."""
    accepted = client.post("/api/v1/tasks", json=TASK)
    at = time.monotonic()
    url = accepted.raise_for_status().json()["links"]["self"]
    task = client.get(url).json()
    while task["status"] != "completed":
        client.get(f"{url}/events").raise_for_status()  # ends with the story
        task = client.get(url).json()
    number = int(task["agent"].rsplit("-", 1)[1])
    runs = httpx.get(f"{system.comfyui_urls[number - 1]}/simulator/stats", trust_env=False).json()["prompts"]
    return float(max(run["accepted_at"] for run in runs) - at) * 1000


def wait_for_ends(port: int, tasks: int) -> None:
    """Until that many tasks have ended: asked of Redis, so that who measures does not keep the balancer busy."""
    with Redis(port=port) as redis:
        wait_until(lambda: redis.zcard(Keys().finished) >= tasks, f"{tasks} tasks ended", 120)


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
