"""`make demo`, `make up`, `make down`: the whole system on this machine, without Docker.

The demo submits one task, shows its progress, saves the picture and ends everything it started. `up` does the same
start and leaves it running.
"""

import argparse
import json
import os
import shutil
import socket
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx

from test.cluster import ROOT, Cluster, free_port, stop_saved

RUN = ROOT / ".run"
STATE = RUN / "state.json"
OUTPUT = ROOT / "demo-output"
PREFERRED = {"balancer": 7999, "agent-1": 8101, "agent-2": 8102}
TEXT = "a lighthouse on a cliff at dusk, warm light"


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def comfyui_urls() -> tuple[str, ...]:
    """Real instances named by COMFYUI_URLS=http://a:8188,http://b:8188."""
    return tuple(url.strip().rstrip("/") for url in os.environ.get("COMFYUI_URLS", "").split(",") if url.strip())


def cluster(folder: Path, ports: dict[str, int] | None = None) -> Cluster:
    # A simulated load and sampling time that lets the progress be seen.
    slow = ("--load-seconds", "1", "--step-seconds", "0.1")
    return Cluster(folder, comfyui_urls=comfyui_urls(), simulator_options=slow, ports=ports)


def bar(fraction: float, text: str) -> str:
    filled = round(fraction * 30)
    return f"[{'#' * filled}{'.' * (30 - filled)}] {fraction:4.0%} {text}"


class Display:
    """A bar that is redrawn on a terminal, and lines elsewhere."""

    def __init__(self) -> None:
        self._live = sys.stdout.isatty()
        self._last = ""

    def show(self, line: str) -> None:
        if line != self._last:
            sys.stdout.write(f"\r{line:<100}" if self._live else f"{line}\n")
            sys.stdout.flush()
            self._last = line

    def end(self) -> None:
        if self._live:
            sys.stdout.write("\n")


def submit(client: httpx.Client) -> dict[str, Any]:
    """Submits first-workflow, or smoke where no instance has its model."""
    answer = client.post("/api/v1/tasks", json={"workflow": "first-workflow", "parameters": {"text": TEXT}})
    if answer.status_code == 422:
        say(f"first-workflow cannot run here: {answer.json()['detail']}; taking smoke instead")
        answer = client.post("/api/v1/tasks", json={"workflow": "smoke"})
    answer.raise_for_status()
    task: dict[str, Any] = answer.json()
    return task


def follow(client: httpx.Client, task: dict[str, Any]) -> None:
    """Shows the task's events until the last one."""
    display = Display()
    with client.stream("GET", task["links"]["events"], timeout=300) as stream:
        stream.raise_for_status()
        for line in stream.iter_lines():
            if not line.startswith("data:"):
                continue
            event = json.loads(line.removeprefix("data:"))
            data = event["data"]
            if event["type"] in ("started", "progress"):
                step = f"{data['value']:g}/{data['maximum']:g}" if data["maximum"] > 1 else ""
                display.show(bar(data["fraction"], f"{data['node_class'] or event['type']} {step}"))
            elif event["type"] == "completed":
                display.show(bar(1, "completed"))
            else:
                display.show(f"{event['type']} {data.get('agent', '')}")
    display.end()


def save(client: httpx.Client, task_id: str) -> list[Path]:
    """Downloads the outputs of a finished task. Raises SystemExit when it failed."""
    task = client.get(f"/api/v1/tasks/{task_id}").json()
    if task["status"] != "completed":
        raise SystemExit(f"the task {task['status']}: {task['error']}")
    OUTPUT.mkdir(exist_ok=True)
    saved = []
    for output in task["outputs"]:
        path = OUTPUT / f"{task_id}-{output['name']}"
        path.write_bytes(client.get(output["url"]).raise_for_status().content)
        saved.append(path)
    return saved


def demo() -> None:
    started_at = time.monotonic()
    folder = Path(tempfile.mkdtemp(prefix="comfy-demo-"))
    say("starting Redis, two ComfyUIs, two agents and the balancer ...")
    try:
        with cluster(folder) as system:
            say(f"ready at {system.url} after {time.monotonic() - started_at:.1f} s")
            with system.client() as client:
                task = submit(client)
                say(f"task {task['id']} accepted ({task['workflow']})")
                follow(client, task)
                saved = save(client, task["id"])
    except BaseException:
        say(f"the logs are in {folder}")
        raise
    for path in saved:
        say(f"saved {path.relative_to(ROOT)} ({path.stat().st_size:,} bytes)")
    shutil.rmtree(folder)
    say(f"done in {time.monotonic() - started_at:.1f} s, everything is stopped")


def up() -> None:
    if STATE.exists():
        raise SystemExit("already up: run `make down` first")
    RUN.mkdir(exist_ok=True)
    ports = {name: port if _is_free(port) else free_port() for name, port in PREFERRED.items()}
    system = cluster(RUN, ports)
    system.start()
    system.save(STATE)
    say(f"balancer  {system.url}/docs")
    for number, comfyui in enumerate(system.comfyui_urls, start=1):
        say(f"agent {number}   {system.agent_url(number)}/docs  (ComfyUI at {comfyui})")
    say(f"log-in    {system.username} / {system.password}")
    say(f"logs      {RUN}/*.log")
    say("stop it with `make down`")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        return probe.connect_ex(("127.0.0.1", port)) != 0


def down() -> None:
    if not STATE.exists():
        say("nothing is up")
        return
    say(f"stopped {', '.join(stop_saved(STATE)) or 'nothing: it had ended before'}")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m test.demo", description=__doc__)
    parser.add_argument("command", nargs="?", choices=("demo", "up", "down"), default="demo")
    {"demo": demo, "up": up, "down": down}[parser.parse_args().command]()


if __name__ == "__main__":
    main()
