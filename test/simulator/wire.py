"""What leaves the simulator: JSON bodies, websocket frames, and the sockets they go to.

As in ComfyUI all frames of all clients pass through one queue that one loop empties, awaiting each send: a client
that stops reading therefore blocks everybody. A frame is encoded once, however many sockets get it. A client id names
at most one socket; when a second socket takes an id and the first then closes, the id is forgotten and the second
socket hears nothing more: also as in ComfyUI.
"""

import asyncio
import json
import struct
from typing import Any

import msgspec
from aiohttp import WSMsgType, web

PREVIEW_IMAGE = 1
TEXT = 3
PREVIEW_IMAGE_WITH_METADATA = 4

_encoder = msgspec.json.Encoder()


def encode(data: Any) -> bytes:
    """Compact JSON; what msgspec cannot express (lone surrogates, huge integers) goes through the slower standard
    library.
    """
    try:
        return _encoder.encode(data)
    except (UnicodeEncodeError, OverflowError):
        return json.dumps(data).encode()


async def body_of(request: web.Request) -> Any:
    """The JSON of a request; what msgspec does not take (NaN, lone surrogates, no UTF-8) goes the way that ComfyUI
    takes.
    """
    try:
        return msgspec.json.decode(await request.read())
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return await request.json()


def answer(data: Any, status: int = 200) -> web.Response:
    """A JSON response with the content type that ComfyUI sends."""
    return web.Response(body=encode(data), status=status, content_type="application/json", charset="utf-8")


def binary_frame(event: int, payload: bytes) -> bytes:
    """A binary websocket frame: the event number, big-endian, then the payload."""
    return struct.pack(">I", event) + payload


def preview_frame(kind: str, image: bytes) -> bytes:
    """An image for clients without the metadata flag; `kind` is JPEG or PNG."""
    return binary_frame(PREVIEW_IMAGE, struct.pack(">I", 2 if kind == "PNG" else 1) + image)


def preview_frame_with_metadata(kind: str, image: bytes, metadata: dict[str, Any]) -> bytes:
    """An image for clients with the metadata flag: a length-prefixed JSON header, then the image."""
    header = encode({**metadata, "image_type": "image/png" if kind == "PNG" else "image/jpeg"})
    return binary_frame(PREVIEW_IMAGE_WITH_METADATA, struct.pack(">I", len(header)) + header + image)


def text_frame(node_id: str, text: str) -> bytes:
    """A text that a node shows while it runs."""
    name = node_id.encode()
    return binary_frame(TEXT, struct.pack(">I", len(name)) + name + text.encode())


class Sockets:
    """The connected clients and the one queue of frames to them."""

    def __init__(self) -> None:
        self.by_id: dict[str, web.WebSocketResponse] = {}
        self.flags: dict[str, dict[str, Any]] = {}
        self.transports: set[asyncio.Transport] = set()  # of deafened sockets too, so that a fault can cut them all
        self.silent = False
        self._frames: asyncio.Queue[tuple[bytes, WSMsgType, str | None]] = asyncio.Queue()

    def send(self, event: str, data: Any, client_id: str | None = None) -> None:
        """Queue a text message for one client id, or for everybody."""
        self._frames.put_nowait((encode({"type": event, "data": data}), WSMsgType.TEXT, client_id))

    def send_binary(self, frame: bytes, client_id: str | None = None) -> None:
        """Queue a binary frame for one client id, or for everybody."""
        self._frames.put_nowait((frame, WSMsgType.BINARY, client_id))

    async def send_now(self, event: str, data: Any, client_id: str) -> None:
        """Send past the queue, as ComfyUI does for the greeting of a new socket and its feature flags."""
        await self._deliver(encode({"type": event, "data": data}), WSMsgType.TEXT, client_id)

    def wants_metadata(self, client_id: str | None) -> bool:
        """Whether the client announced that it understands previews with metadata."""
        return client_id is not None and self.flags.get(client_id, {}).get("supports_preview_metadata") is True

    async def publish_for_ever(self) -> None:
        """The one loop that writes to all sockets."""
        while True:
            frame, kind, client_id = await self._frames.get()
            await self._deliver(frame, kind, client_id)

    async def _deliver(self, frame: bytes, kind: WSMsgType, client_id: str | None) -> None:
        if self.silent:
            return
        if client_id is None:
            targets = list(self.by_id.values())
        else:
            target = self.by_id.get(client_id)
            targets = [target] if target is not None else []
        for socket in targets:
            try:
                await socket.send_frame(frame, kind)
            except ConnectionError:
                continue  # closed meanwhile; its own handler unregisters it
