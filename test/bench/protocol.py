"""What the balancer adds to a ComfyUI client's prompt, and what two instances behind it give.

Baseline: the same client, connected directly to one of the same instances. They are simulated ones, or the two real
ones that COMFYUI_URLS names (with test/contract/lab_nodes.py in their custom_nodes).

Added latency: from the POST to the last message of the prompt, prompts direct and through us by turns, idle otherwise.
Throughput: prompts of 1 s each, queued at once; two instances through us against one direct.
"""

import asyncio
import os
import statistics
import tempfile
import time
from pathlib import Path

import aiohttp

from test.cluster import Cluster
from test.contract.comfy import Comfy, Socket
from test.support.waiting import wait_until

PROMPTS = 60  # by which latency is measured, each way
PER_INSTANCE = 6  # prompts of 1 s


def run() -> list[str]:
    urls = tuple(url.strip() for url in os.environ.get("COMFYUI_URLS", "").split(",") if url.strip())
    with tempfile.TemporaryDirectory() as folder, Cluster(Path(folder), comfyui_urls=urls) as system:
        return asyncio.run(measure(system))


async def measure(system: Cluster) -> list[str]:
    login = {"Authorization": aiohttp.encode_basic_auth(*system.auth)}
    timeout = aiohttp.ClientTimeout(total=60)
    async with (
        aiohttp.ClientSession(timeout=timeout) as plain,
        aiohttp.ClientSession(timeout=timeout, headers=login) as known,
    ):
        direct = Comfy(system.comfyui_urls[0], plain, simulated=False)
        through = Comfy(system.url, known, simulated=False, direct=False)
        await wait_until(lambda: _knows_lab(through), "the balancer knows the lab nodes")
        bare, ours = await latencies(direct, through)
        one = await throughput(direct, PER_INSTANCE)
        two = await throughput(through, PER_INSTANCE * len(system.comfyui_urls))
    added = statistics.median(ours) - statistics.median(bare)
    return [
        f"{'prompt, direct':32} p50 {statistics.median(bare):7.2f} ms  p90 {_p90(bare):7.2f} ms",
        f"{'prompt, through the balancer':32} p50 {statistics.median(ours):7.2f} ms  p90 {_p90(ours):7.2f} ms",
        f"{'added to a prompt':32} p50 {added:7.2f} ms",
        f"{'1 s prompts, one direct':32} {one:7.3f}/s",
        f"{'1 s prompts, all through us':32} {two:7.3f}/s  {two / one:5.2f} x one direct",
    ]


async def _knows_lab(comfy: Comfy) -> bool:
    return bool((await comfy.get("/object_info/SlowProgress")).json)


def _p90(values: list[float]) -> float:
    return sorted(values)[int(len(values) * 0.9)]


async def latencies(direct: Comfy, through: Comfy) -> tuple[list[float], list[float]]:
    """Ms of each prompt, direct and through the balancer; the first ones only warm up."""
    took: dict[Comfy, list[float]] = {direct: [], through: []}
    async with direct.socket(direct.prefix) as one, through.socket(through.prefix) as other:
        for turn in range(PROMPTS + 5):
            for comfy, socket in ((direct, one), (through, other)):
                took[comfy].append(await _timed(comfy, socket, f"-{turn}"))
    return took[direct][5:], took[through][5:]


async def _timed(comfy: Comfy, socket: Socket, tag: str) -> float:
    began_at = time.perf_counter()
    prompt_id = await comfy.submit(comfy.picture(tag), client_id=comfy.prefix)
    await socket.ended(prompt_id)
    return (time.perf_counter() - began_at) * 1000


async def throughput(comfy: Comfy, count: int) -> float:
    """Prompts of 1 s that end in a second, when `count` are queued at once."""
    async with comfy.socket(f"{comfy.prefix}-load") as socket:
        began_at = time.perf_counter()
        graphs = [comfy.slow(f"-load-{number}", steps=10, ms=100) for number in range(count)]
        ids = await asyncio.gather(*(comfy.submit(graph, client_id=f"{comfy.prefix}-load") for graph in graphs))
        for prompt_id in ids:
            await socket.ended(prompt_id)
        return count / (time.perf_counter() - began_at)
