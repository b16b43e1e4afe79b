"""How many prompts a second one simulator process can take, run and report: `python -m test.simulator.bench [PROMPTS]`.

One client submits tiny graphs (EmptyImage 64 x 64 of a new colour, SaveImage) over 16 HTTP connections with one
websocket open, and the clock stops when the websocket tells the end of the last. So each prompt costs a POST, twelve
frames, and a PNG file. Client and simulator are two processes. Measured on a machine with two cores, both in use by
others now and then: 1,160 to 1,380 a second with a core for each, 950 with both processes on one core; a third of it
is the creation of files.
"""

import asyncio
import json
import sys
import time

import aiohttp

_CONNECTIONS = 16


def _body(number: int) -> dict[str, object]:
    inputs = {"width": 64, "height": 64, "batch_size": 1, "color": number}
    return {
        "client_id": "bench",
        "prompt_id": f"bench-{number}",
        "prompt": {
            "1": {"class_type": "EmptyImage", "inputs": inputs},
            "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "bench"}},
        },
    }


async def measure(url: str, prompts: int) -> float:
    """Prompts a second, from the first POST to the last end message."""
    numbers = iter(range(prompts))
    last = json.dumps({"node": None, "prompt_id": f"bench-{prompts - 1}"}, separators=(",", ":"))
    async with aiohttp.ClientSession() as session, session.ws_connect(f"{url}/ws?clientId=bench") as socket:

        async def submit() -> None:
            for number in numbers:
                async with session.post(f"{url}/prompt", json=_body(number)) as response:
                    assert response.status == 200, await response.text()

        async def listen() -> None:
            async for message in socket:
                if message.type == aiohttp.WSMsgType.TEXT and last in message.data:
                    return

        started = time.perf_counter()
        await asyncio.gather(listen(), *(submit() for _ in range(_CONNECTIONS)))
        return prompts / (time.perf_counter() - started)


async def main(prompts: int) -> None:
    """Measure a simulator process of our own."""
    command = [sys.executable, "-m", "test.simulator"]
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    assert process.stdout is not None
    try:
        url = json.loads(await process.stdout.readline())["url"]
        rate = await measure(url, prompts)
        sys.stdout.write(f"{prompts} prompts, {rate:.0f} a second\n")
    finally:
        process.terminate()
        await process.wait()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 5000))
