"""Calling addresses that clients name, without becoming their way into our network (FAULTS.md S10).

A host is resolved once; every address of the answer is checked, and the connection is made to a checked address with
the Host header and the TLS name of the URL: what DNS says a moment later changes nothing. Redirects are followed by
hand, each checked as the first. No proxy, no cookies, no kept connections: none is shared between hosts.
"""

import asyncio
import socket
import ssl
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from ipaddress import IPv6Address, ip_address
from typing import BinaryIO
from urllib.parse import urljoin

import httpx

from comfy_balancer.addresses import Address, AddressPolicy, Target, read_url

Resolve = Callable[[str, int], Awaitable[list[str]]]

REDIRECTS = frozenset({301, 302, 303, 307, 308})
SPOOLED = 1024 * 1024  # bytes of a file that stay in memory
AT_ONCE = 8  # fetches of one process
TRIED = 3  # addresses of one host that are tried
HEADERS = {"Accept": "*/*", "Accept-Encoding": "identity", "User-Agent": "comfy-balancer"}


class FetchFailed(Exception):
    """A URL could not be fetched; the text says why, and nothing about our network."""


class SystemResolver:
    """The system's resolver, in threads of its own: a name server that does not answer holds up nothing else."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="resolve")

    async def __call__(self, host: str, port: int) -> list[str]:
        """The addresses of a host. Raises OSError."""
        ask = partial(socket.getaddrinfo, host, port, type=socket.SOCK_STREAM)
        found = await asyncio.get_running_loop().run_in_executor(self._threads, ask)
        return [str(entry[4][0]) for entry in found]

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)


class Fetcher:
    """Calls URLs within a policy. Close it."""

    def __init__(
        self,
        policy: AddressPolicy,
        *,
        timeout: float,
        redirects: int,
        resolve: Resolve | None = None,
        trust: ssl.SSLContext | bool = True,
    ) -> None:
        self._policy = policy
        self._timeout = timeout
        self._redirects = redirects
        self._system = SystemResolver()
        self._resolve = resolve or self._system
        self._slots = asyncio.Semaphore(AT_ONCE)
        self._client = httpx.AsyncClient(
            headers=HEADERS,
            timeout=timeout,
            trust_env=False,
            follow_redirects=False,
            verify=trust,
            limits=httpx.Limits(max_keepalive_connections=0),
        )

    async def aclose(self) -> None:
        self._system.close()
        await self._client.aclose()

    async def fetch(self, url: str, *, limit: int) -> BinaryIO:
        """The body behind a URL, over redirects, as a temporary file that the caller closes.

        Raises:
            Unsafe: the URL, or one that it leads to, must not be called.
            FetchFailed: there is no answer in time, another status than 200, or more than `limit` bytes.
        """
        try:
            async with asyncio.timeout(self._timeout), self._slots:
                return await self._follow(url, limit)
        except TimeoutError:
            raise FetchFailed(f"did not answer whole within {self._timeout:g} s") from None

    async def _follow(self, url: str, limit: int) -> BinaryIO:
        for _ in range(self._redirects + 1):
            async with self.call("GET", url) as response:
                if response.status_code in REDIRECTS and "location" in response.headers:
                    url = urljoin(url, response.headers["location"])
                    continue
                if response.status_code != 200:
                    raise FetchFailed(f"answered with status {response.status_code}")
                return await _spool(response, limit)
        raise FetchFailed(f"redirects more than {self._redirects} times")

    @asynccontextmanager
    async def call(
        self, method: str, url: str, *, headers: Mapping[str, str] | None = None, content: bytes | None = None
    ) -> AsyncIterator[httpx.Response]:
        """One request, without redirects; the body is not read yet.

        Raises:
            Unsafe, FetchFailed.
        """
        target = read_url(url)
        response = await self._send(method, target, await self._checked(target), headers or {}, content)
        try:
            yield response
        except httpx.HTTPError as error:
            raise FetchFailed(f"broke off ({type(error).__name__})") from None
        finally:
            await response.aclose()

    async def _checked(self, target: Target) -> list[Address]:
        """The addresses of a target: all of them fit the policy, or none is called."""
        if target.address is not None:
            addresses = [target.address]
        else:
            try:
                found = await self._resolve(target.host, target.port)
                addresses = [ip_address(text) for text in dict.fromkeys(found)]
            except (OSError, ValueError):  # ValueError: what a resolver answers need not be an address (fe80::1%eth0)
                raise FetchFailed("names a host that cannot be found") from None
        if not addresses:
            raise FetchFailed("names a host that cannot be found")
        for address in addresses:
            self._policy.check(address, target.port)
        return addresses[:TRIED]

    async def _send(
        self, method: str, target: Target, addresses: list[Address], headers: Mapping[str, str], content: bytes | None
    ) -> httpx.Response:
        for address in addresses:
            literal = f"[{address}]" if isinstance(address, IPv6Address) else str(address)
            request = self._client.build_request(
                method,
                f"{target.scheme}://{literal}:{target.port}{target.path}",
                headers={**headers, "Host": target.authority},
                content=content,
                extensions={"sni_hostname": target.host},
            )
            try:
                return await self._client.send(request, stream=True)
            except httpx.ConnectError:
                continue
            except (httpx.HTTPError, httpx.InvalidURL) as error:
                raise FetchFailed(f"could not be fetched ({type(error).__name__})") from None
        raise FetchFailed("does not let us connect")


async def _spool(response: httpx.Response, limit: int) -> BinaryIO:
    too_large = FetchFailed(f"is larger than {limit} bytes")
    length = response.headers.get("content-length", "")
    if length.isdecimal() and int(length[:18]) > limit:
        raise too_large
    file = tempfile.SpooledTemporaryFile(max_size=SPOOLED)  # noqa: SIM115  # the caller closes it
    try:
        size = 0
        async for chunk in response.aiter_raw():
            size += len(chunk)
            if size > limit:
                raise too_large
            await asyncio.to_thread(file.write, chunk)
    except BaseException:
        file.close()
        raise
    return file  # type: ignore[return-value]  # it has all that a BinaryIO has and is used for
