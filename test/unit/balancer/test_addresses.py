"""Which URLs may be called: a corpus of tricks, none through, and honest ones that are."""

from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from comfy_balancer.addresses import AddressPolicy, Unsafe, networks, read_url, special

PUBLIC = ["1.1.1.1", "8.8.8.8", "93.184.216.34", "2606:4700::1111", "2a00:1450:4001:81b::200e", "223.255.255.254"]
NOT_PUBLIC = [
    "0.0.0.0", "0.1.2.3", "10.0.0.1", "10.255.255.255", "100.64.0.1", "100.127.255.255", "127.0.0.1", "127.255.0.1",
    "169.254.169.254", "172.16.0.1", "172.31.255.255", "192.0.0.1", "192.0.2.1", "192.88.99.1", "192.168.1.1",
    "198.18.0.1", "198.19.255.255", "198.51.100.1", "203.0.113.1", "224.0.0.1", "239.255.255.255", "240.0.0.1",
    "255.255.255.255",
    "::", "::1", "::2", "fc00::1", "fd00:ec2::254", "fe80::1", "febf::1", "fec0::1", "ff02::1", "ff0e::1",
    "2001:db8::1", "2001::1", "2001:10::1", "3fff::1", "100::1", "4000::1", "5f00::1",
    "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:8.8.8.8", "::127.0.0.1", "::8.8.8.8",
    "2002:7f00:1::1", "2002:0808:0808::1", "64:ff9b::7f00:1", "64:ff9b::8.8.8.8", "64:ff9b:1::a00:1",
    "2a00:1450::5efe:10.0.0.1", "2a00:1450::200:5efe:127.0.0.1",
]  # fmt: skip
TRICKS = [
    # IP addresses in odd ways
    "http://2130706433/", "http://017700000001/", "http://0x7f000001/", "http://0x7f.1/", "http://127.1/",
    "http://127.0.1/", "http://0177.0.0.1/", "http://127.0.0.01/", "http://0x7f.0x0.0x0.0x1/", "http://127.0.0.1./",
    "http://127.0.0.1../", "http://1.2.3.4.5/", "http://256.1.1.1/", "http://1.1.1.0x1/", "http://a.0x/",
    "http://4294967296/", "http://0/", "http://①②⑦.⓪.⓪.①/", "http://127。0。0。1/", "http://\uff11\uff12\uff17.0.0.1/",
    "http://[::1%25eth0]/", "http://[fe80::1%eth0]/", "http://[::1", "http://::1/", "http://[127.0.0.1]/",
    "http://[::1]x/", "http://[v1.x]/", "http://[]/",
    # a trailing dot, empty labels, odd names
    "http://example.com./", "http://localhost./", "http://.example.com/", "http://a..b/", "http:///path", "http://",
    "http://-a.com/", "http://a-.com/", "http://a%2eb/", "http://exa mple.com/", "http://ex_am|ple.com/",
    f"http://{'a' * 64}.com/", f"http://{'a.' * 130}com/", "http://ﬁ\u200b.com/", "http://a\u00ad.com\u2028/",
    # credentials, schemes, ports, control characters, backslashes
    "http://user@example.com/", "http://user:pass@example.com/", "http://@example.com/", "http://a@b@example.com/",
    "http://127.0.0.1\\@example.com/", "http:\\\\example.com/", "http:/example.com", "http:example.com",
    "//example.com/",
    "https:///\\127.0.0.1/", "ftp://example.com/", "file:///etc/passwd", "gopher://example.com/", "javascript:alert(1)",
    "jar:http://example.com!/", "http://example.com:0/", "http://example.com:65536/", "http://example.com:/",
    "http://example.com:-1/", "http://example.com:8o/", "http://example.com:80:80/", "http://example.com/\r\nHost: x",
    "http://example.com/\x00", "http://exam\tple.com/", " http://example.com/", "http://example.com\n",
    "http://example.com/\ud800", "http://example.com/" + "a" * 2048, "", "http",
]  # fmt: skip


@pytest.mark.parametrize("address", PUBLIC)
def test_a_public_address_is_called(address: str) -> None:
    AddressPolicy().check(ip_address(address), 443)


@pytest.mark.parametrize("address", NOT_PUBLIC)
def test_any_other_address_is_not(address: str) -> None:
    with pytest.raises(Unsafe, match="not public"):
        AddressPolicy().check(ip_address(address), 80)


@pytest.mark.parametrize("url", TRICKS)
def test_a_url_that_others_may_read_otherwise_is_refused(url: str) -> None:
    with pytest.raises(Unsafe):
        read_url(url)


@pytest.mark.parametrize(
    ("url", "host", "port", "path", "authority"),
    [
        ("http://example.com", "example.com", 80, "/", "example.com"),
        ("HTTPS://Example.COM/a%20b?x=1&y=/#part", "example.com", 443, "/a%20b?x=1&y=/", "example.com"),
        ("https://example.com:8443/x", "example.com", 8443, "/x", "example.com:8443"),
        ("http://8.8.8.8/x", "8.8.8.8", 80, "/x", "8.8.8.8"),
        ("http://[2606:4700:0::1111]:80/x", "2606:4700::1111", 80, "/x", "[2606:4700::1111]"),
        ("http://bücher.example/ü?ä", "xn--bcher-kva.example", 80, "/%C3%BC?%C3%A4", "xn--bcher-kva.example"),
        ("http://a_b.example-1.com/", "a_b.example-1.com", 80, "/", "a_b.example-1.com"),
        ("http://127.0.0.1.nip.io/", "127.0.0.1.nip.io", 80, "/", "127.0.0.1.nip.io"),
        ("http://example.com?x", "example.com", 80, "/?x", "example.com"),
    ],
)
def test_an_honest_url_is_read(url: str, host: str, port: int, path: str, authority: str) -> None:
    target = read_url(url)
    assert (target.host, target.port, target.path, target.authority) == (host, port, path, authority)


@given(st.integers(0, 2**32 - 1))
def test_an_ipv4_address_is_never_public_in_the_clothes_of_an_ipv6_one(number: int) -> None:
    for wrapped in (0xFFFF << 32 | number, number, 0x64FF9B << 96 | number, 0x2002 << 112 | number << 80):
        assert special(ip_address(wrapped.to_bytes(16, "big"))) is not None


@given(st.ip_addresses(v=4))
def test_what_python_calls_private_is_not_public(address: object) -> None:
    found = ip_address(str(address))
    if found.is_private or found.is_multicast or found.is_loopback or found.is_link_local or found.is_reserved:
        assert special(found) is not None


def test_only_the_usual_ports_of_public_addresses() -> None:
    with pytest.raises(Unsafe, match="port 6379; allowed are 80, 443"):
        AddressPolicy().check(ip_address("8.8.8.8"), 6379)
    AddressPolicy(ports=frozenset({8080})).check(ip_address("8.8.8.8"), 8080)


def test_a_network_that_the_operator_allows_is_called_on_any_port() -> None:
    policy = AddressPolicy(private=networks("10.1.0.0/16, fd00::/8"))
    policy.check(ip_address("10.1.2.3"), 9000)
    policy.check(ip_address("fd00::1"), 80)
    for address in ("10.2.0.1", "127.0.0.1", "::ffff:10.1.2.3", "fe80::1"):
        with pytest.raises(Unsafe):
            policy.check(ip_address(address), 80)


def test_the_setting_of_networks_is_a_word_or_a_list() -> None:
    assert networks("") == networks("false") == networks("No") == ()
    assert ip_address("127.0.0.1") in networks("true")[0]
    with pytest.raises(ValueError, match="does not appear"):
        networks("everything")
    with pytest.raises(ValueError, match="host bits"):
        networks("10.0.0.1/8")
