"""Keys from the command line against the running system, and the port without a log-in, served by three workers."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from test.cluster import Cluster, free_port, wait_until

OPEN_PORT = {"OPEN_PORT_OWNER": "studio", "BALANCER_WORKERS": "3"}


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    settings = OPEN_PORT | {"OPEN_PORT": str(free_port())}
    with Cluster(tmp_path_factory.mktemp("system"), agents=1, settings=settings) as cluster:
        yield cluster


def comfyctl(system: Cluster, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "comfy_balancer.cli", *arguments]
    environment = {**os.environ, **system.environment()}
    return subprocess.run(
        command, env=environment, cwd=system.folder, capture_output=True, text=True, timeout=20, check=False
    )


def tasks(url: str, **options: str) -> httpx.Response:
    return httpx.get(f"{url}/api/v1/tasks", headers=options, trust_env=False)


def test_a_key_is_made_shown_once_listed_and_revoked(system: Cluster) -> None:
    made = comfyctl(system, "keys", "create", "--owner", "anna", "--role", "user")
    key = made.stdout.strip()
    assert (made.returncode, len(made.stdout.splitlines())) == (0, 1)
    assert tasks(system.url, Authorization=f"Bearer {key}").status_code == 200
    listed = comfyctl(system, "keys", "list").stdout
    assert "anna" in listed
    assert key.rpartition("_")[2] not in listed
    revoked = comfyctl(system, "keys", "revoke", key.split("_")[1])
    assert revoked.returncode == 0
    answers = [system.url] * 6  # the connections of one client need not reach one worker
    wait_until(
        lambda: {tasks(url, Authorization=f"Bearer {key}").status_code for url in answers} == {401}, "it is refused", 2
    )
    assert "anna" not in comfyctl(system, "keys", "list").stdout
    again = comfyctl(system, "keys", "revoke", key)
    assert (again.returncode, again.stderr) == (1, f"comfyctl: there is no key '{key.split('_')[1]}'\n")
    assert key not in "".join(process.log.read_text(errors="replace") for process in system.processes.values())


@pytest.mark.parametrize("arguments", [["--owner", "a b"], ["--owner", "x", "--role", "boss"], []])
def test_a_wrong_call_makes_no_key(system: Cluster, arguments: list[str]) -> None:
    made = comfyctl(system, "keys", "create", *arguments)
    assert made.returncode in (1, 2)
    assert made.stdout == ""
    assert "Traceback" not in made.stderr


def test_without_redis_the_command_says_so(tmp_path: Path) -> None:
    environment = {**os.environ, "REDIS_PORT": str(free_port())}
    command = [sys.executable, "-m", "comfy_balancer.cli", "keys", "list"]
    ended = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=20)
    assert ended.returncode == 1
    assert ended.stderr == "comfyctl: Redis is away for now (ConnectionError).\n"


def test_every_worker_serves_the_open_port_and_asks_on_the_other(system: Cluster) -> None:
    url = f"http://127.0.0.1:{system.environment()['OPEN_PORT']}"
    for _ in range(12):
        assert tasks(url).status_code == 200
        assert tasks(system.url).status_code == 401
    made = httpx.post(f"{url}/api/v1/tasks?wait=20", json={"workflow": "smoke"}, timeout=30, trust_env=False).json()
    assert (made["owner"], made["status"]) == ("studio", "completed")
    assert httpx.put(f"{url}/api/v1/policy", json={"policy": "fifo"}, trust_env=False).status_code == 403
    assert tasks(url, Host="evil.example").status_code == 403


def test_a_taken_open_port_stops_the_start_with_one_line(system: Cluster) -> None:
    environment = {**os.environ, **system.environment(), "SERVICE_PORT": str(free_port())}
    command = [sys.executable, "-m", "comfy_balancer"]
    ended = subprocess.run(command, env=environment, cwd=system.folder, capture_output=True, text=True, timeout=20)
    assert ended.returncode == 3
    assert ended.stderr.startswith("comfy-balancer: OPEN_PORT cannot be listened on")
    assert len(ended.stderr.splitlines()) == 1
