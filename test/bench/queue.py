"""The queue alone: transitions a second and their latency, beside the bare Redis round trip of the same client.

One producer and one consumer, one call at a time, append-only file on with fsync always: what a transition costs, not
what pipelining could hide.
"""

import asyncio
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from comfy_shared.claims import Attempt, UnknownLanes
from comfy_shared.keys import Keys
from comfy_shared.models import Needs, NewTask
from comfy_shared.needs import lane_of
from comfy_shared.queue import Queue
from comfy_shared.registry import AgentRecord, Registry, Vitals
from comfy_shared.settings import SharedSettings
from comfy_shared.store import connect
from test.cluster import Process, free_port, redis_binary, wait_until

CALLS = 2000
PROMPT = b'{"1":{"class_type":"EmptyImage","inputs":{"text":"' + b"x" * 2000 + b'"}}}'
NEEDS = Needs(classes=("EmptyImage",))


def new_task(number: int) -> NewTask:
    return NewTask(id=f"bench-{number:08}", owner="bench", prompt=PROMPT, needs=NEEDS, lane=lane_of(NEEDS))


async def timed(call: Callable[[int], Awaitable[object]]) -> tuple[float, float, float]:
    """Calls a second, and p50 and p99 in ms."""
    took = []
    began_at = time.perf_counter()
    for number in range(CALLS):
        at = time.perf_counter()
        await call(number)
        took.append((time.perf_counter() - at) * 1000)
    cuts = statistics.quantiles(took, n=100)
    return CALLS / (time.perf_counter() - began_at), cuts[49], cuts[98]


async def measure(port: int) -> list[str]:
    settings = SharedSettings(redis_port=port, redis_namespace="bench")
    redis = connect(settings)
    keys = Keys("bench")
    queue = Queue(redis, keys, settings)
    registry = Registry(redis, keys, heartbeat_ttl=600, retention=600)
    record = AgentRecord(id="a", address="", state="ready")
    await registry.register(record, Vitals(), session="s", offer=None, takeover=True)
    attempts: list[Attempt] = []

    async def submit(number: int) -> None:
        await queue.submit([new_task(number)], queue_limit=10**7)

    async def claim(_number: int) -> None:
        reply = await queue.claim("a", "s", prompt_id="p")
        if isinstance(reply, UnknownLanes):
            reply = await queue.claim("a", "s", prompt_id="p", verdicts=dict.fromkeys(reply.needs, True))
        assert isinstance(reply, Attempt)
        attempts.append(reply)

    async def settle(number: int) -> None:
        await queue.complete(attempts[number], [])

    base = await timed(lambda _number: redis.ping())
    rows = [("bare round trip (PING)", base)]
    for name, call in (("submit, 2 KiB prompt", submit), ("claim", claim), ("settle", settle)):
        rows.append((name, await timed(call)))
    await redis.aclose()
    return [
        f"{name:24} {rate:8,.0f}/s  p50 {p50:6.3f} ms  p99 {p99:6.3f} ms  {p50 / base[1]:5.2f} x the round trip"
        for name, (rate, p50, p99) in rows
    ]


def run() -> list[str]:
    with tempfile.TemporaryDirectory() as folder:
        port = free_port()
        durable = ["--save", "", "--appendonly", "yes", "--appendfsync", "always"]
        place = ["--port", str(port), "--bind", "127.0.0.1", "--dir", folder]
        server = Process("redis", [redis_binary(), *place, *durable], {}, Path(folder))
        server.start()
        try:
            wait_until(lambda: "Ready to accept" in server.tail(), "redis is ready")
            return asyncio.run(measure(port))
        finally:
            server.kill()
