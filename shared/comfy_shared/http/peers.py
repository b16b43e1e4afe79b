"""Who is at the other end of a connection, and whether its words came in clear text. Pure functions of the scope.

What a request says about its way (X-Forwarded-For, X-Forwarded-Proto) counts only when the machine that connected is
a trusted proxy; from anybody else it is a claim. Of several entries the last one counts that no trusted proxy made:
the first ones are the client's own invention.
"""

from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address, ip_network

from starlette.datastructures import Headers
from starlette.types import Scope

from comfy_shared.settings import SharedSettings

TLS = ("https", "wss")
LOCAL = "local"  # a peer without an address: it came over a Unix socket
IPV6_HOME = 64  # bits that one client has: it may use any address below them


class Peers:
    """What the settings say about the way to us."""

    def __init__(self, settings: SharedSettings) -> None:
        self._trusted = [ip_network(part.strip()) for part in settings.trusted_proxies.split(",") if part.strip()]
        self._trusts = lru_cache(maxsize=1024)(self._is_trusted)

    def client(self, scope: Scope) -> str:
        """The client's address, for counting: of IPv6 the network that one client has."""
        peer = _peer(scope)
        if peer is None:
            return LOCAL
        if self._trusts(peer):
            hops = ",".join(Headers(scope=scope).getlist("x-forwarded-for")).split(",")
            for hop in reversed(hops):
                found = _address(hop)
                if found is None:
                    break
                peer = found
                if not self._trusts(found):
                    break
        return _shown(peer)

    def in_clear(self, scope: Scope) -> bool:
        """Whether somebody on the way could read the request: no TLS, not from this machine, not from a trusted proxy,
        or one that says that it was itself spoken to in clear text."""
        peer = _peer(scope)
        if scope.get("scheme") in TLS or peer is None:
            return False
        if self._trusts(peer):
            told = ",".join(Headers(scope=scope).getlist("x-forwarded-proto")).rpartition(",")[2].strip().lower()
            return told not in ("", *TLS)
        return not peer.is_loopback

    def _is_trusted(self, address: IPv4Address | IPv6Address) -> bool:
        return any(address in network for network in self._trusted)


@lru_cache(maxsize=1024)
def _shown(peer: IPv4Address | IPv6Address) -> str:
    return str(IPv6Network((peer, IPV6_HOME), strict=False)) if peer.version == 6 else str(peer)


def _peer(scope: Scope) -> IPv4Address | IPv6Address | None:
    client = scope.get("client")
    return _address(client[0]) if client else None


@lru_cache(maxsize=1024)
def _address(text: str) -> IPv4Address | IPv6Address | None:
    """An address as it stands in a header: with or without a port or a zone; None when it is none."""
    text = text.strip().partition("%")[0]
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        found = ip_address(text)
    except ValueError:
        return None
    return (found.ipv4_mapped or found) if isinstance(found, IPv6Address) else found
