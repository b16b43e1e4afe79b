"""An answer's head and body go out in one write.

uvicorn writes them one after the other, which costs a second system call here, and wakes the client twice.
"""

import asyncio
from typing import Any, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol


class Corked:
    """A transport that writes at the end of the event loop's turn what was written during it."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self.bare = transport
        self._loop = loop
        self._parts: list[bytes] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.bare, name)

    def write(self, data: bytes) -> None:
        if not self._parts:
            self._loop.call_soon(self.flush)
        self._parts.append(data)

    def flush(self) -> None:
        """Writes what is held back."""
        parts, self._parts = self._parts, []
        if parts and not self.bare.is_closing():
            self.bare.write(b"".join(parts))

    def close(self) -> None:
        self.flush()
        self.bare.close()


class CorkedProtocol(HttpToolsProtocol):
    """uvicorn's HTTP; a websocket has its transport bare."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        self._corked = Corked(transport, self.loop)
        super().connection_made(cast("asyncio.Transport", self._corked))

    def handle_websocket_upgrade(self) -> None:
        self._corked.flush()
        self.transport = self._corked.bare
        super().handle_websocket_upgrade()
