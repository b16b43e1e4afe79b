"""A bare client for ComfyUI's own protocol, and the graphs that the contract suite submits.

It hides nothing: requests give status and body, a `Socket` keeps every frame in the order of arrival. Everything is
named after a prefix that is unique per test, so a real server may be used by others at the same time.
"""

import asyncio
import json
import time
import uuid
import zlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any
from urllib.parse import quote

import aiohttp
from yarl import URL

Graph = dict[str, dict[str, Any]]
PATIENCE = 20.0  # seconds until a wait fails; a shared server may be busy


class Reply:
    """An HTTP answer: status, headers, body."""

    def __init__(self, response: aiohttp.ClientResponse, body: bytes) -> None:
        self.status = response.status
        self.headers = response.headers
        self.body = body

    @property
    def text(self) -> str:
        return self.body.decode()

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Socket:
    """A websocket whose frames are collected in the background: dicts for text, bytes for binary."""

    def __init__(self, connection: aiohttp.ClientWebSocketResponse) -> None:
        self.connection = connection
        self.frames: list[Any] = []
        self.times: list[float] = []  # of the frames, on the event loop's clock
        self.closed_by_peer = False
        self._news = asyncio.Event()
        self._reader = asyncio.create_task(self._read())

    async def _read(self) -> None:
        loop = asyncio.get_running_loop()
        async for message in self.connection:
            self.times.append(loop.time())
            if message.type == aiohttp.WSMsgType.TEXT:
                self.frames.append(json.loads(message.data))
            else:
                self.frames.append(message.data)
            self._news.set()
        self.closed_by_peer = True
        self._news.set()

    async def close(self) -> None:
        await self.connection.close()
        self._reader.cancel()
        with suppress(asyncio.CancelledError):
            await self._reader

    async def until(self, wanted: Callable[["Socket"], bool], what: str) -> None:
        """Wait until `wanted(self)`; fails with the frames seen when that takes too long."""
        try:
            async with asyncio.timeout(PATIENCE):
                while not wanted(self):
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError as error:
            raise AssertionError(f"no {what} in {self.frames}") from error

    async def ended(self, prompt_id: str) -> None:
        """Wait for the last message of a prompt."""
        last = {"type": "executing", "data": {"node": None, "prompt_id": prompt_id}}
        await self.until(lambda socket: last in socket.frames, "end of the prompt")

    async def first(self, kind: str) -> dict[str, Any]:
        """The data of the first message of that type, waited for."""
        await self.until(lambda socket: bool(socket.of(kind)), kind)
        found: dict[str, Any] = self.of(kind)[0]
        return found

    def of(self, kind: str) -> list[Any]:
        """The data of all messages of that type so far."""
        return [frame["data"] for frame in self.frames if isinstance(frame, dict) and frame["type"] == kind]

    def binary(self) -> list[bytes]:
        """All binary frames so far."""
        return [frame for frame in self.frames if isinstance(frame, bytes)]

    def story(self, status: bool = False) -> list[str]:
        """The frames in short words, as `describe` puts them; status messages only when asked for."""
        words = [describe(frame) for frame in self.frames]
        return [word for word in words if status or not word.startswith("status")]


class Comfy:
    """One ComfyUI, real or simulated."""

    def __init__(self, url: str, session: aiohttp.ClientSession, simulated: bool, direct: bool = True) -> None:
        self.url = url
        self.simulated = simulated
        self.direct = direct  # not through the balancer
        self.prefix = f"contract-{uuid.uuid4().hex[:10]}"  # for file names and client ids of this test
        self._session = session

    async def request(self, method: str, path: str, **options: Any) -> Reply:
        """Any request; `path` is sent as it is written, percent signs included."""
        async with self._session.request(method, URL(self.url + path, encoded=True), **options) as response:
            return Reply(response, await response.read())

    async def get(self, path: str, **options: Any) -> Reply:
        return await self.request("GET", path, **options)

    async def post(self, path: str, body: Any = None, **options: Any) -> Reply:
        """POST a JSON body, or `data=` as it is."""
        return await self.request("POST", path, **({"json": body} if body is not None else {}), **options)

    async def submit(self, graph: Graph, **fields: Any) -> str:
        """Queue a graph that is valid; its prompt id."""
        reply = await self.post("/prompt", {"prompt": graph, "prompt_id": str(uuid.uuid4()), **fields})
        assert reply.status == 200, reply.text
        prompt_id: str = reply.json["prompt_id"]
        return prompt_id

    async def refused(self, graph: Any) -> dict[str, Any]:
        """The body of the 400 that a graph gets."""
        reply = await self.post("/prompt", {"prompt": graph})
        assert reply.status == 400, reply.text
        body: dict[str, Any] = reply.json
        return body

    async def entry(self, prompt_id: str, wanted: Callable[[dict[str, Any]], bool] = bool) -> dict[str, Any]:
        """The history entry of a prompt, waited for until it is as `wanted`."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            history = (await self.get(f"/history/{quote(prompt_id, safe='')}")).json
            if history and wanted(history[prompt_id]):
                found: dict[str, Any] = history[prompt_id]
                return found
            await asyncio.sleep(0.01)
        raise AssertionError(f"prompt {prompt_id} did not end")

    async def queue(self) -> tuple[list[str], list[str]]:
        """The ids of the running and of the pending prompts."""
        queue = (await self.get("/queue")).json
        return [item[1] for item in queue["queue_running"]], [item[1] for item in queue["queue_pending"]]

    async def running(self, prompt_id: str) -> None:
        """Wait until the prompt runs."""
        deadline = time.monotonic() + PATIENCE
        while prompt_id not in (await self.queue())[0]:
            assert time.monotonic() < deadline, f"prompt {prompt_id} never ran"
            await asyncio.sleep(0.01)

    @asynccontextmanager
    async def socket(self, client_id: str | None = None, metadata: bool = False) -> AsyncIterator[Socket]:
        """A socket that has had its greeting, and with `metadata` announced the preview flag."""
        query = "" if client_id is None else f"?clientId={client_id}"
        connection = await self._session.ws_connect(f"{self.url}/ws{query}")
        socket = Socket(connection)
        try:
            await socket.first("status")
            if metadata:
                flags = {"supports_preview_metadata": True}
                await connection.send_json({"type": "feature_flags", "data": flags})
                await socket.first("feature_flags")
            yield socket
        finally:
            await socket.close()

    async def upload(self, name: str, content: bytes, route: str = "image", **fields: str) -> Reply:
        """Upload a file with the given form fields."""
        form = aiohttp.FormData(fields, quote_fields=False)  # names as they are, slashes included
        form.add_field("image", content, filename=name, content_type="application/octet-stream")
        return await self.post(f"/upload/{route}", data=form)

    # Graphs. Each takes a tag that keeps it apart from all other graphs in ComfyUI's cache.

    def picture(self, tag: str = "", size: int = 16, batch: int = 1) -> Graph:
        """One plain image, saved."""
        colour = zlib.crc32((self.prefix + tag).encode()) & 0xFFFFFF
        inputs = {"width": size, "height": size, "batch_size": batch, "color": colour}
        return {
            "1": {"class_type": "EmptyImage", "inputs": inputs},
            "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": self.prefix + tag}},
        }

    def slow(self, tag: str = "", steps: int = 3, ms: float = 1.0, preview: bool = False) -> Graph:
        """A plain image that takes its time, saved; needs the lab nodes."""
        graph = self.picture(tag)
        inputs = {"image": ["1", 0], "steps": steps, "ms_per_step": ms, "preview": preview, "tag": self.prefix + tag}
        graph["3"] = {"class_type": "SlowProgress", "inputs": inputs}
        graph["2"]["inputs"]["images"] = ["3", 0]
        return graph

    def failing(self, message: str = "failed on purpose") -> Graph:
        """A plain image, then an exception; needs the lab nodes."""
        graph = self.picture()
        graph["3"] = {"class_type": "Fail", "inputs": {"image": ["1", 0], "message": message}}
        graph["2"]["inputs"]["images"] = ["3", 0]
        return graph


def describe(frame: Any) -> str:
    """One frame in a few words, without ids, times and file names: equal for equal behaviour."""
    if isinstance(frame, bytes):
        return f"binary {int.from_bytes(frame[:4], 'big')}"
    kind, data = frame["type"], frame["data"]
    if kind == "status":
        return f"status {data['status']['exec_info']['queue_remaining']}" + (" sid" if "sid" in data else "")
    if kind == "progress_state":
        states = (
            f"{each['node_id']} {each['state']} {each['value']:g}/{each['max']:g}" for each in data["nodes"].values()
        )
        return f"progress_state {', '.join(states)}"
    if kind == "execution_cached":
        return f"execution_cached {sorted(data['nodes'])}"
    if kind == "progress":
        return f"progress {data['node']} {data['value']:g}/{data['max']:g}"
    if kind in ("executing", "executed"):
        return f"{kind} {data['node']}" + ("" if "prompt_id" in data else " without prompt_id")
    if kind in ("execution_error", "execution_interrupted"):
        return f"{kind} {data['node_id']}"
    return str(kind)
