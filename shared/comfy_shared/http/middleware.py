"""What every request passes before a route sees it, outermost first; pure ASGI, so that streaming stays streaming.

    RequestContext   request id, the door's shape, security headers, a log line, unexpected errors → 500
    HeaderLimit      headers over 16 KiB → 431
    LogIn            everything but the health routes needs the log-in → 401 (in `login`)
    Origin           a foreign page may not write nor open a websocket → 403
    Body             type of the body (415) and its size, also while it streams (413)

Each refuses by `refuse`, which answers HTTP and websockets alike. CORS is off: no header of it is ever sent.
"""

import random
import re
from collections.abc import Callable, Container, Iterable
from dataclasses import dataclass
from urllib.parse import urlsplit

import structlog
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from comfy_shared.errors import TooLarge
from comfy_shared.http.doors import Shapes, find_shape, refusal
from comfy_shared.logs import tells_requests

log = structlog.get_logger(__name__)

HEADER_LIMIT = 16 * 1024  # bytes of all names and values
HEALTH_PATHS = frozenset({"/healthz", "/readyz"})
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})
REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
DEFAULT_PORTS = {"http": 80, "https": 443, "ws": 80, "wss": 443}
SECURITY_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
)


def headers_of(scope: Scope, name: bytes) -> list[str]:
    """The values of a header, as often as it is there. Every request passes here: no object is made of its headers."""
    return [value.decode("latin-1") for known, value in scope["headers"] if known == name]


def header(scope: Scope, name: bytes) -> str:
    """The first value of a header; empty when it is not there."""
    for known, value in scope["headers"]:
        if known == name:
            return str(value, "latin-1")
    return ""


async def refuse(
    scope: Scope,
    receive: Receive,
    send: Send,
    status: int,
    code: str,
    detail: str,
    headers: dict[str, str] | None = None,
) -> None:
    """Answers in the shape of the request's door; a websocket is denied with the same status and body."""
    body, media_type = refusal(scope, status, code, detail)
    told = {"Content-Type": media_type, "Content-Length": str(len(body)), **(headers or {})}
    raw = [(name.lower().encode(), value.encode("latin-1")) for name, value in told.items()]
    prefix = "http"
    if scope["type"] == "websocket":
        await receive()
        if "websocket.http.response" not in scope.get("extensions", {}):
            await send({"type": "websocket.close", "code": 4000 + status})
            return
        prefix = "websocket.http"
    await send({"type": f"{prefix}.response.start", "status": status, "headers": raw})
    await send({"type": f"{prefix}.response.body", "body": b"" if scope.get("method") == "HEAD" else body})


class RequestContext:
    """Names the request and its door, puts the security headers on its answer, and is the last to catch an error."""

    def __init__(self, app: ASGIApp, shapes: Shapes) -> None:
        self.app = app
        self._shapes = shapes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        wished = header(scope, b"x-request-id")
        request_id = wished if REQUEST_ID.fullmatch(wished) else f"{random.getrandbits(104):026x}"
        scope.setdefault("state", {}).update(request_id=request_id, shape=find_shape(self._shapes, scope["path"]))
        structlog.contextvars.bind_contextvars(request_id=request_id)  # of this request's own asyncio task
        started = False

        async def named(message: Message) -> None:
            nonlocal started
            if message["type"] in ("http.response.start", "websocket.http.response.start", "websocket.accept"):
                started = True
                if scope["type"] == "http" and tells_requests() and not scope["state"].get("told"):
                    _tell(scope, message["status"])
                message = {**message, "headers": _with_ours(message.get("headers", ()), request_id)}
            await send(message)

        try:
            await self.app(scope, receive, named)
        except ClientDisconnect:
            log.info("The client went away", action="http.disconnected")
        except Exception:
            if started:
                raise  # the server breaks the connection, so that nobody takes the part for the whole, and logs
            log.exception("Request failed unexpectedly", action="http.failed")
            detail = "Something went wrong here; the log has it under this request id."
            await refuse(scope, receive, named, 500, "internal", detail)


def _tell(scope: Scope, status: int) -> None:
    """Without the query string: it may hold secrets."""
    tell = log.debug if scope["path"] in HEALTH_PATHS else log.info
    client = ":".join(str(part) for part in scope.get("client") or ())
    fields = {"client": client, "method": scope["method"], "path": scope["path"], "status": status}
    tell("HTTP request answered", action="http.answered", **fields)


def _with_ours(headers: Iterable[tuple[bytes, bytes]], request_id: str) -> list[tuple[bytes, bytes]]:
    kept = [pair for pair in headers if pair[0] != b"x-request-id"]
    names = {name for name, _ in kept}
    kept.append((b"x-request-id", request_id.encode()))
    return kept + [pair for pair in SECURITY_HEADERS if pair[0] not in names]


class HeaderLimit:
    """Refuses headers that are larger than any honest client's."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan" and sum(len(n) + len(v) for n, v in scope["headers"]) > HEADER_LIMIT:
            detail = f"The headers are larger than {HEADER_LIMIT} bytes."
            await refuse(scope, receive, send, 431, "headers-too-large", detail)
            return
        await self.app(scope, receive, send)


class Origin:
    """A page of another origin may read nothing (no CORS) and, here, write nothing and open no websocket."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        writes = scope["type"] == "websocket" or (scope["type"] == "http" and scope["method"] not in SAFE_METHODS)
        if writes and _foreign(scope):
            await refuse(scope, receive, send, 403, "foreign-origin", "A page of another origin may not do this.")
            return
        await self.app(scope, receive, send)


def _foreign(scope: Scope) -> bool:
    if header(scope, b"sec-fetch-site") == "cross-site":
        return True
    return not all(_same(origin, header(scope, b"host")) for origin in headers_of(scope, b"origin"))


def _same(origin: str, host: str) -> bool:
    try:
        ours = urlsplit(f"//{host}")
        theirs = urlsplit(origin)
        default = DEFAULT_PORTS.get(theirs.scheme)
        if default is None or not theirs.hostname:
            return False
        return (theirs.hostname, theirs.port or default) == (ours.hostname, ours.port or default)
    except ValueError:
        return False


@dataclass(frozen=True, kw_only=True, slots=True)
class BodyRule:
    """What a call takes that does not follow our own rule: a body of any type."""

    form_limit: int = 0  # bytes of a multipart body; 0: files are not taken
    limit: int = 0  # bytes of another body; 0: as many as of JSON


def no_rule(_: Scope) -> BodyRule | None:
    """Every path is ours."""
    return None


class Body:
    """Refuses bodies of a type that the path does not take, and bodies over their limit, told or streamed."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        json_limit: int,
        form_limit: int,
        form_paths: Container[str],
        rule_of: Callable[[Scope], BodyRule | None] = no_rule,
    ) -> None:
        self.app = app
        self._rule_of = rule_of
        self._json_limit = json_limit  # bytes
        self._form_limit = form_limit  # bytes
        self._form_paths = form_paths  # where files are taken

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        length, told = header(scope, b"content-length"), header(scope, b"content-type")
        has_body = length not in ("", "0") or len(headers_of(scope, b"transfer-encoding")) > 0
        kind = told.partition(";")[0].strip().lower()
        rule = self._rule_of(scope)
        if scope["method"] not in SAFE_METHODS and (has_body or kind):
            takes_files = scope["path"] in self._form_paths if rule is None else rule.form_limit > 0
            encoding = header(scope, b"content-encoding") or "identity"
            detail = _misfit(told, encoding, kind, takes_files=takes_files, any_type=rule is not None)
            if detail:
                await refuse(scope, receive, send, 415, "wrong-media-type", detail)
                return
        form_limit = self._form_limit if rule is None else rule.form_limit
        other_limit = rule.limit if rule and rule.limit else self._json_limit
        limit = form_limit if kind == "multipart/form-data" else other_limit
        message = f"The body is larger than {limit} bytes."
        if length.isdecimal() and int(length[:20]) > limit:
            await refuse(scope, receive, send, 413, "too-large", message, {"Connection": "close"})
            return
        await self.app(scope, _counted(receive, limit, message), send)


def _counted(receive: Receive, limit: int, message: str) -> Receive:
    seen = 0

    async def counting() -> Message:
        nonlocal seen
        part = await receive()
        seen += len(part.get("body", b""))
        if seen > limit:
            raise TooLarge(message)
        return part

    return counting


def _misfit(told: str, encoding: str, kind: str, *, takes_files: bool, any_type: bool) -> str | None:
    """Why this body is not taken."""
    if encoding.lower() != "identity":
        return "A compressed body is not taken."
    if kind == "multipart/form-data":
        return None if takes_files else "Files are not taken here; send application/json."
    if any_type:
        return None
    if kind != "application/json":
        return "The Content-Type must be application/json" + (" or multipart/form-data." if takes_files else ".")
    charset = "charset" in told.lower() and re.search(r"charset\s*=\s*\"?([^\s;\"]+)", told, re.IGNORECASE)
    if charset and charset.group(1).lower() not in ("utf-8", "utf8", "us-ascii"):
        return "JSON is UTF-8."
    return None
