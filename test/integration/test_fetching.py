"""Fetching what clients name, from real servers on loopback addresses: pinned, checked again at each redirect, within
limits (FAULTS.md S10)."""

import asyncio
import datetime
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from comfy_balancer.addresses import AddressPolicy, Unsafe, networks
from comfy_balancer.fetching import Fetcher, FetchFailed
from test.cluster import free_port

OPEN = AddressPolicy(private=networks("127.0.0.0/8, ::1/128"))
Answer = Callable[[bytes], list[bytes | float]]  # the head of a request → what is sent, and pauses


class Server:
    """A server that answers as told and remembers what it was asked."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.heads: list[bytes] = []
        self.server_names: list[str | None] = []
        self.port = 0
        self.tasks: set[asyncio.Task[Any]] = set()

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.tasks.add(task)
        try:
            await self.talk(reader, writer)
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # the client left, or the test did
        finally:
            writer.transport.abort()

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        self.heads.append(head)
        for part in self.answer(head):
            if isinstance(part, bytes):
                writer.write(part)
                await writer.drain()
            else:
                await asyncio.sleep(part)
        writer.close()
        await writer.wait_closed()


@asynccontextmanager
async def served(
    answer: Answer, *, host: str = "127.0.0.1", port: int = 0, tls: ssl.SSLContext | None = None
) -> AsyncIterator[Server]:
    server = Server(answer)
    if tls is not None:
        tls.sni_callback = lambda _socket, name, _context: server.server_names.append(name)
    listener = await asyncio.start_server(server.handle, host, port, ssl=tls)
    server.port = listener.sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        listener.close()
        for task in server.tasks:
            task.cancel()
        await asyncio.gather(*server.tasks, return_exceptions=True)


def ok(body: bytes = b"hello", *headers: str) -> list[bytes | float]:
    lines = ["HTTP/1.1 200 OK", f"Content-Length: {len(body)}", "Connection: close", *headers]
    return ["\r\n".join([*lines, "", ""]).encode() + body]


def moved(to: str, status: int = 302) -> list[bytes | float]:
    return [f"HTTP/1.1 {status} Moved\r\nLocation: {to}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode()]


class Names:
    """Stands for DNS: each host has a list of answers, the last one for ever."""

    def __init__(self, **hosts: list[list[str]]) -> None:
        self.hosts = {name.replace("_", "."): list(answers) for name, answers in hosts.items()}
        self.asked: list[str] = []

    async def __call__(self, host: str, port: int) -> list[str]:
        self.asked.append(host)
        if host not in self.hosts:
            raise OSError("no such host")
        answers = self.hosts[host]
        return answers.pop(0) if len(answers) > 1 else answers[0]


@asynccontextmanager
async def fetcher(
    names: Names | None = None,
    *,
    policy: AddressPolicy = OPEN,
    timeout: float = 5,
    redirects: int = 2,
    trust: ssl.SSLContext | bool = True,
) -> AsyncIterator[Fetcher]:
    made = Fetcher(policy, timeout=timeout, redirects=redirects, resolve=names or Names(), trust=trust)
    yield made
    await made.aclose()


async def body(fetch: Fetcher, url: str, limit: int = 1000) -> bytes:
    with await fetch.fetch(url, limit=limit) as file:
        file.seek(0)
        return file.read()


async def test_the_connection_goes_to_the_checked_address_under_the_name_of_the_url() -> None:
    names = Names(files_test=[["127.0.0.1"]])
    async with served(lambda _: ok()) as server, fetcher(names) as fetch:
        assert await body(fetch, f"http://files.test:{server.port}/a%20b?x=1#y") == b"hello"
        head = server.heads[0].decode()
    assert head.startswith("GET /a%20b?x=1 HTTP/1.1\r\n")
    assert f"\r\nhost: files.test:{server.port}\r\n" in head.lower()
    assert names.asked == ["files.test"]


async def test_a_name_that_changes_its_address_after_the_check_changes_nothing() -> None:
    """DNS rebinding: only 127.0.0.2 is allowed; the second answer is the address of something internal."""
    names = Names(rebind_test=[["127.0.0.2"], ["127.0.0.1"]])
    port = free_port()
    policy = AddressPolicy(private=networks("127.0.0.2/32"))
    async with (
        served(lambda _: ok(b"public"), host="127.0.0.2", port=port),
        served(lambda _: ok(b"secret"), host="127.0.0.1", port=port) as internal,
        fetcher(names, policy=policy) as fetch,
    ):
        assert await body(fetch, f"http://rebind.test:{port}/") == b"public"
        assert names.asked == ["rebind.test"], "resolved once"
        with pytest.raises(Unsafe, match="not public"):
            await body(fetch, f"http://rebind.test:{port}/")
        assert internal.heads == []


@pytest.mark.parametrize(
    "addresses", [["8.8.8.8", "10.0.0.1"], ["127.0.0.1"], ["::1"], ["::ffff:127.0.0.1"], ["169.254.169.254"]]
)
async def test_one_address_that_is_not_public_refuses_the_whole_name(addresses: list[str]) -> None:
    async with fetcher(Names(mixed_test=[addresses]), policy=AddressPolicy()) as fetch:
        with pytest.raises(Unsafe, match="not public"):
            await body(fetch, "http://mixed.test/")


async def test_without_an_allowance_no_loopback_address_is_called() -> None:
    async with served(lambda _: ok()) as server, fetcher(policy=AddressPolicy()) as fetch:
        for host in ("127.0.0.1", "[::1]", "[::ffff:127.0.0.1]"):
            with pytest.raises(Unsafe, match="not public"):
                await body(fetch, f"http://{host}:{server.port}/")
        assert server.heads == []


async def test_redirects_are_followed_by_name_and_path() -> None:
    def answer(head: bytes) -> list[bytes | float]:
        return ok(b"end") if b"/b" in head else moved("/b?c", 307) if b"/a" in head else moved("a")

    names = Names(files_test=[["127.0.0.1"]])
    async with served(answer) as server, fetcher(names) as fetch:
        assert await body(fetch, f"http://files.test:{server.port}/") == b"end"
    assert len(names.asked) == 3, "each hop is resolved and checked anew"


@pytest.mark.parametrize(
    "to",
    [
        "http://10.0.0.1/", "http://[::1]/", "http://metadata.test/", "//169.254.169.254/latest", "http://2130706433/",
        "file:///etc/passwd", "http://user:pass@files.test/", "gopher://x/", "http://localhost./",
    ],
)  # fmt: skip
async def test_a_redirect_is_checked_like_the_first_url(to: str) -> None:
    names = Names(files_test=[["127.0.0.2"]], metadata_test=[["169.254.169.254"]])
    policy = AddressPolicy(private=networks("127.0.0.2/32"))
    async with served(lambda _: moved(to), host="127.0.0.2") as server, fetcher(names, policy=policy) as fetch:
        with pytest.raises(Unsafe):
            await body(fetch, f"http://files.test:{server.port}/")


async def test_redirects_end() -> None:
    async with served(lambda _: moved("/again")) as server, fetcher(redirects=2) as fetch:
        with pytest.raises(FetchFailed, match="more than 2 times"):
            await body(fetch, f"http://127.0.0.1:{server.port}/")
        assert len(server.heads) == 3


ENDLESS: list[bytes | float] = [b"HTTP/1.1 200 OK\r\n\r\n", *[b"x" * 100] * 100]
DRIP: list[bytes | float] = [b"x", 0.2] * 20
CASES: dict[str, tuple[list[bytes | float], str]] = {
    "a status": ([b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"], "status 404"),
    "a redirect to nowhere": ([b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\n\r\n"], "status 302"),
    "too large, and says so": ([b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n"], "larger than 1000"),
    "too large, without saying": (ENDLESS, "larger than 1000"),
    "silent": ([5.0], "did not answer whole within"),
    "one byte now and then": ([b"HTTP/1.1 200 OK\r\n\r\n", *DRIP], "did not answer whole within"),
    "no http": ([b"SSH-2.0-OpenSSH_9\r\n"], "RemoteProtocolError"),
    "cut off": ([b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nabc"], "RemoteProtocolError"),
    "endless headers": ([b"HTTP/1.1 200 OK\r\n", *[b"X-A: " + b"y" * 1000 + b"\r\n"] * 500], "RemoteProtocolError"),
    "nothing": ([], "RemoteProtocolError"),
}


@pytest.mark.parametrize("name", CASES)
async def test_a_bad_answer_is_told(name: str) -> None:
    answer, reason = CASES[name]
    async with served(lambda _: answer) as server, fetcher(timeout=0.6) as fetch:
        with pytest.raises(FetchFailed, match=reason):
            await body(fetch, f"http://127.0.0.1:{server.port}/")


async def test_the_content_is_taken_as_it_is_never_inflated() -> None:
    async with served(lambda _: ok(b"\x1f\x8b" + b"x" * 50, "Content-Encoding: gzip")) as server, fetcher() as fetch:
        assert (await body(fetch, f"http://127.0.0.1:{server.port}/"))[:2] == b"\x1f\x8b"
        assert b"identity" in server.heads[0]


async def test_nobody_there_and_no_such_name_are_told() -> None:
    async with fetcher(Names(files_test=[["127.0.0.1"]], odd_test=[["fe80::1%eth0", "x"]], none_test=[[]])) as fetch:
        with pytest.raises(FetchFailed, match="connect"):
            await body(fetch, f"http://files.test:{free_port()}/")
        for host in ("missing", "odd", "none"):
            with pytest.raises(FetchFailed, match="cannot be found"):
                await body(fetch, f"http://{host}.test/")


async def test_the_systems_resolver_is_asked_when_nobody_else_is_given() -> None:
    made = Fetcher(OPEN, timeout=5, redirects=0)
    async with served(lambda _: ok(), host="127.0.0.1") as server, aclosing(made):
        assert await body(made, f"http://localhost:{server.port}/") == b"hello"


async def test_another_address_of_the_name_is_tried() -> None:
    names = Names(files_test=[["127.0.0.3", "127.0.0.1"]])
    async with served(lambda _: ok()) as server, fetcher(names) as fetch:
        assert await body(fetch, f"http://files.test:{server.port}/") == b"hello"


async def test_no_proxy_of_the_environment_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    async with served(lambda _: ok(b"proxied")) as proxy, served(lambda _: ok(b"direct")) as server:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY", "https_proxy"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
        async with fetcher() as fetch:
            assert await body(fetch, f"http://127.0.0.1:{server.port}/") == b"direct"


def certificate(folder: Path, name: str) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """What a server of that name shows, and what a client trusts that knows it."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    file = folder / f"{name}.pem"
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    file.write_bytes(secret + made.public_bytes(serialization.Encoding.PEM))
    shown = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    shown.load_cert_chain(file)
    return shown, ssl.create_default_context(cafile=str(file))


async def test_tls_is_for_the_name_of_the_url_not_for_the_address(tmp_path: Path) -> None:
    shown, trusted = certificate(tmp_path, "secure.test")
    names = Names(secure_test=[["127.0.0.1"]], other_test=[["127.0.0.1"]])
    async with served(lambda _: ok(b"safe"), tls=shown) as server, fetcher(names, trust=trusted) as fetch:
        assert await body(fetch, f"https://secure.test:{server.port}/") == b"safe"
        assert server.server_names == ["secure.test"]
        with pytest.raises(FetchFailed, match="connect"):
            await body(fetch, f"https://other.test:{server.port}/")
        assert len(server.heads) == 1, "nothing was sent to whom the certificate does not name"


async def test_a_call_may_post_and_does_not_follow() -> None:
    async with served(lambda _: moved("/elsewhere")) as server, fetcher() as fetch:
        url = f"http://127.0.0.1:{server.port}/hook"
        async with fetch.call("POST", url, headers={"X-Signature": "s"}, content=b"{}") as response:
            assert response.status_code == 302
        assert server.heads[0].startswith(b"POST /hook HTTP/1.1")
        assert b"x-signature: s" in server.heads[0].lower()
