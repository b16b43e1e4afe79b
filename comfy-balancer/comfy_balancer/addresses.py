"""Which addresses this system may call on behalf of a client (FAULTS.md S10). Pure: no DNS, no sockets.

A URL is read strictly: what browsers and libraries read differently (odd numbers for hosts, a trailing dot,
credentials, backslashes) is refused instead of guessed at. Of IP addresses only those are public that the registries
give to hosts of the internet: everything special is refused, and so is every IPv6 address that carries an IPv4 one.
"""

import re
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from urllib.parse import urlsplit

import idna

LONGEST_URL = 2048  # characters
DEFAULT_PORTS = {"http": 80, "https": 443}

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

# IANA's special-purpose registry, and what lies beyond unicast. The text that says why is for the caller.
_SPECIAL_4 = tuple(
    (IPv4Network(block), why)
    for block, why in (
        ("0.0.0.0/8", "unspecified"),
        ("10.0.0.0/8", "private"),
        ("100.64.0.0/10", "private (carrier-grade NAT)"),
        ("127.0.0.0/8", "loopback"),
        ("169.254.0.0/16", "link-local"),
        ("172.16.0.0/12", "private"),
        ("192.0.0.0/24", "reserved"),
        ("192.0.2.0/24", "reserved"),
        ("192.31.196.0/24", "reserved"),
        ("192.52.193.0/24", "reserved"),
        ("192.88.99.0/24", "reserved"),
        ("192.168.0.0/16", "private"),
        ("192.175.48.0/24", "reserved"),
        ("198.18.0.0/15", "reserved"),
        ("198.51.100.0/24", "reserved"),
        ("203.0.113.0/24", "reserved"),
        ("224.0.0.0/4", "multicast"),
        ("240.0.0.0/4", "reserved"),
    )
)
_SPECIAL_6 = tuple(
    (IPv6Network(block), why)
    for block, why in (
        ("::1/128", "loopback"),
        ("::/128", "unspecified"),
        ("::ffff:0:0/96", "an embedded IPv4 address"),
        ("::/96", "an embedded IPv4 address"),
        ("64:ff9b::/96", "an embedded IPv4 address"),
        ("64:ff9b:1::/48", "an embedded IPv4 address"),
        ("2002::/16", "an embedded IPv4 address"),
        ("2001::/32", "an embedded IPv4 address"),
        ("2001::/23", "reserved"),
        ("2001:db8::/32", "reserved"),
        ("2620:4f:8000::/48", "reserved"),
        ("3fff::/20", "reserved"),
        ("fc00::/7", "private"),
        ("fe80::/10", "link-local"),
        ("fec0::/10", "private"),
        ("ff00::/8", "multicast"),
    )
)
_UNICAST_6 = IPv6Network("2000::/3")  # all that was ever given out
_ISATAP = (0x0000_5EFE, 0x0200_5EFE)  # first half of an interface id that ends in an IPv4 address

_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")
_BRACKETS = re.compile(r"\[[0-9A-Fa-f:.]+\](:[0-9]+)?")
_ODD = re.compile(r"[\x00-\x20\x7f-\xa0\\]")


class Unsafe(Exception):
    """A URL that must not be called; the text says why, and nothing about our network."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """Whom a URL means."""

    scheme: str  # http or https
    host: str  # in lower case, as DNS takes it, or an IP address without brackets
    port: int
    path: str  # with the query
    address: Address | None  # when the host is one

    @property
    def authority(self) -> str:
        """For the Host header."""
        host = f"[{self.host}]" if isinstance(self.address, IPv6Address) else self.host
        return host if self.port == DEFAULT_PORTS[self.scheme] else f"{host}:{self.port}"


@dataclass(frozen=True, kw_only=True, slots=True)
class AddressPolicy:
    """What an operator allows beyond the public internet."""

    private: tuple[Network, ...] = ()  # called although they are not public, on any port
    ports: frozenset[int] = frozenset({80, 443})  # of public addresses

    def check(self, address: Address, port: int) -> None:
        """Raises Unsafe."""
        if any(address in network for network in self.private):
            return
        if why := special(address):
            raise Unsafe(f"leads to an address that is not public ({why})")
        if port not in self.ports:
            raise Unsafe(f"uses port {port}; allowed are {', '.join(map(str, sorted(self.ports)))}")


def networks(text: str) -> tuple[Network, ...]:
    """What a setting allows: nothing, `true` for all addresses, or networks separated by commas.

    Raises:
        ValueError: it is none of these.
    """
    word = text.strip().lower()
    if word in ("", "false", "0", "no"):
        return ()
    if word in ("true", "1", "yes"):
        return (IPv4Network("0.0.0.0/0"), IPv6Network("::/0"))
    return tuple(ip_network(part.strip()) for part in word.split(","))


def special(address: Address) -> str | None:
    """Why an address is not one of the public internet, or None."""
    if isinstance(address, IPv4Address):
        return next((why for network, why in _SPECIAL_4 if address in network), None)
    if why := next((why for network, why in _SPECIAL_6 if address in network), None):
        return why
    if address not in _UNICAST_6:
        return "reserved"
    return "an embedded IPv4 address" if (int(address) >> 32) & 0xFFFF_FFFF in _ISATAP else None


def read_url(url: str) -> Target:
    """Whom an http(s) URL means.

    Raises:
        Unsafe: it is none, or it is written in a way that others may read otherwise.
    """
    if len(url) > LONGEST_URL:
        raise Unsafe(f"is longer than {LONGEST_URL} characters")
    if _ODD.search(url):
        raise Unsafe("contains white space, control characters or a backslash")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise Unsafe("is not a valid URL") from None
    if parts.scheme not in DEFAULT_PORTS or not url[len(parts.scheme) :].startswith("://"):
        raise Unsafe("must begin with http:// or https://")
    if "@" in parts.netloc:
        raise Unsafe("must not contain a user name or password")
    if port == 0 or (port is None and parts.netloc.endswith(":")):
        raise Unsafe("has no valid port")
    host, address = _read_host(parts.netloc, parts.hostname or "")
    path = _escaped(parts.path or "/") + (f"?{_escaped(parts.query)}" if parts.query else "")
    if not path.startswith("/"):
        raise Unsafe("is not a valid URL")
    return Target(scheme=parts.scheme, host=host, port=port or DEFAULT_PORTS[parts.scheme], path=path, address=address)


def _escaped(text: str) -> str:
    return "".join(character if character.isascii() else _percent(character) for character in text)


def _percent(character: str) -> str:
    try:
        return "".join(f"%{byte:02X}" for byte in character.encode())
    except UnicodeEncodeError:
        raise Unsafe("contains a broken character") from None


def _read_host(netloc: str, host: str) -> tuple[str, Address | None]:
    if "[" in netloc:
        address = _plain_ipv6(netloc, host)
        return str(address), address
    name = _ascii(host)
    labels = name.split(".")
    if _NUMBER.fullmatch(labels[-1] or (labels[-2] if len(labels) > 1 else "")):
        return name, _plain_ipv4(host)
    host = name
    if len(host) > 253 or not all(_LABEL.fullmatch(label) for label in labels):
        raise Unsafe("has no valid host" + (" (a trailing dot)" if host.endswith(".") else ""))
    return host, None


def _ascii(host: str) -> str:
    if host.isascii():
        return host
    try:
        return idna.encode(host).decode("ascii")
    except (idna.IDNAError, UnicodeError):
        raise Unsafe("has no valid host") from None


def _plain_ipv6(netloc: str, host: str) -> IPv6Address:
    try:
        address = IPv6Address(host)
    except ValueError:
        raise Unsafe("has no valid host") from None
    if address.scope_id is not None or not _BRACKETS.fullmatch(netloc):
        raise Unsafe("has no valid host")
    return address


def _plain_ipv4(host: str) -> IPv4Address:
    """Four decimal numbers without zeros before them: other ways to write one are read in more than one way."""
    try:
        address = ip_address(host)
    except ValueError:
        raise Unsafe("writes an IP address in an odd way") from None
    if not isinstance(address, IPv4Address):
        raise Unsafe("has no valid host")
    return address
