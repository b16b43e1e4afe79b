"""The whole system as real processes on free loopback ports: Redis, ComfyUIs (simulated unless named), agents,
balancer.

For the demo, the scenario tests and the benchmarks. Each process leads its own group and writes to its own log file,
so that a test
can kill, stop and restart any of them alone. `Cluster` is a context manager: leaving it ends everything it started.
"""

import contextlib
import itertools
import json
import os
import random
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType

import httpx

ROOT = Path(__file__).resolve().parent.parent


_ports = itertools.count(random.randrange(10_000))


def free_port() -> int:
    """A loopback port that is free. It stays so until somebody is told to listen there: each is given only once, and
    none that the system takes for connections by itself (Linux: 32768 to 60999)."""
    while True:
        port = 20_000 + next(_ports) % 10_000
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the servers do
            probe.bind(("127.0.0.1", port))
            return port


def wait_until(predicate: Callable[[], object], description: str, timeout: float = 20.0) -> None:
    """Waits for a condition in steps of 20 ms. Raises TimeoutError with the description."""
    until = time.monotonic() + timeout
    while not predicate():
        if time.monotonic() > until:
            raise TimeoutError(f"after {timeout:g} s still not: {description}")
        time.sleep(0.02)


def answers(url: str) -> bool:
    """Whether GET `url` answers 200."""
    try:
        return httpx.get(url, timeout=2, trust_env=False).status_code == 200
    except httpx.HTTPError:
        return False


class Process:
    """One process: its command can be started again after it ended."""

    def __init__(self, name: str, command: list[str], environment: Mapping[str, str], folder: Path) -> None:
        self.name = name
        self.log = folder / f"{name}.log"
        self._command = command
        self.environment = dict(environment)
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None, f"{self.name} was not started"
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                env={**os.environ, **self.environment},
                cwd=self._folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                # Started in the background, a process may inherit SIGINT as ignored.
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
            )

    def signal(self, number: int) -> None:
        """Sends a signal to the process itself."""
        os.kill(self.pid, number)

    def kill(self) -> None:
        """SIGKILL to the whole group, and waits."""
        self._end(signal.SIGKILL, 10)

    def stop(self, timeout: float = 45.0) -> int:
        """SIGTERM, and waits; after `timeout` seconds SIGKILL. The exit code."""
        if self._process is not None and self.alive:
            self._process.terminate()
        return self.ended(timeout)

    def ended(self, timeout: float = 45.0) -> int:
        """Waits for the end of one that was told to stop; after `timeout` seconds SIGKILL. The exit code."""
        try:
            return self.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill()
        return self.wait(1)

    def wait(self, timeout: float) -> int:
        """The exit code, within `timeout` seconds."""
        assert self._process is not None, f"{self.name} was not started"
        return self._process.wait(timeout)

    def _end(self, number: int, timeout: float) -> None:
        if self._process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)
        self._process.wait(timeout)

    def tail(self, lines: int = 30) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])


def redis_binary() -> str:
    """The redis-server that `make install` found or made."""
    beside = Path(sys.prefix) / "bin" / "redis-server"
    found = shutil.which("redis-server") or (str(beside) if beside.exists() else None)
    if found is None:
        raise FileNotFoundError("no redis-server: run `make install`")
    return found


class Cluster:
    """One system. `start` waits until it is ready to take tasks."""

    def __init__(
        self,
        folder: Path,
        *,
        agents: int = 2,
        comfyui_urls: tuple[str, ...] = (),
        simulator_options: tuple[str, ...] = (),
        settings: Mapping[str, str] | None = None,
        ports: Mapping[str, int] | None = None,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.username, self.password = "admin", secrets.token_urlsafe(12)
        self._ports = dict(ports or {})
        self.processes: dict[str, Process] = {}
        self.comfyui_urls = list(comfyui_urls)
        self._settings = dict(settings or {})
        self.redis_port = self._port("redis")
        self._add_redis()
        for number in range(1, (len(comfyui_urls) or agents) + 1):
            if not comfyui_urls:
                self._add_simulator(number, simulator_options)
            self._add_agent(number)
        self._add_balancer()

    def _port(self, name: str) -> int:
        return self._ports.setdefault(name, free_port())

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port('balancer')}"

    @property
    def auth(self) -> tuple[str, str]:
        return (self.username, self.password)

    def agent_url(self, number: int) -> str:
        return f"http://127.0.0.1:{self._port(f'agent-{number}')}"

    def client(self) -> httpx.Client:
        """An HTTP client of the balancer, logged in."""
        return httpx.Client(base_url=self.url, auth=self.auth, timeout=60, trust_env=False)

    def environment(self) -> dict[str, str]:
        """The settings that all our processes of this system share."""
        return {
            "API_USERNAME": self.username,
            "API_PASSWORD": self.password,
            "REDIS_HOST": "127.0.0.1",
            "REDIS_PORT": str(self.redis_port),
            "FILE_STORE": f"file://{self.folder / 'files'}",
            "SERVICE_HOST": "127.0.0.1",
            "LOCK_FOLDER": str(self.folder),
            "WORKFLOWS_FOLDER": str(ROOT / "workflows"),
            "PYTHONPATH": str(ROOT),
            **self._settings,
        }

    def _add(self, name: str, command: list[str], environment: Mapping[str, str]) -> None:
        self.processes[name] = Process(name, command, environment, self.folder)

    def _add_redis(self) -> None:
        data = self.folder / "redis"
        data.mkdir(exist_ok=True)
        options = ["--port", str(self.redis_port), "--bind", "127.0.0.1", "--dir", str(data)]
        durable = ["--save", "", "--appendonly", "yes", "--appendfsync", "always"]
        # A stream reserves a whole node for its first entry: 4 KiB by default, for each task its story.
        small = ["--stream-node-max-bytes", "512"]
        self._add("redis", [redis_binary(), *options, *durable, *small], {})

    def _add_simulator(self, number: int, options: tuple[str, ...]) -> None:
        port = self._port(f"comfyui-{number}")
        self.comfyui_urls.append(f"http://127.0.0.1:{port}")
        place = ["--port", str(port), "--base-directory", str(self.folder / f"comfyui-{number}")]
        self._add(
            f"comfyui-{number}",
            [sys.executable, "-m", "test.simulator", *place, *options],
            {"PYTHONPATH": str(ROOT)},
        )

    def _add_agent(self, number: int) -> None:
        port = self._port(f"agent-{number}")
        own = {
            "SERVICE_PORT": str(port),
            "SERVICE_ADDRESS": f"http://127.0.0.1:{port}",
            "AGENT_ID": f"agent-{number}",
            "COMFYUI_URL": self.comfyui_urls[number - 1],
        }
        self._add(f"agent-{number}", [sys.executable, "-m", "comfy_service"], {**self.environment(), **own})

    def _add_balancer(self) -> None:
        own = {"SERVICE_PORT": str(self._port("balancer"))}
        self._add("balancer", [sys.executable, "-m", "comfy_balancer"], {**self.environment(), **own})

    def start(self) -> None:
        """Starts everything; ready means that every agent is registered as ready."""
        try:
            self.processes["redis"].start()
            for name, process in self.processes.items():
                if name != "redis":
                    process.start()
            wait_until(lambda: self._checked(answers(f"{self.url}/readyz")), "the balancer is ready", 60)
            wait_until(lambda: self._checked(self._agents_ready()), "the agents are ready", 60)
        except BaseException:
            self.stop()
            raise

    def _checked(self, ready: bool) -> bool:
        dead = [process for process in self.processes.values() if not process.alive]
        if dead:
            raise RuntimeError(f"{dead[0].name} ended at start:\n{dead[0].tail()}")
        return ready

    def _agents_ready(self) -> bool:
        with self.client() as client:
            answer = client.get("/api/v1/agents")
        agents = answer.json()["agents"] if answer.status_code == 200 else []
        ready = sum(agent["state"] == "ready" for agent in agents)
        return bool(ready == len(self.comfyui_urls))

    def stop(self) -> None:
        """Ends everything: ours in order, then Redis."""
        order = sorted(self.processes.values(), key=lambda process: (process.name == "redis", process.name))
        for process in order:
            if process.alive and process.name != "redis":
                process.signal(signal.SIGTERM)
        for process in order:
            if process.alive:
                process.stop() if process.name == "redis" else process.ended()
        for process in order:
            process.kill()

    def __enter__(self) -> "Cluster":
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def save(self, file: Path) -> None:
        """Notes what runs, for `stop_saved` in another process."""
        pids = {name: process.pid for name, process in self.processes.items()}
        file.write_text(json.dumps({"processes": pids, "url": self.url}))


def stop_saved(file: Path) -> list[str]:
    """Stops what `save` noted; the names of what still ran."""
    noted = json.loads(file.read_text())["processes"]
    running = {name: pid for name, pid in noted.items() if _group_alive(pid)}
    for name, pid in running.items():
        if name != "redis":
            os.kill(pid, signal.SIGTERM)
    ours = {name: pid for name, pid in running.items() if name != "redis"}
    wait_until(lambda: not any(_group_alive(pid) for pid in ours.values()), "everything stopped", 45)
    if "redis" in running:
        os.kill(running["redis"], signal.SIGTERM)
        wait_until(lambda: not _group_alive(running["redis"]), "redis stopped", 10)
    file.unlink()
    return sorted(running)


def _group_alive(pid: int) -> bool:
    try:
        os.killpg(pid, 0)
    except ProcessLookupError:
        return False
    return True
