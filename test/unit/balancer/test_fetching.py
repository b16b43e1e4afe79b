"""What a fetch asks of public addresses, which no test may call: the answers are scripted."""

from collections.abc import AsyncIterator

import httpx
import pytest
import respx

from comfy_balancer.addresses import AddressPolicy, Unsafe
from comfy_balancer.fetching import Fetcher, FetchFailed

PUBLIC, OTHER, PRIVATE = "93.184.215.14", "2606:2800:21f:cb07:6820:80da:af6b:8b2c", "10.0.0.5"
HOSTS = {"pictures.example": [PUBLIC], "both.example": [OTHER, PUBLIC], "inside.example": [PRIVATE]}


async def resolve(host: str, port: int) -> list[str]:
    return HOSTS[host]


@pytest.fixture
async def fetcher() -> AsyncIterator[Fetcher]:
    made = Fetcher(AddressPolicy(), timeout=5, redirects=2, resolve=resolve)
    yield made
    await made.aclose()


async def test_the_checked_address_is_called_under_the_name_of_the_url(
    fetcher: Fetcher, respx_mock: respx.MockRouter
) -> None:
    """So that what DNS says a moment later changes nothing, and the certificate is the host's."""
    route = respx_mock.get(f"https://{PUBLIC}:443/a.png?size=1").respond(200, content=b"picture")
    with await fetcher.fetch("https://pictures.example/a.png?size=1", limit=100) as file:
        assert file.seek(0) == 0
        assert file.read() == b"picture"
    request = route.calls.last.request
    assert request.headers["host"] == "pictures.example"
    assert request.extensions["sni_hostname"] == "pictures.example"
    assert "authorization" not in request.headers
    assert "cookie" not in request.headers


async def test_an_address_that_refuses_leads_to_the_next(fetcher: Fetcher, respx_mock: respx.MockRouter) -> None:
    first = respx_mock.get(f"http://[{OTHER}]:80/a").mock(side_effect=httpx.ConnectError("refused"))
    second = respx_mock.get(f"http://{PUBLIC}:80/a").respond(200, content=b"x")
    (await fetcher.fetch("http://both.example/a", limit=100)).close()
    assert first.called
    assert second.called


async def test_a_redirect_is_checked_like_the_first_url(fetcher: Fetcher, respx_mock: respx.MockRouter) -> None:
    respx_mock.get(f"http://{PUBLIC}:80/a").respond(302, headers={"Location": "http://inside.example/secret"})
    with pytest.raises(Unsafe):
        await fetcher.fetch("http://pictures.example/a", limit=100)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (httpx.Response(404), "status 404"),
        (httpx.Response(204), "status 204"),
        (httpx.Response(301, headers={"Location": "/a"}), "redirects more than 2 times"),
        (httpx.Response(200, content=b"x" * 101), "larger than 100 bytes"),
        (httpx.ReadTimeout("slow"), "could not be fetched"),
        (httpx.RemoteProtocolError("nonsense"), "could not be fetched"),
        (httpx.ConnectError("refused"), "does not let us connect"),
    ],
)
async def test_what_is_no_file_fails_with_its_reason(
    fetcher: Fetcher, respx_mock: respx.MockRouter, answer: httpx.Response | Exception, reason: str
) -> None:
    route = respx_mock.get(f"http://{PUBLIC}:80/a")
    if isinstance(answer, Exception):
        route.mock(side_effect=answer)
    else:
        route.mock(return_value=answer)
    with pytest.raises(FetchFailed, match=reason):
        await fetcher.fetch("http://pictures.example/a", limit=100)
