"""The official self-hosted server of the contract, as a process in front of one ComfyUI."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from test.cluster import ROOT, Cluster, Process, answers, free_port, wait_until


@contextmanager
def official(comfyui_url: str, folder: Path) -> Iterator[str]:
    """comfy-api-proxy over a ComfyUI; yields its address."""
    front, port = free_port(), free_port()
    environment = {"PYTHONPATH": str(ROOT), "COMFY_API_PROXY_STATE_DIR": str(folder)}
    newer = [sys.executable, "-m", "test.comfy_v2.newer", "--port", str(front), "--to", comfyui_url]
    command = [sys.executable, "-m", "comfy_api_proxy.cli", "run", "--port", str(port)]
    processes = [
        Process("newer", newer, environment, folder),
        Process("proxy", [*command, "--comfyui", f"http://127.0.0.1:{front}"], environment, folder),
    ]
    try:
        for process in processes:
            process.start()
        wait_until(lambda: answers(f"http://127.0.0.1:{front}/system_stats"), "ComfyUI answers")
        wait_until(lambda: answers(f"http://127.0.0.1:{port}/api/v2/health"), "the proxy answers")
        yield f"http://127.0.0.1:{port}"
    finally:
        for process in processes:
            process.kill()


@contextmanager
def simulated(folder: Path) -> Iterator[str]:
    """One simulated ComfyUI; yields its address."""
    port = free_port()
    place = ["--port", str(port), "--base-directory", str(folder / "comfyui")]
    command = [sys.executable, "-m", "test.simulator", *place]
    process = Process("comfyui", command, {"PYTHONPATH": str(ROOT)}, folder)
    try:
        process.start()
        wait_until(lambda: answers(f"http://127.0.0.1:{port}/system_stats"), "the simulator answers")
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()


def create_key(cluster: Cluster, owner: str, role: str = "admin") -> str:
    """A new API key of a system."""
    command = [sys.executable, "-m", "comfy_balancer.cli", "keys", "create", "--owner", owner, "--role", role]
    environment = {**os.environ, **cluster.environment()}
    done = subprocess.run(command, env=environment, cwd=cluster.folder, capture_output=True, text=True, check=True)
    return done.stdout.split()[-1]
