"""The instance's event socket: one, always drained, opened again whenever it drops.

A socket that is not read silences the instance for all its clients, and closing an older socket of a client id
deafens a newer one of the
same id: so frames are handed on without ever waiting, and a fresh id is used unless a prompt of the old id still runs.
"""

import json
import time
from collections.abc import Callable
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

import structlog
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidHandshake, InvalidURI, WebSocketException

from comfy_service.instance.protocol import Frame, parse_binary, parse_text

log = structlog.get_logger(__name__)

# With it previews come with their node's id, and a picture without one is the output of SaveImageWebsocket.
FLAGS = json.dumps({"type": "feature_flags", "data": {"supports_preview_metadata": True}})
LARGEST_FRAME = 256 * 1024 * 1024
SETTLED = 2.0  # seconds after which a connection counts as a good one
QUIET = 60.0  # seconds without an answer to our ping; a model load may hold the instance's loop for long


class Socket:
    """The socket of one agent. `client_id` is unguessable: whoever knows it could take the events over."""

    def __init__(self, on_frame: Callable[[Frame, str | bytes], None]) -> None:
        self._on_frame = on_frame  # told what a frame says, and the frame itself
        self._connection: ClientConnection | None = None
        self.client_id = uuid4().hex
        self.lived_long = False  # the last connection was more than a failed attempt

    def new_client_id(self) -> None:
        """Takes a fresh id for the next connection; only while no prompt of the old one runs."""
        self.client_id = uuid4().hex

    async def follow(self, url: str, on_open: Callable[[], None]) -> None:
        """Connects to the instance at `url` and hands on frames until the connection ends, however it ends."""
        self.lived_long = False
        began_at = time.monotonic()
        try:
            async with connect(
                f"{_socket_address(url)}?clientId={self.client_id}",
                max_size=LARGEST_FRAME,
                open_timeout=5,
                close_timeout=1,
                ping_interval=10,
                ping_timeout=QUIET,
                compression=None,
                proxy=None,
            ) as connection:
                self._connection = connection
                await connection.send(FLAGS)
                on_open()
                async for message in connection:
                    frame = parse_text(message) if isinstance(message, str) else parse_binary(message)
                    if frame is not None:
                        self._on_frame(frame, message)
        except (OSError, TimeoutError, InvalidHandshake, InvalidURI, WebSocketException) as error:
            log.info("The event socket ended", action="instance.socket", reason=type(error).__name__)
        finally:
            self._connection = None
            self.lived_long = time.monotonic() - began_at > SETTLED

    async def close(self) -> None:
        """Ends the connection, so that `follow` returns."""
        if self._connection is not None:
            await self._connection.close()


def _socket_address(url: str) -> str:
    parts = urlsplit(url)
    scheme = "wss" if parts.scheme == "https" else "ws"
    return urlunsplit((scheme, parts.netloc, parts.path + "/ws", "", ""))
