"""Server-sent events, written as they come: a process may have hundreds of watchers, each told ten events a second."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

PING_SECONDS = 15.0  # of silence, after which a comment keeps proxies from closing the connection
SLOW_SECONDS = 30.0  # after which a client that takes nothing is cut off; it may resume


def frame(number: int, kind: str, data: bytes) -> bytes:
    """One event: `id`, `event` and `data`, which is one line."""
    return b"event: %s\ndata: %s\nid: %d\n\n" % (kind.encode(), data, number)


class EventStream(Response):
    """Answers with the frames of an iterator, until it or the client ends."""

    media_type = "text/event-stream"

    def __init__(self, frames: AsyncGenerator[bytes, None], status_code: int = 200) -> None:
        super().__init__(status_code=status_code, headers={"cache-control": "no-cache", "x-accel-buffering": "no"})
        del self.headers["content-length"]
        self._frames = frames
        self._silent = True

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        telling = asyncio.create_task(self._tell(send))
        others = {asyncio.create_task(self._ping(send)), asyncio.create_task(_left(receive))}
        try:
            await asyncio.wait({telling, *others}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (telling, *others):
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)
        try:
            await telling
        except (asyncio.CancelledError, TimeoutError, OSError):
            return  # the client went away, or takes nothing

    async def _tell(self, send: Send) -> None:
        async with aclosing(self._frames):
            async for content in self._frames:
                self._silent = False
                async with asyncio.timeout(SLOW_SECONDS):
                    await send({"type": "http.response.body", "body": content, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _ping(self, send: Send) -> None:
        while True:
            await asyncio.sleep(PING_SECONDS)
            if self._silent:
                await send({"type": "http.response.body", "body": b": ping\n\n", "more_body": True})
            self._silent = True


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        continue
