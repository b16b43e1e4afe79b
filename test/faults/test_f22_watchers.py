"""F22: many watchers of running tasks, some of which never read: the others are told at once, memory stays small."""

import asyncio
import base64
import json
import time
from datetime import datetime
from pathlib import Path
from urllib.parse import urlsplit

from test.faults.conftest import Start, slow
from test.faults.oracle import Oracle
from test.faults.test_f09_balancer_workers_killed import workers
from test.scenario.story import slow_prompt

WATCHERS = 500
DEAF = WATCHERS // 10
TASKS = 2


def resident(pids: list[int]) -> int:
    """Bytes of memory of these processes."""
    pages = sum(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in pids)
    return pages * 4096


async def open_stream(oracle: Oracle, task_id: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """An event stream, as far as the first line of its answer; a client that is told to come again does."""
    token = base64.b64encode(":".join(oracle.system.auth).encode()).decode()
    request = f"GET /api/v1/tasks/{task_id}/events HTTP/1.1\r\nHost: x\r\nAuthorization: Basic {token}\r\n\r\n"
    for _ in range(20):
        reader, writer = await asyncio.open_connection("127.0.0.1", urlsplit(oracle.system.url).port, limit=2**16)
        writer.write(request.encode())
        status = (await reader.readline()).split()[1:2]
        if status == [b"200"]:
            return reader, writer
        assert status == [b"503"], status
        writer.close()
        await asyncio.sleep(1)
    raise AssertionError("it was told to come again for 20 s")


async def listen(reader: asyncio.StreamReader, delays: list[float]) -> int:
    """Reads to the final event; the numbers of live events come with their delays in ms. How many events there were."""
    count, began_at = 0, time.time()
    while True:
        line = (await reader.readline()).decode()
        assert line, f"the stream ended after {count} events"
        if not line.startswith("data:"):
            continue
        event = json.loads(line[5:])
        count += 1
        assert event["seq"] == count, "no gap"
        told_at = datetime.fromisoformat(event["at"]).timestamp()
        if told_at > began_at + 1:  # not of the past
            delays.append((time.time() - told_at) * 1000)
        if event["type"] == "completed":
            return count


async def watch(oracle: Oracle, ids: list[str], pids: list[int]) -> tuple[list[float], float]:
    """Delays in ms of all who read, and bytes of memory that each watcher costs the balancer."""
    before = resident(pids)
    streams = [await open_stream(oracle, ids[number % TASKS]) for number in range(WATCHERS)]
    delays: list[float] = []
    counts = await asyncio.gather(*(listen(reader, delays) for reader, _ in streams[DEAF:]))
    assert len(set(counts[0::TASKS])) == 1, "everybody was told the same"
    each = (resident(pids) - before) / WATCHERS
    for _, writer in streams:
        writer.close()
    return sorted(delays), each


@slow
def test_those_who_read_are_told_at_once(start: Start) -> None:
    oracle = start(agents=2)
    with oracle.client() as client:
        ids = [oracle.submit(client, slow_prompt(color, steps=400)) for color in range(TASKS)]
        for task_id in ids:
            oracle.wait_progress(task_id)
        delays, each = asyncio.run(watch(oracle, ids, workers(oracle.system.processes["balancer"].pid)))
    p99 = delays[int(len(delays) * 0.99)]
    assert each <= 256 * 1024
    assert p99 <= 100
    oracle.conclude("F22", f"{WATCHERS} watchers, {DEAF} never read: p99 {p99:.0f} ms, {each / 1024:.0f} KiB each")
