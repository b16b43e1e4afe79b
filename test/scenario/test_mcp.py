"""The official MCP client against the balancer (three workers, so no session could be kept) over two instances."""

import base64
import io
import json
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import httpx2
import mcp_types as types
import pytest
from mcp import MCPError
from mcp.client.client import Client
from mcp.client.streamable_http import streamable_http_client
from PIL import Image

from test.cluster import ROOT, Cluster, wait_until
from test.scenario.test_openai import ANY_TEXT, FAILING, SLOW

MODES = ["auto", "legacy"]


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("mcp")
    workflows = folder / "workflows"
    shutil.copytree(ROOT / "workflows", workflows)
    for name, graph in (("fails", FAILING), ("slow", SLOW)):
        (workflows / f"{name}-api.json").write_text(json.dumps(graph))
        (workflows / f"{name}.yaml").write_text(ANY_TEXT)
    settings = {"WORKFLOWS_FOLDER": str(workflows), "BALANCER_WORKERS": "3"}
    with Cluster(folder, simulator_options=("--step-seconds", "0.02"), settings=settings) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def key(system: Cluster) -> str:
    command = [sys.executable, "-m", "comfy_balancer.cli", "keys", "create", "--owner", "anna"]
    made = subprocess.run(command, env=system.environment(), capture_output=True, text=True, timeout=20, check=True)
    return made.stdout.strip()


@asynccontextmanager
async def connected(system: Cluster, key: str, mode: str = "auto") -> AsyncIterator[Client]:
    headers = {"Authorization": f"Bearer {key}"}
    async with httpx2.AsyncClient(headers=headers, timeout=30, trust_env=False) as http:
        transport = streamable_http_client(f"{system.url}/mcp", http_client=http)
        async with Client(transport, mode=mode) as client:
            yield client


async def loaded(url: str) -> bytes:
    """Without a log-in."""
    async with httpx.AsyncClient(trust_env=False) as client:
        answer = await client.get(url)
    assert answer.status_code == 200
    return answer.content


def pictures(result: types.CallToolResult) -> list[Image.Image]:
    found = [content for content in result.content if isinstance(content, types.ImageContent)]
    return [Image.open(io.BytesIO(base64.b64decode(content.data))) for content in found]


def texts(result: types.CallToolResult) -> str:
    return "\n".join(content.text for content in result.content if isinstance(content, types.TextContent))


@pytest.mark.parametrize("mode", MODES)
async def test_each_workflow_is_a_tool_with_typed_parameters(system: Cluster, key: str, mode: str) -> None:
    async with connected(system, key, mode) as client:
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
    assert {"first-workflow", "image-to-image", "smoke"} <= set(tools)
    schema = tools["first-workflow"].input_schema
    assert schema["properties"]["steps"]["type"] == "integer"
    assert schema["properties"]["steps"]["maximum"] == 150
    assert "Base64" in tools["image-to-image"].input_schema["properties"]["image"]["description"]
    assert tools["first-workflow"].title == "Text to image"


@pytest.mark.parametrize("mode", MODES)
async def test_a_call_brings_the_picture_and_tells_its_progress(system: Cluster, key: str, mode: str) -> None:
    told: list[tuple[float, float | None, str | None]] = []

    async def on_progress(progress: float, total: float | None, message: str | None) -> None:
        told.append((progress, total, message))

    async with connected(system, key, mode) as client:
        arguments = {"text": "a red house", "width": 64, "height": 128, "steps": 20}
        result = await client.call_tool("first-workflow", arguments, progress_callback=on_progress)
    assert not result.is_error, texts(result)
    assert [picture.size for picture in pictures(result)] == [(64, 128)]
    steps = [progress for progress, _, _ in told]
    assert steps == sorted(set(steps)), "it never goes back"
    assert len(steps) > 3
    assert (steps[0], steps[-1], told[0][1]) == (0, 1, 1)
    url = next(word for word in texts(result).split() if word.startswith("http"))
    assert Image.open(io.BytesIO(await loaded(url))).size == (64, 128)
    assert '"seed":' in texts(result)
    with system.client() as http:
        assert http.get("/api/v1/tasks", params={"workflow": "first-workflow"}).json()["tasks"][0]["owner"] == "anna"


async def test_a_picture_may_come_in_base64(system: Cluster, key: str) -> None:
    data = base64.b64encode((ROOT / "test" / "picture.png").read_bytes()).decode()
    async with connected(system, key) as client:
        for value in (data, f"data:image/png;base64,{data}"):
            result = await client.call_tool("image-to-image", {"image": value, "steps": 2})
            assert not result.is_error, texts(result)
            assert len(pictures(result)) == 1


async def test_a_large_picture_is_shown_smaller_with_the_address_of_the_whole(system: Cluster, key: str) -> None:
    """The client takes events of a MiB: noise of 2048 pixels does not fit."""
    noise = io.BytesIO()
    Image.effect_noise((1200, 1200), 100).convert("RGB").save(noise, "PNG")
    data = base64.b64encode(noise.getvalue()).decode()
    async with connected(system, key) as client:
        result = await client.call_tool("image-to-image", {"image": data, "steps": 1})
    assert not result.is_error, texts(result)
    assert sum(len(content.data) for content in result.content if isinstance(content, types.ImageContent)) < 800_000
    url = next(word for word in texts(result).split() if word.startswith("http"))
    assert Image.open(io.BytesIO(await loaded(url))).format == "PNG"


@pytest.mark.parametrize(
    ("tool", "arguments", "said"),
    [
        ("first-workflow", {"steps": 0}, "steps: must be at least 1"),
        ("first-workflow", {"stepz": 1}, "did you mean steps?"),
        ("first-workflow", {"width": "wide"}, "width: "),
        ("first-workflo", {}, "did you mean first-workflow?"),
        ("image-to-image", {}, "image: is required"),
        ("image-to-image", {"image": "no base64"}, "image: Base64 of the file"),
        ("image-to-image", {"image": "AAAA"}, "image: must be a picture"),
        ("image-to-image", {"image": "0" * 64}, "image: there is no stored file"),
        ("fails", {}, "failed on purpose"),
    ],
)
async def test_what_goes_wrong_is_readable(
    system: Cluster, key: str, tool: str, arguments: dict[str, Any], said: str
) -> None:
    async with connected(system, key) as client:
        result = await client.call_tool(tool, arguments)
    assert result.is_error
    assert said in texts(result)


async def test_a_client_that_gives_up_leaves_no_task_running(system: Cluster, key: str) -> None:
    for mode in MODES:
        async with connected(system, key, mode) as client:
            with pytest.raises(MCPError, match=r"[Tt]imed out"):
                await client.call_tool("slow", {}, read_timeout_seconds=1)

    def canceled() -> bool:
        with system.client() as http:
            tasks = http.get("/api/v1/tasks", params={"workflow": "slow"}).json()["tasks"]
        return len(tasks) == 2 and {task["status"] for task in tasks} == {"canceled"}

    wait_until(canceled, "both tasks are canceled", 15)


def test_without_a_log_in_there_is_an_error_of_json_rpc(system: Cluster) -> None:
    answer = httpx.post(f"{system.url}/mcp", json={"jsonrpc": "2.0", "id": 1, "method": "ping"}, trust_env=False)
    assert answer.status_code == 401
    assert answer.json()["error"]["data"] == {"status": 401, "code": "unauthorized"}
    for method in ("GET", "DELETE"):
        assert httpx.request(method, f"{system.url}/mcp", auth=system.auth, trust_env=False).status_code == 405


@pytest.mark.parametrize(
    "body",
    [
        b"", b"{", b"null", b"[]", b"5", b'"x"', b"{}", b"\xff", b"[" * 100_000, b'{"jsonrpc":"2.0"}',
        b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{}}',
        b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":5,"arguments":[]}}',
        b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"smoke","arguments":{"width":1e999}}}',
        b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"\\ud800","arguments":{"\\ud800":"\\ud800"}}}',
        b'{"jsonrpc":"2.0","id":1,"method":"nothing"}', b'{"jsonrpc":"1.0","id":{},"method":[]}',
        b'{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{"cursor":7}}',
    ],
)  # fmt: skip
@pytest.mark.parametrize("version", ["", "2025-06-18", "2026-07-28", "x" * 100])
def test_bad_bodies_are_refused_and_break_nothing(system: Cluster, body: bytes, version: str) -> None:
    headers = {"Content-Type": "application/json", "Accept": "application/json, text/event-stream"}
    headers |= {"MCP-Protocol-Version": version} if version else {}
    answer = httpx.post(
        f"{system.url}/mcp", content=body, headers=headers, auth=system.auth, timeout=20, trust_env=False
    )
    assert answer.status_code < 500, answer.text
    assert b"Traceback" not in answer.content
