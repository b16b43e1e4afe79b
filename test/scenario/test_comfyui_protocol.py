"""A ComfyUI client before several GPUs: two agents on two simulated instances, two balancer processes, two owners."""

import asyncio
import io
import json
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, cast

import aiohttp
import pytest
from PIL import Image
from redis.asyncio import Redis

from comfy_balancer.login.api_keys import ApiKeys
from comfy_shared.callers import Role
from comfy_shared.keys import Keys
from test.cluster import Cluster
from test.contract.comfy import Comfy, Graph, Reply
from test.contract.test_files import png
from test.scenario.conftest import SHORT
from test.support.waiting import wait_until

TOKEN = "very-secret-token"


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with Cluster(tmp_path_factory.mktemp("protocol"), settings=SHORT) as cluster:
        yield cluster


def client(system: Cluster, session: aiohttp.ClientSession) -> Comfy:
    return Comfy(system.url, session, simulated=True, direct=False)


@pytest.fixture
async def anna(system: Cluster) -> AsyncIterator[Comfy]:
    """The admin."""
    headers = {"Authorization": aiohttp.encode_basic_auth(*system.auth)}
    async with aiohttp.ClientSession(headers=headers, timeout=aiohttp.ClientTimeout(total=25)) as session:
        comfy = client(system, session)

        async def ready() -> bool:
            return bool((await comfy.get("/object_info/SlowProgress")).json)

        await wait_until(ready, "the balancer knows the lab nodes")
        yield comfy


@pytest.fixture
async def berta(system: Cluster) -> AsyncIterator[Comfy]:
    """Another owner, without a role."""
    redis = Redis(port=system.redis_port)
    key = await ApiKeys(redis, Keys("comfy")).create("berta", Role.USER)
    await redis.aclose()
    headers = {"Authorization": f"Bearer {key}"}
    async with aiohttp.ClientSession(headers=headers, timeout=aiohttp.ClientTimeout(total=25)) as session:
        yield client(system, session)


def view_of(image: dict[str, str]) -> str:
    return f"/view?filename={image['filename']}&subfolder={image['subfolder']}&type={image['type']}"


async def picture_of(comfy: Comfy, prompt_id: str, node: str = "2") -> dict[str, str]:
    image: dict[str, str] = (await comfy.entry(prompt_id))["outputs"][node]["images"][0]
    return image


async def test_two_agents_may_write_the_same_name_and_each_file_is_found(anna: Comfy) -> None:
    graphs = [anna.slow(f"-{number}", steps=2, ms=50) for number in range(6)]
    for graph in graphs:
        graph["2"]["inputs"]["filename_prefix"] = anna.prefix
    for number, graph in enumerate(graphs):
        graph["1"]["inputs"]["color"] = number * 40
    ids = [await anna.submit(graph) for graph in graphs]
    images = [await picture_of(anna, prompt_id) for prompt_id in ids]
    assert len({image["filename"] for image in images}) < len(images)  # both instances counted from 1
    found = [await anna.get(view_of(image)) for image in images]
    colours = [Image.open(io.BytesIO(reply.body)).convert("RGB").getpixel((0, 0)) for reply in found]
    assert colours == [(0, 0, number * 40) for number in range(6)]


async def test_an_upload_reaches_whichever_agent_runs_the_prompt(anna: Comfy) -> None:
    name = (await anna.upload(f"{anna.prefix}.png", png("blue"))).json["name"]

    def graph(number: int) -> Graph:
        inputs = {"image": ["1", 0], "steps": 2, "ms_per_step": 50.0, "preview": False, "tag": f"{number}"}
        return {
            "1": {"class_type": "LoadImage", "inputs": {"image": name}},
            "3": {"class_type": "SlowProgress", "inputs": inputs},
            "2": {"class_type": "SaveImage", "inputs": {"images": ["3", 0], "filename_prefix": anna.prefix}},
        }

    ids = [await anna.submit(graph(number)) for number in range(6)]
    for prompt_id in ids:
        entry = await anna.entry(prompt_id)
        assert entry["prompt"][2]["1"]["inputs"] == {"image": name}
        data = (await anna.get(view_of(entry["outputs"]["2"]["images"][0]))).body
        assert Image.open(io.BytesIO(data)).convert("RGB").getpixel((0, 0)) == (0, 0, 255)


async def test_an_output_can_be_the_input_of_the_next_prompt(anna: Comfy) -> None:
    image = await picture_of(anna, await anna.submit(anna.picture()))
    graph = anna.picture("-next")
    graph["1"] = {"class_type": "LoadImage", "inputs": {"image": f"{image['subfolder']}/{image['filename']} [output]"}}
    again = await picture_of(anna, await anna.submit(graph))
    colours = [
        Image.open(io.BytesIO((await anna.get(view_of(each))).body)).convert("RGB").getpixel((0, 0))
        for each in (image, again)
    ]
    assert colours[0] == colours[1]


async def test_the_editors_workflow_is_in_the_picture_and_tokens_are_nowhere(anna: Comfy, system: Cluster) -> None:
    extra = {"extra_pnginfo": {"workflow": {"id": "w1", "nodes": []}}, "auth_token_comfy_org": TOKEN}
    prompt_id = await anna.submit(anna.picture(), extra_data={**extra, "api_key_comfy_org": TOKEN}, client_id="c")
    image = await picture_of(anna, prompt_id)
    picture = Image.open(io.BytesIO((await anna.get(view_of(image))).body))
    assert json.loads(picture.text["workflow"]) == {"id": "w1", "nodes": []}  # type: ignore[attr-defined]
    redis = Redis(port=system.redis_port)
    for key in [key async for key in redis.scan_iter("*")]:
        if await redis.type(key) == b"hash":
            assert TOKEN.encode() not in b"".join(cast("dict[bytes, bytes]", await redis.hgetall(key)).values())
    await redis.aclose()
    for log in await asyncio.to_thread(lambda: [*Path(system.folder).glob("*.log")]):
        assert TOKEN not in await asyncio.to_thread(log.read_text, errors="replace")
    assert TOKEN not in (await anna.get(f"/history/{prompt_id}")).text
    job = (await anna.get(f"/api/jobs/{prompt_id}")).json
    assert (job["status"], job["workflow_id"], job["outputs_count"]) == ("completed", "w1", 1)


async def test_the_same_call_again_is_the_same_prompt(anna: Comfy, berta: Comfy) -> None:
    body = {"prompt": anna.picture(), "prompt_id": str(uuid.uuid4()), "client_id": "c"}
    replies = await asyncio.gather(*(anna.post("/prompt", body) for _ in range(5)))
    assert {reply.status for reply in replies} == {200}
    assert len({reply.text for reply in replies}) == 1
    other = {**body, "prompt": anna.picture("-other")}
    for comfy, sent in ((anna, other), (berta, body)):
        refused = await comfy.post("/prompt", sent)
        assert (refused.status, refused.json["error"]["type"]) == (400, "invalid_prompt_id")
    await anna.entry(body["prompt_id"])  # type: ignore[arg-type]


async def test_what_another_owner_has_is_not_there(anna: Comfy, berta: Comfy) -> None:
    prompt_id = await anna.submit(anna.slow(steps=400, ms=20))
    await anna.running(prompt_id)
    await anna.upload(f"{anna.prefix}.png", png())
    done = await picture_of(anna, await anna.submit(anna.picture()))
    assert await berta.queue() == ([], [])
    assert (await berta.get("/history")).json == {}
    assert (await berta.get(f"/history/{prompt_id}")).json == {}
    assert (await berta.get(f"/api/jobs/{prompt_id}")).status == 404
    for path in (view_of(done), f"/view?filename={anna.prefix}.png&type=input"):
        assert (await anna.get(path)).status == 200
        assert (await berta.get(path)).status == 404
    for path, body in (
        ("/interrupt", {}),
        ("/interrupt", {"prompt_id": prompt_id}),
        ("/queue", {"delete": [prompt_id]}),
        ("/queue", {"clear": True}),
        ("/history", {"clear": True}),
        ("/free", {"unload_models": True, "free_memory": True}),
    ):
        assert (await berta.post(path, body)).status == 200
    assert prompt_id in (await anna.queue())[0]
    await anna.post("/userdata/mine.json", data=b"1")
    assert (await berta.get("/userdata/mine.json")).status == 404
    assert (await anna.post("/interrupt")).status == 200
    assert (await anna.entry(prompt_id))["status"]["messages"][-1][0] == "execution_interrupted"


async def test_a_client_of_another_owner_with_the_same_id_hears_nothing(anna: Comfy, berta: Comfy) -> None:
    async with anna.socket("shared") as mine, berta.socket("shared") as other:
        await mine.ended(await anna.submit(anna.slow(preview=True), client_id="shared"))
        assert other.story() == []
        assert other.of("status")


async def test_a_client_that_does_not_read_is_cut_and_nobody_else_waits(anna: Comfy, system: Cluster) -> None:
    host, port = system.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port), limit=1)
    login = aiohttp.encode_basic_auth(*system.auth)
    writer.write(
        f"GET /ws?clientId={anna.prefix} HTTP/1.1\r\nHost: {host}:{port}\r\nUpgrade: websocket\r\n"
        f"Connection: Upgrade\r\nAuthorization: {login}\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
    )
    await reader.readexactly(12)
    assert isinstance(writer.transport, asyncio.ReadTransport)
    writer.transport.pause_reading()
    async with anna.socket(anna.prefix) as socket:
        for turn in range(8):
            graph: Graph = {"1": {"class_type": "TextOut", "inputs": {"text": "x" * 200_000 + str(turn)}}}
            began_at = time.monotonic()
            await socket.ended(await anna.submit(graph, client_id=anna.prefix))
            assert time.monotonic() - began_at < 10
    writer.transport.abort()


async def test_a_balancer_that_restarts_goes_on_with_the_prompt_that_runs(anna: Comfy, system: Cluster) -> None:
    name = anna.prefix
    async with anna.socket(name) as socket:
        prompt_id = await anna.submit(anna.slow(steps=9000, ms=20), client_id=name)
        await socket.first("progress")
    balancer = system.processes["balancer"]
    await asyncio.to_thread(balancer.stop)
    balancer.start()

    async def back() -> bool:
        try:
            return (await anna.get("/prompt")).status == 200
        except aiohttp.ClientError:
            return False

    await wait_until(back, "the balancer is back", 20)
    async with anna.socket(name) as socket:
        assert await socket.first("executing") == {"node": "3"}
        await socket.first("progress")
        await anna.post("/interrupt", {"prompt_id": prompt_id})
        await socket.ended(prompt_id)
        assert socket.story()[-2:] == ["execution_interrupted 3", "executing None"]


@pytest.mark.parametrize(
    "query",
    [
        "filename=../../etc/passwd&type=input",
        "filename=x.png&subfolder=../..",
        "filename=x.png&subfolder=%2Fetc",
        "filename=x.png%00&type=output",
        "filename=x.png&type=/etc",
        "filename=" + "a" * 5000,
    ],
)
async def test_a_path_that_leads_elsewhere_is_refused(anna: Comfy, query: str) -> None:
    assert (await anna.get(f"/view?{query}")).status in (400, 403, 404)


async def bad_bodies(comfy: Comfy) -> AsyncIterator[tuple[str, Reply]]:
    deep = b'{"prompt": {"1": {"class_type": "SaveImage", "inputs": {"images": ' + b"[" * 5000 + b"]" * 5000 + b"}}}}"
    many = b'{"prompt": {"1": {"class_type": "SaveImage", "inputs": {"x": [' + b"1," * 200_000 + b"1]}}}}"
    bodies: list[bytes] = [b"", b"[", b"\xff\xfe", deep, many, b'{"prompt": 5}', b'{"prompt": {"1": null}}']
    changes: list[dict[str, Any]] = [
        {"prompt_id": "not-a-uuid"},
        {"number": "nan"},
        {"number": 1e300},
        {"extra_data": []},
        {"extra_data": {"extra_pnginfo": 5}},
        {"client_id": "a" * 1000},
        {"partial_execution_targets": "x"},
    ]
    for values in changes:
        bodies.append(json.dumps({"prompt": comfy.picture(), **values}).encode())
    for body in bodies:
        yield body[:60].decode(errors="replace"), await comfy.post("/prompt", data=body)


async def test_hostile_bodies_are_refused_in_comfyuis_shape(anna: Comfy) -> None:
    async for body, reply in bad_bodies(anna):
        assert reply.status == 400, body
        error: Any = reply.json
        assert set(error) == {"error", "node_errors"}, body
        assert set(error["error"]) == {"type", "message", "details", "extra_info"}, body


@pytest.mark.parametrize("path", ["/queue", "/history", "/free", "/settings"])
@pytest.mark.parametrize("body", [b"", b"[1]", b"{", b'{"delete": 5, "clear": 0}', b"\xff"])
async def test_other_hostile_bodies_are_never_a_server_error(anna: Comfy, path: str, body: bytes) -> None:
    assert (await anna.post(path, data=body)).status in (200, 400)


async def test_what_is_no_path_of_comfyui_keeps_the_apps_own_answers(anna: Comfy) -> None:
    for path in ("/api/v1/nope", "/manager/queue", "/api/manager/reboot", "/customnode/install", "/api/v1/history"):
        reply = await anna.get(path)
        assert (reply.status, reply.headers["Content-Type"]) == (404, "application/problem+json")
    assert (await anna.request("PUT", "/api/v1/tasks", json={})).status == 405
