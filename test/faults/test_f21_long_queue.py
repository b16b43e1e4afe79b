"""F21: a long queue, half of it canceled: claims stay fast, tasks small, and after the retention nothing is left."""

import asyncio
import os
import time

import pytest
from redis.asyncio import Redis

from comfy_shared.claims import Attempt, UnknownLanes
from comfy_shared.queue import Queue
from comfy_shared.registry import AgentRecord, Registry, Vitals
from test.cluster import wait_until
from test.faults.conftest import Start, slow
from test.faults.oracle import Oracle, Row
from test.scenario.story import slow_prompt
from test.support.settings import settings_for

TASKS = 100_000
PROMPT = 2048  # bytes that compress badly
CLAIMS = 1000
LIMITS = {"QUEUE_LIMIT": "200000", "OWNER_QUEUED_LIMIT": "200000"}
RETENTION = 3.0  # seconds


async def work(oracle: Oracle, ids: list[str]) -> list[float]:
    """Cancels every second task, and claims and completes the others as an agent does; ms of each claim."""
    redis = Redis(port=oracle.system.redis_port)
    settings = settings_for(oracle.system.redis_port, "comfy", oracle.system.folder / "files")
    queue = Queue(redis, oracle.keys, settings)
    registry = Registry(redis, oracle.keys, heartbeat_ttl=600, retention=600)
    record = AgentRecord(id="hand", address="", state="ready")
    await registry.register(record, Vitals(), session="s", offer=None, takeover=True)
    canceled = ids[::2]
    for first in range(0, len(canceled), 50):
        await asyncio.gather(*(queue.cancel(task_id) for task_id in canceled[first : first + 50]))
    took: list[float] = []
    verdicts: dict[str, bool] = {}
    left = len(ids) - len(canceled)
    while left:
        at = time.perf_counter()
        reply = await queue.claim("hand", "s", prompt_id=f"p{left}", verdicts=verdicts)
        took.append((time.perf_counter() - at) * 1000)
        verdicts = {}
        if isinstance(reply, UnknownLanes):
            verdicts = dict.fromkeys(reply.needs, True)
            continue
        assert isinstance(reply, Attempt), reply
        await queue.complete(reply, [])
        left -= 1
    await registry.deregister("hand", "s")
    await redis.aclose()
    return took


@slow
@pytest.mark.timeout(900)
def test_claims_are_fast_tasks_small_and_nothing_stays(start: Start) -> None:
    oracle = start(agents=1, settings={"TASK_RETENTION": str(RETENTION), "PURGE_SECONDS": "1", **LIMITS})
    oracle.system.processes["agent-1"].stop()
    with oracle.client() as client:
        prompt = slow_prompt(1, steps=1)
        prompt["1"]["_meta"] = {"title": os.urandom(PROMPT // 2).hex()}
        before = int(oracle.redis.info("memory")["used_memory"])
        ids: list[str] = []
        for _ in range(TASKS // 1000):
            ids += oracle.accepted(client.post("/api/v1/tasks/batch", json={"tasks": [{"prompt": prompt}] * 1000}))
        each = (int(oracle.redis.info("memory")["used_memory"]) - before) / TASKS
    assert len(ids) == TASKS
    assert each <= 6 * 1024
    took = sorted(asyncio.run(work(oracle, ids)))
    assert took[int(len(took) * 0.99)] <= 5
    wait_until(lambda: not oracle.redis.exists(oracle.keys.index("all"), oracle.keys.finished), "all is purged", 60)
    for task_id in ids:
        oracle.forget(task_id)
    what = f"{TASKS} queued, half canceled: claim p99 {took[int(len(took) * 0.99)]:.1f} ms, {each:.0f} B a task"
    oracle.conclude("F21", what)
    half = TASKS // 2
    oracle.row = Row(
        name="F21", what=what, accepted=TASKS, completed=half, failed=0, canceled=TASKS - half, lost=0, doubled=0
    )
