"""What a request shows → the caller. One way in for every door: HTTP and websockets alike.

    Authorization: Basic     the operator's log-in; or anybody's name with an API key as password
    Authorization: Bearer    an API key
    x-api-key                an API key
    ?ticket=                 a ticket, for reading and for websockets, when no header is there
    ?…&signature=            the address of one picture, which is its own log-in

Only one header of these may be there, and once. The operator's log-in needs no Redis; the others answer 503 while it
is away. On the open port nothing is asked: every request acts for one owner. A page in a browser on that machine could
reach it under a name of its own that it lets resolve to us, so there only addresses and our own names are taken.
"""

import socket
from ipaddress import ip_address
from urllib.parse import parse_qsl, urlencode, urlsplit

from starlette.types import Scope

from comfy_balancer.login.api_keys import ApiKeys
from comfy_balancer.login.links import Links
from comfy_balancer.login.tickets import Tickets
from comfy_balancer.settings import BalancerSettings
from comfy_shared.callers import Caller
from comfy_shared.http.login import Gate, LogInRefused, Operator, basic, unauthorized
from comfy_shared.http.middleware import header, headers_of

WILDCARDS = frozenset({"0.0.0.0", "::"})
READING = frozenset({"GET", "HEAD"})


class Credentials:
    """The check of the balancer."""

    def __init__(self, settings: BalancerSettings, gate: Gate, keys: ApiKeys, tickets: Tickets, links: Links) -> None:
        self._settings = settings
        self._gate = gate
        self._operator = Operator(settings)
        self._keys = keys
        self._tickets = tickets
        self._links = links
        self._our_names = frozenset({"localhost", socket.gethostname().lower(), settings.open_port_host.lower()})

    async def __call__(self, scope: Scope) -> Caller:
        """Raises LogInRefused; Unavailable when Redis is needed and away."""
        if self._on_open_port(scope):
            return self._of_open_port(scope)
        self._gate.check_way(scope)
        authorization, api_keys = headers_of(scope, b"authorization"), headers_of(scope, b"x-api-key")
        ticket = _take_ticket(scope)
        signed = not ticket and b"signature=" in scope.get("query_string", b"") and _reads(scope)
        if not authorization and not api_keys and not ticket and not signed:
            raise unauthorized()
        await self._gate.check_guesses(scope)
        if len(authorization) + len(api_keys) > 1:
            raise await self._gate.wrong(scope)
        if authorization:
            caller = await self._by_authorization(authorization[0])
        elif api_keys:
            caller = await self._keys.caller(api_keys[0].strip())
        elif signed:
            scope["state"]["ticket"] = scope["query_string"]
            caller = await self._links.caller(scope)
        else:
            scope["state"]["ticket"] = ticket.encode("utf-8", "replace")
            caller = await self._tickets.redeem(ticket)
        if caller is None:
            raise await self._gate.wrong(scope)
        return caller

    async def _by_authorization(self, header: str) -> Caller | None:
        if self._operator.sent(header):
            return self._operator.caller
        scheme, _, token = header.partition(" ")
        if scheme.lower() == "bearer":
            return await self._keys.caller(token.strip())
        user, password = basic(header)
        if self._operator.fits(user, password):
            return self._operator.caller
        return await self._keys.caller(password.decode(errors="replace")) if password.startswith(b"comfy_") else None

    def _on_open_port(self, scope: Scope) -> bool:
        """By the address that the connection was accepted at; nothing that the client says counts."""
        host, port = scope.get("server") or ("", None)
        if not self._settings.open_port or port != self._settings.open_port:
            return False
        wished = self._settings.open_port_host
        return wished in WILDCARDS or host == wished or (wished == "localhost" and host in ("127.0.0.1", "::1"))

    def _of_open_port(self, scope: Scope) -> Caller:
        name = _host_name(header(scope, b"host"))
        if name not in self._our_names and not _is_address(name):
            detail = "This port takes only addresses and this machine's own names as Host."
            raise LogInRefused(403, "foreign-host", detail)
        return Caller(owner=self._settings.open_port_owner, role=self._settings.open_port_role)


def _take_ticket(scope: Scope) -> str:
    """The ticket in the query, which goes no further: nothing behind the log-in can log it."""
    query = scope.get("query_string", b"")
    if b"ticket=" not in query:
        return ""
    pairs = parse_qsl(query.decode("latin-1"), keep_blank_values=True)
    scope["query_string"] = urlencode([pair for pair in pairs if pair[0] != "ticket"]).encode("latin-1")
    return next((value for name, value in pairs if name == "ticket"), "") if _reads(scope) else ""


def _reads(scope: Scope) -> bool:
    return scope["type"] == "websocket" or scope["method"] in READING


def _host_name(host: str) -> str:
    try:
        return (urlsplit(f"//{host}").hostname or "").lower()
    except ValueError:
        return ""


def _is_address(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True
