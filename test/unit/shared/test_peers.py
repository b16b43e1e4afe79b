"""Whose address counts, and when a connection is clear text: only a trusted proxy's word is taken."""

from typing import Any

import pytest

from comfy_shared.http.peers import LOCAL, Peers
from test.support.settings import FixedSettings

PROXIES = "10.0.0.0/8, 2001:db8::1"


def scope(peer: str | None, scheme: str = "http", **headers: str) -> dict[str, Any]:
    raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return {"type": "http", "client": (peer, 1234) if peer else None, "scheme": scheme, "headers": raw}


@pytest.mark.parametrize(
    ("peer", "forwarded", "client"),
    [
        ("203.0.113.7", "", "203.0.113.7"),
        ("203.0.113.7", "198.51.100.1", "203.0.113.7"),  # nobody's proxy: a claim
        ("10.1.1.1", "", "10.1.1.1"),
        ("10.1.1.1", "198.51.100.1", "198.51.100.1"),
        ("10.1.1.1", "6.6.6.6, 198.51.100.1", "198.51.100.1"),  # the client wrote the first one itself
        ("10.1.1.1", "6.6.6.6, 198.51.100.1, 10.2.2.2", "198.51.100.1"),
        ("10.1.1.1", "10.3.3.3, 10.2.2.2", "10.3.3.3"),
        ("10.1.1.1", "nonsense", "10.1.1.1"),
        ("10.1.1.1", "6.6.6.6, unknown, 10.2.2.2", "10.2.2.2"),
        ("10.1.1.1", "198.51.100.1:4711", "198.51.100.1"),
        ("10.1.1.1", "[2001:db8:7:7:1::2]:4711", "2001:db8:7:7::/64"),
        ("2001:db8::1", "198.51.100.1", "198.51.100.1"),
        ("::ffff:10.1.1.1", "198.51.100.1", "198.51.100.1"),
        ("2001:db8:5:6:7::8", "", "2001:db8:5:6::/64"),
        ("fe80::1%eth0", "", "fe80::/64"),
        (None, "198.51.100.1", LOCAL),
        ("testclient", "", LOCAL),
    ],
)
def test_the_address_that_is_counted(peer: str | None, forwarded: str, client: str) -> None:
    peers = Peers(FixedSettings(trusted_proxies=PROXIES))
    headers = {"x_forwarded_for": forwarded} if forwarded else {}
    assert peers.client(scope(peer, **headers)) == client


@pytest.mark.parametrize(
    ("peer", "scheme", "proto", "clear"),
    [
        ("203.0.113.7", "http", "", True),
        ("203.0.113.7", "http", "https", True),  # anybody can write that
        ("203.0.113.7", "ws", "", True),
        ("203.0.113.7", "https", "", False),
        ("203.0.113.7", "wss", "http", False),
        ("127.0.0.1", "http", "", False),
        ("127.8.8.8", "http", "http", False),
        ("::1", "http", "", False),
        ("10.1.1.1", "http", "", False),
        ("10.1.1.1", "http", "https", False),
        ("10.1.1.1", "http", "http", True),
        ("10.1.1.1", "http", "https, http", True),
        ("10.1.1.1", "ws", "WSS", False),
        ("10.1.1.1", "http", "gopher", True),
        (None, "http", "", False),
    ],
)
def test_what_is_clear_text(peer: str | None, scheme: str, proto: str, clear: bool) -> None:
    peers = Peers(FixedSettings(trusted_proxies=PROXIES))
    headers = {"x_forwarded_proto": proto} if proto else {}
    assert peers.in_clear(scope(peer, scheme, **headers)) is clear


def test_without_trusted_proxies_nobodys_word_counts() -> None:
    peers = Peers(FixedSettings())
    assert peers.client(scope("127.0.0.1", x_forwarded_for="198.51.100.1")) == "127.0.0.1"


@pytest.mark.parametrize("value", ["nonsense", "10.0.0.1/8", "10.0.0.0/8,x"])
def test_what_is_no_network_is_refused_at_start(value: str) -> None:
    with pytest.raises(ValueError, match="trusted_proxies"):
        FixedSettings(trusted_proxies=value)
