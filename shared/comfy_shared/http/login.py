"""The log-in at the edge: everything but the health routes is asked for it, HTTP and websockets alike.

The middleware `LogIn` knows no accounts. It asks `resources.log_in` of the lifespan's state, which names the caller or
raises `LogInRefused`; without one nothing passes. `Gate` is what each tier's check begins and ends with: clear text and
guessing. `Operator` is the one log-in of the settings, `OperatorLogIn` the check of a tier that knows no other.
"""

import base64
import binascii
import hashlib
import hmac
import math
from collections.abc import Awaitable, Callable
from typing import cast

import structlog
from starlette.types import ASGIApp, Receive, Scope, Send

from comfy_shared.callers import Caller, Role
from comfy_shared.errors import Unavailable
from comfy_shared.guesses import GuessLimit
from comfy_shared.http.middleware import headers_of, refuse
from comfy_shared.http.peers import Peers
from comfy_shared.http.problems import RETRY_AFTER
from comfy_shared.settings import SharedSettings

log = structlog.get_logger(__name__)

OPEN_PATHS = frozenset({b"/healthz", b"/readyz"})
CHALLENGE = {"WWW-Authenticate": 'Basic realm="comfy", charset="UTF-8"'}

LogInCheck = Callable[[Scope], Awaitable[Caller]]


class LogInRefused(Exception):
    """Nobody is let in by this request."""

    def __init__(self, status: int, code: str, detail: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(detail)
        self.status = status
        self.code = code
        self.detail = detail
        self.headers = headers or {}


class LogIn:
    """Asks for the log-in. Only the exact bytes of a health route's path are open: no other spelling of them is."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan" or self._open(scope):
            await self.app(scope, receive, send)
            return
        check = cast("LogInCheck", scope["state"]["resources"].log_in)
        try:
            scope["state"]["caller"] = await check(scope)
        except LogInRefused as error:
            await refuse(scope, receive, send, error.status, error.code, error.detail, error.headers)
        except Unavailable as error:
            await refuse(scope, receive, send, 503, "unavailable", error.message, {"Retry-After": RETRY_AFTER})
        else:
            await self.app(scope, receive, send)

    @staticmethod
    def _open(scope: Scope) -> bool:
        return scope["type"] == "http" and scope["method"] in ("GET", "HEAD") and scope["raw_path"] in OPEN_PATHS


class Operator:
    """The log-in of the settings."""

    def __init__(self, settings: SharedSettings) -> None:
        self.caller = Caller(owner=settings.api_username, role=Role.ADMIN)
        user, password = settings.api_username.encode(), settings.api_password.get_secret_value().encode()
        self._expected = (digest(user), digest(password))
        self._usual = digest(b"Basic " + base64.b64encode(user + b":" + password))

    def sent(self, header: str) -> bool:
        """Whether an Authorization header is the log-in as nearly every client writes it; if not, `fits` tells."""
        return hmac.compare_digest(digest(header.encode("latin-1")), self._usual)

    def fits(self, user: bytes, password: bytes) -> bool:
        """Both are compared, whatever the first says; hashes have one length."""
        user_fits = hmac.compare_digest(digest(user), self._expected[0])
        password_fits = hmac.compare_digest(digest(password), self._expected[1])
        return user_fits & password_fits


def digest(value: bytes) -> bytes:
    return hashlib.sha256(value).digest()


class Gate:
    """What is asked before a log-in is looked at, and what follows a wrong one."""

    def __init__(self, settings: SharedSettings, guesses: GuessLimit) -> None:
        self._careful = settings.production
        self._peers = Peers(settings)
        self._guesses = guesses

    def check_way(self, scope: Scope) -> None:
        """Raises LogInRefused when a log-in must not be sent this way: it is not even asked for."""
        if self._careful and self._peers.in_clear(scope):
            raise LogInRefused(403, "clear-text", "A log-in is taken over TLS only; this connection is clear text.")

    async def check_guesses(self, scope: Scope) -> None:
        """Raises LogInRefused when too many wrong log-ins came from the address."""
        if seconds := await self._guesses.kept_out(self._peers.client(scope)):
            raise _kept_out(seconds)

    async def wrong(self, scope: Scope) -> LogInRefused:
        """Counts a wrong log-in, and what to answer."""
        address = self._peers.client(scope)
        seconds = await self._guesses.failed(address, _shown(scope))
        if seconds:
            log.warning("Too many wrong log-ins from an address", action="login.kept_out", address=address)
            return _kept_out(seconds)
        return unauthorized()


def _shown(scope: Scope) -> bytes:
    headers = [value for name, value in scope["headers"] if name in (b"authorization", b"x-api-key")]
    return b"\n".join([*headers, scope.get("state", {}).get("ticket", b"")])


def unauthorized() -> LogInRefused:
    return LogInRefused(401, "unauthorized", "A log-in is needed.", CHALLENGE)


def _kept_out(seconds: float) -> LogInRefused:
    detail = "Too many wrong log-ins came from your address; wait."
    return LogInRefused(429, "too-many-guesses", detail, {"Retry-After": str(math.ceil(seconds))})


class OperatorLogIn:
    """The check of a tier whose only log-in is the operator's."""

    def __init__(self, settings: SharedSettings, guesses: GuessLimit) -> None:
        self._gate = Gate(settings, guesses)
        self._operator = Operator(settings)

    async def __call__(self, scope: Scope) -> Caller:
        """Raises LogInRefused."""
        self._gate.check_way(scope)
        headers = headers_of(scope, b"authorization")
        if headers:
            await self._gate.check_guesses(scope)
        user, password = basic(headers[0]) if len(headers) == 1 else (b"", b"")
        if self._operator.fits(user, password):
            return self._operator.caller
        raise await self._gate.wrong(scope) if headers else unauthorized()


def basic(header: str) -> tuple[bytes, bytes]:
    """User and password of an Authorization header; empty when it is no basic log-in."""
    scheme, _, encoded = header.partition(" ")
    try:
        decoded = base64.b64decode(encoded.strip().encode("ascii"), validate=True)
    except (binascii.Error, ValueError):
        return b"", b""
    user, colon, password = decoded.partition(b":")
    return (user, password) if colon and scheme.lower() == "basic" else (b"", b"")
