"""Which shape a path has, and that every refusal of the edge takes it."""

from types import SimpleNamespace

import httpx
import msgspec
import pytest
from fastapi import FastAPI
from starlette.datastructures import Headers
from starlette.types import Receive, Scope, Send

from comfy_shared.callers import Caller, Role
from comfy_shared.errors import QueueFull
from comfy_shared.http.doors import find_shape, problem_shape
from comfy_shared.http.handlers import Door, add_edge
from comfy_shared.http.login import CHALLENGE, LogInRefused

LOGIN = ("admin", "admin")


def ours(status: int, code: str, detail: str, request_id: str) -> tuple[bytes, str]:
    return msgspec.json.encode({"ours": [status, code, detail, request_id]}), "application/json"


def plain(status: int, code: str, detail: str, request_id: str) -> tuple[bytes, str]:
    return f"{status} {code}".encode(), "text/plain"


SHAPES = {"/v1": ours, "/api": plain, "/api/v1": problem_shape}


@pytest.mark.parametrize(
    ("path", "shape"),
    [
        ("/v1", ours),
        ("/v1/images/edits", ours),
        ("/v1/", ours),
        ("/v10", problem_shape),
        ("/V1/models", problem_shape),
        ("//v1/models", problem_shape),
        ("/api/prompt", plain),
        ("/api/v1/tasks", problem_shape),
        ("/api/v10", plain),
        ("/", problem_shape),
        ("", problem_shape),
        ("*", problem_shape),
    ],
)
def test_the_longest_prefix_decides(path: str, shape: object) -> None:
    assert find_shape(SHAPES, path) is shape


async def log_in(scope: Scope) -> Caller:
    """Anybody who says anything."""
    if "authorization" not in Headers(scope=scope):
        raise LogInRefused(401, "unauthorized", "A log-in is needed.", CHALLENGE)
    return Caller(owner="anna", role=Role.USER)


@pytest.fixture
def client() -> httpx.AsyncClient:
    app = FastAPI()
    door = Door()

    @app.get("/v1/full")
    async def full() -> None:
        raise QueueFull

    @door.get("/broken")
    async def broken() -> None:
        raise RuntimeError("a secret")

    @app.get("/v1/number/{number}")
    async def number(number: int) -> int:
        return number

    app.mount("/v1/inner", door)
    add_edge(app, json_limit=100, form_limit=100, form_paths=frozenset(), shapes=SHAPES)

    async def asgi(scope: Scope, receive: Receive, send: Send) -> None:
        await app({**scope, "state": {"resources": SimpleNamespace(log_in=log_in)}}, receive, send)

    transport = httpx.ASGITransport(app=asgi, raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://balancer")


async def refused(client: httpx.AsyncClient, path: str, method: str = "GET", **options: object) -> list[object]:
    answer = await client.request(method, path, **options)  # type: ignore[arg-type]
    assert answer.headers["content-type"] == "application/json"
    told: list[object] = answer.json()["ours"]
    assert told[0] == answer.status_code
    assert told[3] == answer.headers["x-request-id"]
    return told[:2]


async def test_every_refusal_of_the_edge_has_the_shape_of_its_door(client: httpx.AsyncClient) -> None:
    async with client:
        assert await refused(client, "/v1/full") == [401, "unauthorized"]
        client.auth = httpx.BasicAuth(*LOGIN)
        assert await refused(client, "/v1/full", headers={"X": "x" * 20_000}) == [431, "headers-too-large"]
        assert await refused(client, "/v1/full", "POST", headers={"Origin": "http://evil.example"}) == [
            403,
            "foreign-origin",
        ]
        assert await refused(client, "/v1/full", "POST", content=b"x") == [415, "wrong-media-type"]
        assert await refused(client, "/v1/full", "POST", json="x" * 200) == [413, "too-large"]
        assert await refused(client, "/v1/full", "DELETE") == [405, "method-not-allowed"]
        assert await refused(client, "/v1/nothing") == [404, "not-found"]
        assert await refused(client, "/v1/number/x") == [422, "invalid"]
        assert await refused(client, "/v1/full") == [429, "queue-full"]
        assert await refused(client, "/v1/inner/broken") == [500, "internal"]


async def test_what_a_shape_does_not_tell_stays_in_the_headers(client: httpx.AsyncClient) -> None:
    async with client:
        client.auth = httpx.BasicAuth(*LOGIN)
        assert (await client.get("/v1/full")).headers["retry-after"] == "2"
        assert (await client.delete("/v1/full")).headers["allow"] == "GET"


async def test_other_paths_keep_problem_documents_and_plain_ones_their_text(client: httpx.AsyncClient) -> None:
    async with client:
        assert (await client.get("/api/prompt")).text == "401 unauthorized"
        problem = await client.get("/api/v1/tasks")
        assert problem.headers["content-type"] == "application/problem+json"
        assert problem.headers["www-authenticate"].startswith("Basic ")
