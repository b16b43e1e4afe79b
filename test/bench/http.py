"""Submitting over HTTP, beside a bare FastAPI endpoint that reads the same body and runs one script in Redis.

Both are served by one uvicorn worker; the client writes ready-made requests on kept connections and reads no more than
it must, so that what is measured is the server. Each request has a number of its own in its graph, as a seed would be.
"""

import asyncio
import base64
import json
import os
import secrets
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec
from fastapi import FastAPI, Request, Response
from redis.asyncio import Redis

from test.cluster import Cluster, Process, answers, free_port, wait_until

CONNECTIONS = 16
REQUESTS = 1600
ROUNDS = 3  # in turn, so that a noisy moment hits both
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


async def one_connection(port: int, messages: Sequence[bytes]) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for message in messages:
        writer.write(message)
        head = await reader.readuntil(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 202"):
            raise RuntimeError(head.decode() + (await reader.read(2000)).decode())
        length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
        await reader.readexactly(length)
    writer.close()


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
        bare_rate, parsing_rate, our_rate = (max(rates) for rates in found.values())
        size = len(json.dumps({"prompt": graph(nodes, 0)}))
        lines.append(
            f"{nodes:4} nodes, {size:6} bytes   bare FastAPI + EVALSHA {bare_rate:6,.0f}/s, that parses the body "
            f"{parsing_rate:6,.0f}/s   submit {our_rate:6,.0f}/s   "
            f"{our_rate / bare_rate:5.2f} x and {our_rate / parsing_rate:5.2f} x"
        )
    return lines


def run() -> list[str]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        settings = {"BALANCER_WORKERS": "1", "QUEUE_LIMIT": "1000000", "OWNER_QUEUED_LIMIT": "1000000"}
        with Cluster(folder, agents=1, settings=settings) as system:
            system.processes["agent-1"].stop()  # what is measured is the submit alone
            port = free_port()
            command = [sys.executable, "-m", "uvicorn", "test.bench.http:bare", "--factory", "--port", str(port)]
            quiet = ["--log-level", "warning", "--loop", "uvloop"]
            process = Process("bare", [*command, *quiet], system.environment(), folder)
            process.start()
            try:
                wait_until(lambda: answers(f"http://127.0.0.1:{port}/openapi.json"), "the baseline is ready")
                return asyncio.run(measure(system, port))
            finally:
                process.kill()
