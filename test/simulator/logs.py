"""The server's log as ComfyUI offers it over HTTP: the last 300 writes, and live entries for clients that
subscribed.
"""

from collections import deque
from datetime import datetime
from typing import Any

from test.simulator.wire import Sockets

_CAPACITY = 300


class Logs:
    """The buffer and the subscribers. A subscriber whose socket is gone is dropped at the next line."""

    def __init__(self, sockets: Sockets) -> None:
        self._sockets = sockets
        self.entries: deque[dict[str, str]] = deque(maxlen=_CAPACITY)
        self.subscribers: set[Any] = set()

    def line(self, text: str) -> None:
        """One log line, without its newline."""
        entry = {"t": datetime.now().isoformat(), "m": text + "\n"}
        self.entries.append(entry)
        for client_id in list(self.subscribers):
            if client_id in self._sockets.by_id:
                self._sockets.send("logs", {"entries": [entry], "size": None}, client_id)
            else:
                self.subscribers.discard(client_id)
