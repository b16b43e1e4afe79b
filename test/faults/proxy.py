"""A TCP proxy between a process and what it talks to, to cut, freeze and hold what passes.

It runs on an event loop in a thread of its own. `cut` resets the connections and refuses new ones; `freeze` keeps all
open and lets nothing pass, as a half-open connection does; `hold` freezes at the first chunk from the client that
contains certain bytes, which has then not been passed on. `refuse` cuts only connections that begin with certain
bytes. `heal` lets everything pass, first what was kept.
"""

import asyncio
import threading
from collections.abc import Coroutine
from types import TracebackType
from typing import Any

from test.cluster import free_port, wait_until


class Proxy:
    """Passes 127.0.0.1:`port` on to 127.0.0.1:`target`, which may be changed for new connections."""

    def __init__(self, target: int) -> None:
        self.port = free_port()
        self.held = b""  # the chunk at which `hold` froze
        self.target = target
        self._pattern = b""
        self._unwanted = b""
        self._beginnings: dict[asyncio.StreamWriter, bytes] = {}  # of connections from clients
        self._refuse = False
        self._loop = asyncio.new_event_loop()
        self._open = asyncio.Event()
        self._open.set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._pumps: set[asyncio.Task[None]] = set()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)

    def __enter__(self) -> "Proxy":
        self._thread.start()
        self._run(self._listen())
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._run(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        self._loop.close()

    def cut(self) -> None:
        """Resets all connections and refuses new ones."""
        self._run(self._cut())

    def freeze(self) -> None:
        """Nothing passes; connections stay open and new ones are taken."""
        self._loop.call_soon_threadsafe(self._open.clear)

    def hold(self, pattern: bytes) -> None:
        """Freezes at the first chunk of a client with these bytes."""
        self.held = b""
        self._pattern = pattern

    def refuse(self, beginning: bytes) -> None:
        """Resets the connections of which the client's first chunk begins so, and all new ones of that kind."""
        self._unwanted = beginning
        self._run(self._cut_unwanted())

    async def _cut_unwanted(self) -> None:
        for writer, beginning in list(self._beginnings.items()):
            if beginning.startswith(self._unwanted):
                writer.transport.abort()

    def wait_held(self, timeout: float = 20) -> None:
        wait_until(lambda: self.held, "the proxy holds what it waits for", timeout)

    def heal(self) -> None:
        """Everything passes again."""
        self._refuse, self._unwanted = False, b""
        self._loop.call_soon_threadsafe(self._open.set)

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)

    async def _cut(self) -> None:
        self._refuse = True
        for writer in list(self._writers):
            writer.transport.abort()

    async def _close(self) -> None:
        self._server.close()
        await self._cut()
        for pump in list(self._pumps):
            pump.cancel()
        await asyncio.gather(*self._pumps, return_exceptions=True)
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._refuse:
            writer.transport.abort()
            return
        task = asyncio.current_task()
        assert task is not None
        self._pumps.add(task)
        task.add_done_callback(self._pumps.discard)
        self._writers.add(writer)
        try:
            await self._open.wait()
            up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self.target)
            self._writers.add(up_writer)
            await self._both(reader, writer, up_reader, up_writer)
        except (OSError, asyncio.CancelledError):
            writer.transport.abort()
        finally:
            self._writers.discard(writer)

    async def _both(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        up_reader: asyncio.StreamReader,
        up_writer: asyncio.StreamWriter,
    ) -> None:
        """Until one side ends the connection; then the other's is ended too."""
        ways = {
            asyncio.create_task(self._pump(reader, up_writer, client=writer)),
            asyncio.create_task(self._pump(up_reader, writer)),
        }
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            for one in (writer, up_writer):
                one.transport.abort()
            self._writers.discard(up_writer)
            self._beginnings.pop(writer, None)

    async def _pump(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        *,
        client: asyncio.StreamWriter | None = None,
    ) -> None:
        try:
            while chunk := await reader.read(65536):
                beginning = self._beginnings.setdefault(client, chunk[:64]) if client else b""
                if self._unwanted and beginning.startswith(self._unwanted):
                    return
                if client and self._pattern and self._pattern in chunk:
                    self._pattern, self.held = b"", chunk
                    self._open.clear()
                await self._open.wait()
                writer.write(chunk)
                await writer.drain()
        except OSError:
            return
