"""What leaves the simulator: JSON bodies, websocket frames, and the sockets they go to.

As in ComfyUI all frames of all clients pass through one queue that one loop empties, awaiting each send: a client
that stops reading therefore blocks everybody. A frame is encoded once, however many sockets get it. A client id names
at most one socket; when a second socket takes an id and the first then closes, the id is forgotten and the second
socket hears nothing more: also as in ComfyUI.
"""

import asyncio
import itertools
import json
import struct
from typing import Any

import msgspec
from aiohttp import WSMsgType, web

PREVIEW_IMAGE = 1
TEXT = 3
PREVIEW_IMAGE_WITH_METADATA = 4

_SMALL = 4096  # bytes of a frame that is written together with others

_Frame = tuple[bytes, WSMsgType]
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
        # Of deafened sockets too, so that a fault can cut them all.
        self.transports: dict[web.WebSocketResponse, asyncio.Transport] = {}
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
        if self.silent:
            return
        for socket in self._targets(client_id):
            await self._deliver(socket, [(encode({"type": event, "data": data}), WSMsgType.TEXT)])

    def wants_metadata(self, client_id: str | None) -> bool:
        """Whether the client announced that it understands previews with metadata."""
        return client_id is not None and self.flags.get(client_id, {}).get("supports_preview_metadata") is True

    async def publish_for_ever(self) -> None:
        """The one loop that writes to all sockets."""
        while True:
            burst = [await self._frames.get()]
            while not self._frames.empty():
                burst.append(self._frames.get_nowait())
            if self.silent:
                continue
            together: dict[web.WebSocketResponse, list[_Frame]] = {}
            try:
                for frame, kind, client_id in burst:
                    for socket in self._targets(client_id):
                        together.setdefault(socket, []).append((frame, kind))
            finally:  # also what came before a client id that cannot be looked up
                for socket, frames in together.items():
                    await self._deliver(socket, frames)

    def _targets(self, client_id: str | None) -> list[web.WebSocketResponse]:
        if client_id is None:
            return list(self.by_id.values())
        target = self.by_id.get(client_id)
        return [target] if target is not None else []

    async def _deliver(self, socket: web.WebSocketResponse, frames: list[_Frame]) -> None:
        """Sends frames in order; the small ones before the last in one write, because each write is a system call
        here and a wake-up there.
        """
        transport = self.transports.get(socket)
        plain = transport is not None and not (socket.compress or socket.closed or transport.is_closing())
        try:
            while plain and transport is not None and len(frames) > 1:
                small = list(itertools.takewhile(lambda frame: len(frame[0]) < _SMALL, frames[:-1]))
                transport.write(b"".join(_framed(*frame) for frame in small))
                await socket.send_frame(*frames[len(small)])
                frames = frames[len(small) + 1 :]
            for frame in frames:
                await socket.send_frame(*frame)
        except ConnectionError:
            return  # closed meanwhile; its own handler unregisters it


def _framed(payload: bytes, kind: WSMsgType) -> bytes:
    """A whole websocket message as a server sends it: in one frame, not masked."""
    size = len(payload)
    head = struct.pack(">BB", 0x80 | kind, size) if size < 126 else struct.pack(">BBH", 0x80 | kind, 126, size)
    return head + payload
