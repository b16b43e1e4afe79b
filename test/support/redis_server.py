"""A real redis-server of the test's own: started on a free port, killed, frozen and started again on its data."""

import contextlib
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

from test.cluster import free_port
from test.support.waiting import wait_blocking


def find_redis_server() -> str:
    """The program, from PATH or beside the interpreter. Raises FileNotFoundError: the tests do not run without it."""
    found = shutil.which("redis-server") or shutil.which("redis-server", path=str(Path(sys.prefix) / "bin"))
    if found is None:
        raise FileNotFoundError("no redis-server on PATH or beside the interpreter: run `make install`")
    return found


class RedisServer:
    """One server process with an append-only file in `folder`; `restart` finds what was written before."""

    def __init__(self, folder: Path, *, fsync: str = "everysec") -> None:
        self._folder = folder
        self._fsync = fsync
        self._process: subprocess.Popen[bytes] | None = None
        self.port = 0
        self._start_on_a_free_port()

    def _start_on_a_free_port(self) -> None:
        for _ in range(5):  # somebody else may take the port between the look and the start
            self.port = free_port()
            with contextlib.suppress(ChildProcessError):
                return self.start()
        raise ChildProcessError(f"redis-server does not start; see {self._folder / 'redis.log'}")

    def start(self) -> None:
        """Starts the process and waits until it answers."""
        options = {
            "bind": "127.0.0.1",
            "port": str(self.port),
            "dir": str(self._folder),
            "logfile": str(self._folder / "redis.log"),
            "save": "",
            "appendonly": "yes",
            "appendfsync": self._fsync,
            "daemonize": "no",
        }
        arguments = [part for name, value in options.items() for part in (f"--{name}", value)]
        self._process = subprocess.Popen([find_redis_server(), *arguments], stdin=subprocess.DEVNULL)
        wait_blocking(lambda: self._answers() or not self.running, "redis-server answers", timeout=20)
        if not self.running:
            raise ChildProcessError("redis-server ended at its start")

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def stop(self) -> None:
        """Ends the process in order."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """Ends the process as a power cut does."""
        self._end(signal.SIGKILL)

    def restart(self) -> None:
        """Starts it again on the same port and data; a running one is stopped first."""
        self.stop()
        self.start()

    def freeze(self) -> None:
        """Connections stay open, nothing is answered any more."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def _end(self, number: signal.Signals) -> None:
        if self._process is None or not self.running:
            return
        self._process.send_signal(number)
        self._process.send_signal(signal.SIGCONT)
        self._process.wait(20)

    def _answers(self) -> bool:
        """Whether it takes commands: the port is open and it is not loading its data."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1) as connection:
                connection.sendall(b"PING\r\n")
                return connection.recv(64).startswith(b"+PONG")
        except OSError:
            return False
