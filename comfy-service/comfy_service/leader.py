"""One agent loop per machine and agent id, however many uvicorn workers serve its routes.

Each worker waits for an exclusive file lock; who has it runs the agent. The kernel frees the lock with the process,
also after SIGKILL, and
the next waiting worker takes over. Waiting is a blocking call in a daemon thread: nothing polls, and a process that
ends does not wait for it.
"""

import asyncio
import fcntl
import os
import threading
from pathlib import Path

import structlog

log = structlog.get_logger(__name__)


class Leadership:
    """The lock of one agent id."""

    def __init__(self, folder: str, agent: str) -> None:
        self._path = Path(folder) / f"comfy-agent-{agent}.lock"
        self._file: int | None = None

    async def acquire(self) -> None:
        """Waits until this process has the lock. Raises OSError when the lock file cannot be opened."""
        loop = asyncio.get_running_loop()
        granted: asyncio.Future[None] = loop.create_future()
        self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        thread = threading.Thread(target=self._wait, args=(self._file, loop, granted), name="leader-lock", daemon=True)
        thread.start()
        await granted

    @staticmethod
    def _wait(file: int, loop: asyncio.AbstractEventLoop, granted: "asyncio.Future[None]") -> None:
        fcntl.flock(file, fcntl.LOCK_EX)
        if not loop.is_closed():
            loop.call_soon_threadsafe(_grant, granted)

    def release(self) -> None:
        """Frees the lock; without it this does nothing."""
        if self._file is not None:
            os.close(self._file)
            self._file = None


def _grant(granted: "asyncio.Future[None]") -> None:
    if not granted.done():
        granted.set_result(None)
