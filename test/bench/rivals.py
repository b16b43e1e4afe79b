"""Two other queues on the same Redis, for scale: dramatiq and SAQ, tasks that do nothing, one producer, one worker.

Neither has a lease with a fencing token, a story of each task, nor lanes.
"""

import asyncio
import multiprocessing
import statistics
import time
from typing import Any

import dramatiq
import saq
import uvloop
from dramatiq.brokers.redis import RedisBroker


def run(port: int, number: int, slots: int) -> list[str]:
    return [with_dramatiq(port, number, slots), uvloop.run(with_saq(port, number, slots))]


def _line(name: str, rate: float, latencies: list[float]) -> str:
    latency = statistics.median(latencies) * 1000
    return f"{name:12} {rate:8,.0f} tasks/s   enqueue to start at low load p50 {latency:6.2f} ms"


def _actor(port: int, started: Any) -> tuple[RedisBroker, "dramatiq.Actor[[float], None]"]:
    broker: RedisBroker = RedisBroker(host="127.0.0.1", port=port)  # type: ignore[no-untyped-call]

    @dramatiq.actor(broker=broker)
    def nothing(sent_at: float) -> None:
        started(time.perf_counter() - sent_at)

    return broker, nothing


def _dramatiq_producer(port: int, number: int) -> None:
    _, actor = _actor(port, lambda _: None)
    for _ in range(number):
        actor.send(time.perf_counter())


def with_dramatiq(port: int, number: int, slots: int) -> str:
    taken: list[float] = []
    broker, actor = _actor(port, taken.append)
    worker = dramatiq.Worker(broker, worker_threads=slots, worker_timeout=100)
    process = multiprocessing.get_context("spawn").Process(target=_dramatiq_producer, args=(port, number))
    worker.start()
    process.start()
    while not taken:
        time.sleep(0.001)
    began_at = time.perf_counter()
    while len(taken) < number:
        time.sleep(0.001)
    rate = number / (time.perf_counter() - began_at)
    process.join()
    del taken[:]
    for count in range(1, 101):
        actor.send(time.perf_counter())
        while len(taken) < count:
            time.sleep(0.0005)
    worker.stop()
    broker.close()
    return _line("dramatiq", rate, taken)


async def _saq_produce(port: int, number: int) -> None:
    queue = saq.Queue.from_url(f"redis://127.0.0.1:{port}")
    for _ in range(number):
        await queue.enqueue("nothing", sent_at=time.perf_counter())
    await queue.disconnect()


def _saq_producer(port: int, number: int) -> None:
    uvloop.run(_saq_produce(port, number))


class Starts:
    """When tasks started; a reader waits for the n-th."""

    def __init__(self) -> None:
        self.latencies: list[float] = []
        self._wanted = 1
        self._there = asyncio.Event()

    def add(self, latency: float) -> None:
        self.latencies.append(latency)
        if len(self.latencies) >= self._wanted:
            self._there.set()

    async def reached(self, number: int) -> None:
        self._wanted = number
        self._there.clear()
        if len(self.latencies) < number:
            await self._there.wait()


async def with_saq(port: int, number: int, slots: int) -> str:
    starts = Starts()

    async def nothing(_: Any, *, sent_at: float) -> None:
        starts.add(time.perf_counter() - sent_at)

    queue = saq.Queue.from_url(f"redis://127.0.0.1:{port}")
    worker = saq.Worker(queue, functions=[("nothing", nothing)], concurrency=slots)
    working = asyncio.create_task(worker.start())
    process = multiprocessing.get_context("spawn").Process(target=_saq_producer, args=(port, number))
    process.start()
    await starts.reached(1)
    began_at = time.perf_counter()
    await starts.reached(number)
    rate = number / (time.perf_counter() - began_at)
    process.join()
    for count in range(1, 101):
        await queue.enqueue("nothing", sent_at=time.perf_counter())
        await starts.reached(number + count)
    await worker.stop()
    working.cancel()
    await asyncio.gather(working, return_exceptions=True)
    await queue.disconnect()
    return _line("SAQ", rate, starts.latencies[number:])
