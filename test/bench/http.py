"""Submitting over HTTP, beside a bare FastAPI endpoint that reads the same body and runs one script in Redis.

Both are served by one uvicorn worker; the client writes ready-made requests on kept connections and reads no more than
it must, on the same event loop as the server's: it shares the cores with what is measured. Each request has a number of
its own in its graph, as a seed would be. The endpoints take turns, since a machine's speed may change within a second;
what is told are the medians of their rounds, and of the ratios within each.
"""

import asyncio
import base64
import json
import os
import re
import secrets
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import msgspec
import uvloop
from fastapi import FastAPI, Request, Response
from redis import Redis as SyncRedis
from redis.asyncio import Redis

from test.cluster import Cluster, Process, answers, free_port, wait_until

CONNECTIONS = 16
REQUESTS = 800
ROUNDS = 20
LENGTH = re.compile(rb"(?i)content-length: *(\d+)")
SCRIPT = "redis.call('SET', KEYS[1], ARGV[1], 'EX', 60) return 'ok'"


def bare() -> FastAPI:
    """The baseline: as little as an endpoint that queues something can do."""
    app = FastAPI()
    redis = Redis(port=int(os.environ["REDIS_PORT"]))
    sha: list[str] = []

    async def queued(body: bytes) -> Response:
        if not sha:
            sha.append(await redis.script_load(SCRIPT))
        await redis.evalsha(sha[0], 1, "bare", body)
        return Response(b'{"status":"ok"}', 202, media_type="application/json")

    @app.post("/submit")
    async def submit(request: Request) -> Response:
        return await queued(await request.body())

    @app.post("/parse")
    async def parse(request: Request) -> Response:
        """As any endpoint must that looks at the graph: read by the fastest parser, and written again."""
        return await queued(msgspec.json.encode(msgspec.json.decode(await request.body())))

    return app


def graph(nodes: int, color: int) -> dict[str, object]:
    """A chain of `nodes` nodes with texts, numbers and links, as large as real ones."""
    text = "a lighthouse on a cliff at dusk, volumetric light, 35 mm, highly detailed, " * 2
    prompt: dict[str, object] = {
        "1": {"class_type": "EmptyImage", "inputs": {"width": 64, "height": 64, "batch_size": 1, "color": color}},
        str(nodes): {
            "class_type": "SaveImage",
            "inputs": {"images": [str(nodes - 1), 0], "filename_prefix": text[:40]},
        },
    }
    for number in range(2, nodes):
        inputs = {"image": [str(number - 1), 0], "blur_radius": 1 + number % 8, "sigma": 1.0}
        prompt[str(number)] = {"class_type": "ImageBlur", "inputs": inputs, "_meta": {"title": text[:60]}}
    return prompt


def request(path: str, body: bytes, auth: tuple[str, str]) -> bytes:
    token = base64.b64encode(":".join(auth).encode()).decode()
    head = (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Basic {token}\r\nContent-Type: application/json\r\n"
    )
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


class Client(asyncio.Protocol):
    """One connection; sends the next request as soon as the last is answered."""

    def __init__(self, messages: Sequence[bytes]) -> None:
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._messages = iter(messages)
        self._answer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._transport.write(next(self._messages))

    def data_received(self, data: bytes) -> None:
        self._answer += data
        head, _, body = self._answer.partition(b"\r\n\r\n")
        length = LENGTH.search(head)
        if length is None or len(body) < int(length[1]):
            return
        if not head.startswith(b"HTTP/1.1 202"):
            self.done.set_exception(RuntimeError(self._answer.decode()))
            self._transport.close()
            return
        self._answer = b""
        if message := next(self._messages, None):
            self._transport.write(message)
        else:
            self.done.set_result(None)
            self._transport.close()

    def connection_lost(self, error: Exception | None) -> None:
        if not self.done.done():
            self.done.set_exception(error or ConnectionError("the server hung up"))


async def one_connection(port: int, messages: Sequence[bytes]) -> None:
    loop = asyncio.get_running_loop()
    _, client = await loop.create_connection(lambda: Client(messages), "127.0.0.1", port)
    await client.done


async def rate(port: int, path: str, nodes: int, auth: tuple[str, str]) -> float:
    """Requests a second."""
    colors = [secrets.randbelow(0xFFFFFF) for _ in range(REQUESTS)]
    messages = [request(path, json.dumps({"prompt": graph(nodes, color)}).encode(), auth) for color in colors]
    began_at = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for start in range(CONNECTIONS):
            group.create_task(one_connection(port, messages[start::CONNECTIONS]))
    return REQUESTS / (time.perf_counter() - began_at)


async def measure(system: Cluster, bare_port: int) -> list[str]:
    port = int(system.url.rsplit(":", 1)[1])
    lines = []
    for nodes in (9, 200):
        found: dict[str, list[float]] = {"/submit": [], "/parse": [], "/api/v1/tasks": []}
        await rate(port, "/api/v1/tasks", nodes, system.auth)
        for path in [*found] * ROUNDS:
            found[path].append(await rate(port if path.startswith("/api") else bare_port, path, nodes, system.auth))
        bare_rate, parsing_rate, our_rate = (statistics.median(rates) for rates in found.values())
        beside = [
            statistics.median(ours / theirs for ours, theirs in zip(found["/api/v1/tasks"], found[path], strict=True))
            for path in ("/submit", "/parse")
        ]
        size = len(json.dumps({"prompt": graph(nodes, 0)}))
        lines.append(
            f"{nodes:4} nodes, {size:6} bytes   bare FastAPI + EVALSHA {bare_rate:6,.0f}/s, that parses the body "
            f"{parsing_rate:6,.0f}/s   submit {our_rate:6,.0f}/s   {beside[0]:5.2f} x and {beside[1]:5.2f} x"
        )
    return lines


def run() -> list[str]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        settings = {"BALANCER_WORKERS": "1", "QUEUE_LIMIT": "1000000", "OWNER_QUEUED_LIMIT": "1000000"}
        with Cluster(folder, agents=1, settings=settings) as system:
            # Redis would write GBs of the baseline's bodies anew, at any moment.
            with SyncRedis(port=system.redis_port) as redis:
                redis.config_set("auto-aof-rewrite-percentage", "0")
            with system.client() as client:  # its offer is what graphs are checked against; it runs none of them
                client.post("/api/v1/agents/agent-1/drain").raise_for_status()
            port = free_port()
            command = [sys.executable, "-m", "uvicorn", "test.bench.http:bare", "--factory", "--port", str(port)]
            quiet = ["--log-level", "warning", "--loop", "uvloop"]
            process = Process("bare", [*command, *quiet], system.environment(), folder)
            process.start()
            try:
                wait_until(lambda: answers(f"http://127.0.0.1:{port}/openapi.json"), "the baseline is ready")
                return uvloop.run(measure(system, port))
            finally:
                process.kill()
