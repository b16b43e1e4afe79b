"""Records what a ComfyUI sends over its websocket, as files for tests that need no server.

    python -m test.contract.record http://127.0.0.1:8188 test/fixtures/comfyui

One file per scenario, JSON lines, described in the README beside them. The server needs our lab nodes and must be idle.
Tracebacks are cut to file names, line numbers and functions.
"""

import asyncio
import json
import re
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp

from test.contract.comfy import Comfy, Graph, Socket

Lines = list[dict[str, Any]]


class Recording:
    """The lines of one scenario."""

    def __init__(self, comfyui: Comfy, name: str) -> None:
        self.comfyui = comfyui
        self.name = name
        self.lines: Lines = []
        self._start = asyncio.get_running_loop().time()

    def sockets_frames(self, socket: Socket, client_id: str) -> None:
        """Append all frames of a socket."""
        self.lines.append({"open": client_id})
        for moment, frame in zip(socket.times, socket.frames, strict=True):
            ms = round((moment - self._start) * 1000, 1)
            shown = {"hex": frame.hex()} if isinstance(frame, bytes) else {"text": frame}
            self.lines.append({"t": ms, **shown})

    async def run(self, graph: Graph, metadata: bool = False) -> None:
        """Submit a graph as one client and record all it hears, then the history entry."""
        comfyui = self.comfyui
        async with comfyui.socket(comfyui.prefix, metadata=metadata) as socket:
            prompt_id = await comfyui.submit(graph, client_id=comfyui.prefix)
            await socket.ended(prompt_id)
            self.lines.append({"prompt": graph, "prompt_id": prompt_id, "client_id": comfyui.prefix})
            self.sockets_frames(socket, comfyui.prefix)
        self.lines.append({"history": await comfyui.entry(prompt_id)})


async def success(recording: Recording) -> None:
    await recording.run(recording.comfyui.slow(steps=3, ms=20.0))


async def cached(recording: Recording) -> None:
    graph = recording.comfyui.picture()
    await recording.comfyui.entry(await recording.comfyui.submit(graph))
    await recording.run(graph)


async def error(recording: Recording) -> None:
    await recording.run(recording.comfyui.failing())


async def preview(recording: Recording) -> None:
    await recording.run(recording.comfyui.slow(steps=3, ms=20.0, preview=True))


async def preview_with_metadata(recording: Recording) -> None:
    await recording.run(recording.comfyui.slow(steps=3, ms=20.0, preview=True), metadata=True)


async def websocket_image(recording: Recording) -> None:
    graph = recording.comfyui.picture()
    graph["2"] = {"class_type": "SaveImageWebsocket", "inputs": {"images": ["1", 0]}}
    await recording.run(graph)


async def text(recording: Recording) -> None:
    await recording.run({"1": {"class_type": "TextOut", "inputs": {"text": "hello"}}})


async def interrupted(recording: Recording) -> None:
    comfyui = recording.comfyui
    graph = comfyui.slow(steps=500, ms=10)
    async with comfyui.socket(comfyui.prefix) as socket:
        prompt_id = await comfyui.submit(graph, client_id=comfyui.prefix)
        await socket.first("progress")
        await comfyui.post("/interrupt", {"prompt_id": prompt_id})
        await socket.ended(prompt_id)
        recording.lines.append({"prompt": graph, "prompt_id": prompt_id, "client_id": comfyui.prefix})
        recording.sockets_frames(socket, comfyui.prefix)
    recording.lines.append({"history": await comfyui.entry(prompt_id)})


async def reconnect(recording: Recording) -> None:
    """The first socket is closed while the prompt runs, the second takes the same id."""
    comfyui = recording.comfyui
    graph = comfyui.slow(steps=20, ms=10)
    async with comfyui.socket(comfyui.prefix) as first:
        prompt_id = await comfyui.submit(graph, client_id=comfyui.prefix)
        await first.first("progress")
    async with comfyui.socket(comfyui.prefix) as second:
        await second.ended(prompt_id)
        recording.lines.append({"prompt": graph, "prompt_id": prompt_id, "client_id": comfyui.prefix})
        recording.sockets_frames(first, comfyui.prefix)
        recording.lines.append({"closed": comfyui.prefix})
        recording.sockets_frames(second, comfyui.prefix)
    recording.lines.append({"history": await comfyui.entry(prompt_id)})


async def without_client_id(recording: Recording) -> None:
    """What a bystander hears of a prompt that was submitted without a client id."""
    comfyui = recording.comfyui
    graph = comfyui.slow(steps=3, ms=20.0, preview=True)
    async with comfyui.socket(comfyui.prefix) as socket:
        prompt_id = await comfyui.submit(graph)
        await socket.until(lambda each: each.story(status=True)[-2:][0].endswith("2 finished 1/1"), "the end")
        recording.lines.append({"prompt": graph, "prompt_id": prompt_id, "client_id": None})
        recording.sockets_frames(socket, comfyui.prefix)
    recording.lines.append({"history": await comfyui.entry(prompt_id)})


SCENARIOS: dict[str, Callable[[Recording], Awaitable[None]]] = {
    scenario.__name__: scenario
    for scenario in (
        success,
        cached,
        error,
        interrupted,
        preview,
        preview_with_metadata,
        reconnect,
        websocket_image,
        text,
        without_client_id,
    )
}


def _without_source(value: Any) -> Any:
    """Tracebacks keep file name, line number and function, but neither folders nor the source lines of others."""
    if isinstance(value, dict):
        return {
            key: [_place(each) for each in inner] if key == "traceback" else _without_source(inner)
            for key, inner in value.items()
        }
    return [_without_source(each) for each in value] if isinstance(value, list) else value


def _place(line: str) -> str:
    return re.sub(r'File "[^"]*?([^/"]+)"', r'File "\1"', line.split("\n", 1)[0]) + "\n"


async def record(url: str, session: aiohttp.ClientSession, name: str) -> Lines:
    """The lines of one scenario."""
    recording = Recording(Comfy(url, session, simulated=False), name)
    await SCENARIOS[name](recording)
    version = (await recording.comfyui.get("/system_stats")).json["system"]["comfyui_version"]
    head = {"scenario": name, "comfyui_version": version}
    return [head, *recording.lines]


async def main(url: str, folder: Path) -> None:
    """Record every scenario into its file."""
    async with aiohttp.ClientSession() as session:
        for name in SCENARIOS:
            lines = [json.dumps(_without_source(line)) for line in await record(url, session, name)]
            path = folder / f"{name}.jsonl"
            await asyncio.to_thread(path.write_text, "\n".join(lines) + "\n")
            sys.stdout.write(f"{path}: {len(lines)} lines\n")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], Path(sys.argv[2])))
