"""One ComfyUI websocket: what is sent to it waits in a bounded buffer, and a client that does not read is cut.

Nobody ever waits for a socket: others hear what they should, however slow one of them is.
"""

import asyncio
import struct
from collections import deque
from typing import Any

import msgspec
from starlette.websockets import WebSocket, WebSocketDisconnect

from comfy_shared.live import PICTURE, TEXT, LiveFrame

LARGEST_BUFFER = 256 * 1024  # bytes of text that may wait
LARGEST_PICTURES = 16 * 1024 * 1024  # bytes of pictures that are outputs and may wait
LARGEST_FRAME = 64 * 1024  # bytes that a client may send at a time: it has little to say
CUT = 1013  # the close code for a client that does not read
_FORMATS = {"image/jpeg": 1, "image/png": 2}


class Client:
    """The frames of one socket. `put…` never waits."""

    def __init__(self, owner: str, client_id: str) -> None:
        self.owner = owner
        self.client_id = client_id
        self.metadata = False  # it takes previews with metadata
        self.gone = False
        self.cut = asyncio.Event()
        self._waiting: deque[str | bytes] = deque()
        self._preview: bytes | None = None  # the newest; an older one is of no use
        self._text_bytes = 0
        self._picture_bytes = 0
        self._news = asyncio.Event()

    def put(self, message: dict[str, Any]) -> None:
        """Has a message sent."""
        text = msgspec.json.encode(message).decode()
        self._text_bytes += len(text)
        self._append(text)

    def put_frame(self, frame: LiveFrame, prompt_id: str) -> None:
        """Has a picture or text of a running prompt sent, in the layout that this client takes."""
        if frame.kind == TEXT:
            data = text_frame(frame)
            self._text_bytes += len(data)
            self._append(data)
        elif frame.kind == PICTURE:
            data = bare_picture(frame)
            self._picture_bytes += len(data)
            self._append(data)
        else:
            self._preview = described_picture(frame, prompt_id) if self.metadata else bare_picture(frame)
            self._news.set()

    def _append(self, item: str | bytes) -> None:
        preview, self._preview = self._preview, None
        if preview is not None:  # in its place: with metadata before the progress that it belongs to, else after it
            self._picture_bytes += len(preview)
        self._waiting += [each for each in ((preview, item) if self.metadata else (item, preview)) if each is not None]
        if self._text_bytes > LARGEST_BUFFER or self._picture_bytes > LARGEST_PICTURES:
            self.cut.set()
        self._news.set()

    async def send(self, socket: WebSocket) -> None:
        """Sends until the client is gone or cut."""
        while True:
            await self._news.wait()
            self._news.clear()
            while self._waiting or self._preview is not None:
                if self._waiting:
                    item = self._waiting.popleft()
                else:
                    item, self._preview = self._preview or b"", None
                    self._picture_bytes += len(item)
                if isinstance(item, str):
                    await socket.send_text(item)
                    self._text_bytes -= len(item)
                else:
                    await socket.send_bytes(item)
                    self._forget(item)

    def _forget(self, item: bytes) -> None:
        if item[3:4] == b"\x03":
            self._text_bytes -= len(item)
        else:
            self._picture_bytes -= len(item)


def text_frame(frame: LiveFrame) -> bytes:
    node = frame.node.encode()
    return struct.pack(">II", 3, len(node)) + node + frame.content


def bare_picture(frame: LiveFrame) -> bytes:
    kind = _FORMATS.get(str(frame.data.get("image_type")), 1)
    return struct.pack(">II", 1, kind) + frame.content


def described_picture(frame: LiveFrame, prompt_id: str) -> bytes:
    places = {name: frame.data.get(name, frame.node) for name in ("display_node_id", "real_node_id")}
    about = {
        "node_id": frame.node,
        "prompt_id": prompt_id,
        "display_node_id": places["display_node_id"],
        "parent_node_id": frame.data.get("parent_node_id"),
        "real_node_id": places["real_node_id"],
        "image_type": frame.data.get("image_type", "image/jpeg"),
    }
    packed = msgspec.json.encode(about)
    return struct.pack(">II", 4, len(packed)) + packed + frame.content


async def listen(socket: WebSocket, client: Client, features: dict[str, Any]) -> None:
    """Reads what the client says until it is gone: its features, as its first message, or nothing that matters."""
    first = True
    while True:
        received = await socket.receive()
        if received["type"] == "websocket.disconnect":
            return
        text = received.get("text")
        if not first or not isinstance(text, str) or len(text) > LARGEST_FRAME:
            continue
        try:
            said = msgspec.json.decode(text)
        except (msgspec.MsgspecError, RecursionError):
            continue
        first = False
        if isinstance(said, dict) and said.get("type") == "feature_flags":
            flags = said.get("data")
            client.metadata = isinstance(flags, dict) and bool(flags.get("supports_preview_metadata"))
            client.put({"type": "feature_flags", "data": features})


async def serve(socket: WebSocket, client: Client, features: dict[str, Any]) -> None:
    """Both directions, until either ends or the client is cut."""
    works = [
        asyncio.create_task(client.send(socket)),
        asyncio.create_task(listen(socket, client, features)),
        asyncio.create_task(client.cut.wait()),
    ]
    try:
        await asyncio.wait(works, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for work in works:
            work.cancel()
        ends = await asyncio.gather(*works, return_exceptions=True)
    if client.cut.is_set():
        await asyncio.wait_for(_close(socket), 1)
    for end in ends:
        if isinstance(end, Exception) and not isinstance(end, WebSocketDisconnect):
            raise end


async def _close(socket: WebSocket) -> None:
    try:
        await socket.close(CUT)
    except (RuntimeError, WebSocketDisconnect):
        return
