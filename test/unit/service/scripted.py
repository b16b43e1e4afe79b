"""An instance that answers by script, in the place of aiohttp's session."""

import json
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from aiohttp import FormData


class Reply:
    """One scripted answer, in the shape of aiohttp's response."""

    def __init__(
        self,
        status: int = 200,
        *,
        json_value: object = None,
        text: str = "",
        content: bytes = b"",
        broken: Exception | None = None,
    ) -> None:
        self.status = status
        self.headers: dict[str, str] = {}
        self.content = self
        self._body = content or text.encode() or (b"" if json_value is None else json.dumps(json_value).encode())
        self._broken = broken  # raised after the body

    async def read(self) -> bytes:
        return b"".join([chunk async for chunk in self.iter_any()])

    async def iter_any(self) -> AsyncIterator[bytes]:
        yield self._body
        if self._broken:
            raise self._broken

    async def __aenter__(self) -> "Reply":
        return self

    async def __aexit__(self, *_: object) -> None:
        return None


class Request:
    """One call, as it was made."""

    def __init__(self, headers: Mapping[str, str], body: bytes) -> None:
        self.headers = headers
        self.body = body


class Route:
    """What answers one method and path: its replies in turn, the last of them from then on."""

    def __init__(self, replies: Sequence[Reply | Exception]) -> None:
        self._replies = list(replies)
        self.calls: list[Request] = []

    def next(self, request: Request) -> Reply:
        reply = self._replies[min(len(self.calls), len(self._replies) - 1)]
        self.calls.append(request)
        if isinstance(reply, Exception):
            raise reply
        return reply


class _Call:
    """Awaited, or entered with `async with`: both give the reply."""

    def __init__(self, session: "Session", method: str, url: str, options: Mapping[str, Any]) -> None:
        self._parts = session, method, url, options

    def __await__(self) -> Any:
        session, method, url, options = self._parts
        return session.answer(method, url, options).__await__()

    async def __aenter__(self) -> Reply:
        reply: Reply = await self
        return reply

    async def __aexit__(self, *_: object) -> None:
        return None


class Session:
    """Stands for aiohttp's; a request that a test does not expect fails."""

    def __init__(self) -> None:
        self._routes: dict[tuple[str, str], Route] = {}
        self.queries: list[dict[str, str]] = []

    def on(self, method: str, url: str, *replies: Reply | Exception) -> Route:
        """Scripts the answers of a path, or of a whole address."""
        route = self._routes[method, url] = Route(replies)
        return route

    def request(self, method: str, url: object, **options: Any) -> _Call:
        return _Call(self, method, str(url), options)

    def get(self, url: object, **options: Any) -> _Call:
        return _Call(self, "GET", str(url), options)

    async def answer(self, method: str, url: str, options: Mapping[str, Any]) -> Reply:
        assert options["allow_redirects"] is False
        parts = urlsplit(url)
        self.queries.append(dict(parse_qsl(parts.query, keep_blank_values=True)))
        route = self._routes.get((method, f"{parts.scheme}://{parts.netloc}{parts.path}"))
        route = route or self._routes[method, parts.path]
        return route.next(Request(options.get("headers") or {}, await _sent(options.get("data"))))

    async def close(self) -> None:
        return None


class _Sink:
    def __init__(self) -> None:
        self.data = b""

    async def write(self, data: bytes) -> None:
        self.data += data


async def _sent(body: bytes | FormData | None) -> bytes:
    if not isinstance(body, FormData):
        return body or b""
    sink = _Sink()
    await body().write(sink)  # type: ignore[arg-type]  # of a writer it needs no more
    return sink.data
