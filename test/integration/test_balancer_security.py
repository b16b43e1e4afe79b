"""Who may ask, and what a request may not smuggle: rows S1, S2, S3, S12, S14 and S16 over a real socket."""

import asyncio
import base64
import hmac
import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator

import pytest
from fastapi import FastAPI
from fastapi.routing import iter_route_contexts
from redis.asyncio import Redis

from comfy_balancer.app import create_app
from comfy_shared.settings import SharedSettings
from test.integration.balancer_support import SMOKE, TASKS, Balancer, balancer_settings, fields_of, running, serving

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE")
UPGRADE = (
    "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)
GOOD = "Authorization: Basic " + base64.b64encode(b"admin:admin").decode() + "\r\n"


@pytest.fixture
async def balancer(redis: Redis, settings: SharedSettings) -> AsyncIterator[Balancer]:
    async with running(redis, settings) as made:
        yield made


@pytest.fixture
async def address(balancer: Balancer) -> AsyncIterator[str]:
    async with serving(balancer) as found:
        yield found


async def raw(address: str, method: str, target: str, headers: str = "") -> tuple[int, str]:
    """Status and the whole answer to bytes that no client library would send."""
    host, port = address.split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    end = "" if "Upgrade:" in headers else "Connection: close\r\n"
    writer.write(f"{method} {target} HTTP/1.1\r\nHost: {address}\r\n{headers}{end}\r\n".encode("latin-1"))
    await writer.drain()
    try:
        async with asyncio.timeout(5):
            answer = (await reader.read()).decode("latin-1")
    finally:
        writer.close()
    return int(answer.split(" ", 2)[1]), answer


def paths_of(app: FastAPI) -> set[str]:
    """The path of every route, with `x` for each parameter."""
    shown = {re.sub(r"\{\w+\}", "x", context.path or "") for context in iter_route_contexts(app.routes)}
    return (shown - {""}) | DOORS


# Doors answer below a mount, which the walk over the routes does not enter.
DOORS = frozenset(
    {
        "/prompt", "/api/prompt", "/ws", "/queue", "/interrupt", "/history", "/history/x", "/view", "/upload/image",
        "/object_info", "/system_stats", "/userdata/x", "/comfyui/", "/comfyui/ws", "/v1/models",
        "/v1/images/generations", "/v1/images/edits", "/api/v2/jobs", "/api/v2/assets", "/api/v2/health",
    },
)  # fmt: skip


class TestLogIn:
    """Row S1."""

    async def test_every_route_and_method_answers_401(self, balancer: Balancer, address: str) -> None:
        paths = paths_of(balancer.app)
        assert {"/docs", "/openapi.json", "/", f"{TASKS}/x/events", f"{TASKS}/x/ws"} <= paths
        assert len(paths) >= 22
        for path in sorted(paths - {"/healthz", "/readyz"}):
            for method in METHODS:
                status, answer = await raw(address, method, path)
                assert status == 401, (method, path)
                assert 'www-authenticate: basic realm="comfy"' in answer.lower()

    @pytest.mark.parametrize(
        "target",
        [
            "//healthz", "/healthz/", "/healthz/..", "/./healthz",
            "/%68ealthz", "/healthz%2f", "/HEALTHZ", "/healthz;x",
            "/%2e/healthz", "/healthz/../docs", "//docs", "/docs/%2e%2e/openapi.json", "/docs/swagger-ui.css", "/redoc",
            "/nope", "/healthz%00", "/api/v1/tasks//", "/api//v1/tasks", "/%2e%2e/%2e%2e/etc/passwd", "/readyz%20",
        ],
    )  # fmt: skip
    async def test_no_other_spelling_is_open(self, address: str, target: str) -> None:
        for method in ("GET", "HEAD", "POST"):
            assert (await raw(address, method, target))[0] == 401, method

    async def test_the_health_routes_are_open_for_reading_only(self, address: str) -> None:
        for path in ("/healthz", "/readyz", "/healthz?x=1"):
            for method in ("GET", "HEAD"):
                assert (await raw(address, method, path))[0] == 200
            for method in ("POST", "OPTIONS", "DELETE"):
                assert (await raw(address, method, path))[0] == 401

    async def test_a_websocket_is_denied_before_it_opens(self, balancer: Balancer, address: str) -> None:
        task = await balancer.submit()
        for path in (task["links"]["websocket"], "/healthz", "/nope"):
            status, answer = await raw(address, "GET", path, UPGRADE)
            assert (status, "urn:comfy:problem:unauthorized" in answer) == (401, True), path

    @pytest.mark.parametrize(
        "header",
        [
            "Basic", "Basic ", "Basic !!!", "Basic YWRtaW4=", "Basic 4pyT", "Basic YWRtaW46YWRtaW4",
            "Bearer YWRtaW46YWRtaW4=",
            "Basic " + base64.b64encode(b"admin:wrong").decode(),
            "Basic " + base64.b64encode(b"wrong:admin").decode(),
            "Basic " + base64.b64encode(b"admin:admin ").decode(),
            "Basic " + base64.b64encode(b"ADMIN:admin").decode(),
            "Basic " + base64.b64encode("admin:ädmin".encode()).decode(), "Basic \xe4\xf6",
            "Basic " + "A" * 8000, ":", "",
            "Basic " + base64.b64encode(b":").decode(), "Basic " + base64.b64encode(b"admin:admin:").decode(),
        ],
    )  # fmt: skip
    async def test_an_odd_log_in_is_refused(self, address: str, header: str) -> None:
        """Row S3."""
        assert (await raw(address, "GET", "/docs", f"Authorization: {header}\r\n"))[0] == 401

    async def test_two_log_ins_are_none(self, address: str) -> None:
        assert (await raw(address, "GET", "/docs", GOOD + GOOD))[0] == 401
        assert (await raw(address, "GET", "/docs", GOOD))[0] == 200
        assert (await raw(address, "GET", "/docs", GOOD.replace("Basic", "bAsIc")))[0] == 200

    @pytest.mark.parametrize("size", [17_000, 1_000_000])
    async def test_huge_headers_are_refused(self, address: str, size: int) -> None:
        """Row S3."""
        status, _ = await raw(address, "GET", "/docs", f"{GOOD}X-Padding: {'x' * size}\r\n")
        assert status in (400, 431)
        assert (await raw(address, "GET", "/healthz"))[0] == 200

    async def test_both_parts_are_always_compared(self, balancer: Balancer, monkeypatch: pytest.MonkeyPatch) -> None:
        """Row S3: whatever is wrong costs the same three comparisons, of values of one length."""
        compared: list[tuple[int, int]] = []
        real = hmac.compare_digest

        def counting(one: bytes, other: bytes) -> bool:
            compared.append((len(one), len(other)))
            return real(one, other)

        monkeypatch.setattr(hmac, "compare_digest", counting)
        await balancer.client.get("/docs", auth=("admin", "admin"))
        assert compared == [(32, 32)]  # the whole header at once
        for login in (("x", "admin"), ("admin", "x" * 1000), ("", ""), ("ADMIN", "admin")):
            compared.clear()
            await balancer.client.get("/docs", auth=login)
            assert compared == [(32, 32)] * 3, login
        compared.clear()
        await balancer.client.get("/docs", auth=None, headers={"Authorization": "nonsense"})
        assert compared == [(32, 32)] * 3


class TestPassword:
    """Row S2."""

    @pytest.mark.parametrize("password", ["admin", "short", "", "username-long-enough"])
    def test_production_refuses_a_weak_one(
        self, settings: SharedSettings, password: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        user = "admin" if len(password) < 12 else password
        weak = balancer_settings(settings, comfy_env="production", api_username=user, api_password=password)
        with pytest.raises(SystemExit) as ended:
            create_app(weak)
        assert ended.value.code == 3
        said = capsys.readouterr().err
        assert said.count("\n") == 1
        assert "refusing to start" in said

    def test_production_takes_a_strong_one(self, settings: SharedSettings) -> None:
        create_app(balancer_settings(settings, comfy_env="production", api_password="correct-horse-battery"))

    def test_the_command_ends_before_it_serves(self) -> None:
        environment = os.environ | {"COMFY_ENV": "production", "API_PASSWORD": "admin"}
        command = [sys.executable, "-m", "comfy_balancer", "--port", "1"]
        ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=20, check=False)
        assert ended.returncode == 3
        assert ended.stderr.startswith("comfy-balancer: refusing to start")
        assert len(ended.stderr.splitlines()) == 1

    async def test_the_default_is_loud(
        self, redis: Redis, settings: SharedSettings, capsys: pytest.CaptureFixture[str]
    ) -> None:
        async with running(redis, settings):
            pass
        assert '"settings.unsafe"' in capsys.readouterr().out

    async def test_no_answer_and_no_line_shows_the_password(
        self, redis: Redis, settings: SharedSettings, capsys: pytest.CaptureFixture[str]
    ) -> None:
        async with running(redis, settings, api_password="correct-horse-battery") as balancer:
            text = ""
            for path in ("/docs", "/openapi.json", "/nope", TASKS, f"{TASKS}/x"):
                answer = await balancer.client.get(path, auth=("admin", "correct-horse-battery"))
                text += answer.text + str(answer.headers)
            refused = await balancer.client.get("/docs", auth=("admin", "correct-horse-batter"))
        assert refused.status_code == 401
        assert "correct-horse" not in text + refused.text + capsys.readouterr().out


class TestForeignPages:
    """Row S16."""

    @pytest.mark.parametrize(
        "headers",
        [
            {"Origin": "http://evil.example"},
            {"Origin": "null"},
            {"Origin": "http://balancer:81"},
            {"Origin": "http://balancer.evil.example"},
            {"Origin": "http://[bad"},
            {"Sec-Fetch-Site": "cross-site"},
        ],
    )
    async def test_a_foreign_page_writes_nothing(self, balancer: Balancer, headers: dict[str, str]) -> None:
        answer = await balancer.client.post(TASKS, json=SMOKE, headers=headers)
        assert answer.status_code == 403
        fields_of(answer)
        assert await balancer.traces() == []

    async def test_our_own_page_writes(self, balancer: Balancer) -> None:
        headers = {"Origin": "http://balancer", "Sec-Fetch-Site": "same-origin"}
        assert (await balancer.client.post(TASKS, json=SMOKE, headers=headers)).status_code == 202
        headers = {"Origin": "http://balancer:7999", "Host": "balancer:7999"}
        assert (await balancer.client.post(TASKS, json=SMOKE, headers=headers)).status_code == 202
        headers = {"Origin": "https://balancer"}  # TLS may end before us
        assert (await balancer.client.post(TASKS, json=SMOKE, headers=headers)).status_code == 202

    async def test_a_form_of_a_foreign_page_cannot_act_without_a_body(self, balancer: Balancer) -> None:
        task = await balancer.submit()
        for kind in ("application/x-www-form-urlencoded", "text/plain", "multipart/form-data; boundary=x"):
            answer = await balancer.client.post(task["links"]["cancel"], headers={"Content-Type": kind})
            assert answer.status_code == 415
        assert (await balancer.client.get(task["links"]["self"])).json()["status"] == "pending"

    async def test_no_answer_allows_another_origin(self, balancer: Balancer) -> None:
        headers = {"Origin": "http://evil.example", "Access-Control-Request-Method": "POST"}
        for method in ("GET", "OPTIONS"):
            answer = await balancer.client.request(method, TASKS, headers=headers)
            assert not [name for name in answer.headers if name.startswith("access-control")]

    async def test_a_foreign_page_opens_no_websocket(self, balancer: Balancer, address: str) -> None:
        task = await balancer.submit()
        headers = GOOD + UPGRADE + "Origin: http://evil.example\r\n"
        assert (await raw(address, "GET", task["links"]["websocket"], headers))[0] == 403

    async def test_every_answer_is_guarded_against_sniffing_and_framing(self, balancer: Balancer) -> None:
        for path in ("/healthz", "/docs", "/nope", TASKS):
            answer = await balancer.client.get(path)
            assert answer.headers["x-content-type-options"] == "nosniff"
            assert answer.headers["x-frame-options"] == "DENY"
            assert answer.headers["referrer-policy"] == "no-referrer"


class TestInjection:
    """Row S14."""

    async def test_a_request_id_is_taken_only_when_it_is_harmless(self, balancer: Balancer, address: str) -> None:
        answer = await balancer.client.get("/healthz", headers={"X-Request-ID": "ci-1.2_3"})
        assert answer.headers["x-request-id"] == "ci-1.2_3"
        for odd in ("a b", "x" * 65, "", "a\tb", "é", "<script>"):
            _, text = await raw(address, "GET", "/healthz", f"X-Request-ID: {odd}\r\n")
            (line,) = [line for line in text.splitlines() if line.startswith("x-request-id: ")]
            made = line.removeprefix("x-request-id: ")
            assert len(made) == 26
            assert made.isalnum()

    async def test_one_request_is_one_line_whatever_it_says(
        self, balancer: Balancer, capsys: pytest.CaptureFixture[str]
    ) -> None:
        body = SMOKE | {"labels": {"a": "x"}, "parameters": {'b\n{"level": "ERROR"}\r\n': 1}}
        answer = await balancer.client.post(TASKS, json=body)
        assert answer.status_code == 422
        task = {"workflow": "first-workflow", "parameters": {"text": 'cat\n{"level":"ERROR","message":"forged"}'}}
        capsys.readouterr()
        await balancer.submit(task)
        lines = [line for line in capsys.readouterr().out.splitlines() if line]
        assert [line.count('"task.accepted"') for line in lines] == [1]
        assert "forged" not in lines[0]

    async def test_a_name_in_an_answers_header_cannot_end_it(self, balancer: Balancer, address: str) -> None:
        for target in ("/api/v1/tasks/x%0d%0aSet-Cookie:a=b", "/docs/%0d%0aX:y", "/%0d%0aLocation:x"):
            _, text = await raw(address, "GET", target, GOOD)
            head = text.partition("\r\n\r\n")[0].lower()
            assert "set-cookie" not in head
            assert "\r\nx:" not in head


class TestReach:
    """Row S12: of ComfyUI only the listed routes are reachable, and each is answered by us."""

    async def test_what_packs_and_the_manager_add_to_comfyui_is_not_there(self, balancer: Balancer) -> None:
        for path in (
            "/manager/queue",
            "/manager/queue/install",
            "/customnode/install",
            "/snapshot/restore",
            "/externalmodel/getlist",
            "/experiment/models/preview/checkpoints/0/x.png",
            "/pysssss/autocomplete",
            "/vhs/viewvideo",
        ):
            for method in ("GET", "POST"):
                assert (await balancer.client.request(method, path)).status_code in (404, 405), path
                assert (await balancer.client.request(method, f"/api{path}")).status_code in (404, 405), path


class TestPages:
    async def test_swagger_asks_nobody_but_us(self, balancer: Balancer) -> None:
        page = await balancer.client.get("/docs")
        assert "//" not in page.text.replace("<!doctype html>", "")
        policy = page.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "http" not in policy
        for name in ("swagger-ui-bundle.js", "swagger-ui.css", "favicon-32x32.png", "start.js"):
            answer = await balancer.client.get(f"/docs/{name}")
            assert (answer.status_code, len(answer.content) > 100) == (200, True)
        root = await balancer.client.get("/")
        assert (root.status_code, root.headers["location"]) == (307, "docs")

    async def test_every_schema_field_and_operation_is_described(self, balancer: Balancer) -> None:
        document = (await balancer.client.get("/openapi.json")).json()
        for name, schema in document["components"]["schemas"].items():
            assert schema.get("description"), name
        for path, operations in document["paths"].items():
            for method, operation in operations.items():
                assert operation.get("summary") and operation.get("description"), (method, path)  # noqa: PT018
                for parameter in operation.get("parameters", []):
                    assert parameter["in"] == "path" or parameter.get("description"), (path, parameter["name"])

    async def test_the_examples_of_the_document_work_as_they_are(self, balancer: Balancer) -> None:
        await balancer.hand()
        document = (await balancer.client.get("/openapi.json")).json()
        tried = 0
        for path, operations in document["paths"].items():
            content = operations.get("post", {}).get("requestBody", {}).get("content", {})
            for example in content.get("application/json", {}).get("examples", {}).values():
                answer = await balancer.client.post(path, json=example["value"])
                assert answer.status_code in (200, 201, 202), (path, answer.text)
                tried += 1
        assert tried >= 4
