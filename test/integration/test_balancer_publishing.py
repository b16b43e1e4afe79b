"""Publishing over REST: versions, roll back, canary, deletion, export, pictures, and what is refused."""

import io
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from redis.asyncio import Redis

from comfy_shared.settings import SharedSettings
from test.integration.balancer_support import PROMPT, Balancer, fields_of, running

WORKFLOWS = "/api/v1/workflows"
EDITOR: dict[str, Any] = {
    "last_node_id": 2,
    "last_link_id": 1,
    "nodes": [
        {
            "id": 1,
            "type": "EmptyImage",
            "mode": 0,
            "inputs": [],
            "outputs": [{"name": "IMAGE", "type": "IMAGE", "links": [1]}],
            "widgets_values": [96, 48, 1, 0],
        },
        {
            "id": 2,
            "type": "SaveImage",
            "mode": 0,
            "inputs": [{"name": "images", "type": "IMAGE", "link": 1}],
            "outputs": [],
            "widgets_values": ["editor"],
        },
    ],
    "links": [[1, 1, 0, 2, 0, "IMAGE"]],
    "version": 0.4,
}
WIDTH = {"width": {"node_id": "1", "input_name": "width", "type": "integer", "minimum": 16, "maximum": 512}}


@pytest.fixture
async def balancer(redis: Redis, settings: SharedSettings) -> AsyncIterator[Balancer]:
    async with running(redis, settings) as started:
        await started.hand()
        yield started


def prompt(width: int = 64, **changes: Any) -> dict[str, Any]:
    made: dict[str, Any] = json.loads(json.dumps(PROMPT))
    made["1"]["inputs"] |= {"width": width} | changes
    return made


async def publish(balancer: Balancer, graph: dict[str, Any], status: int = 201, **more: Any) -> dict[str, Any]:
    body = {"name": "portrait", "graph": graph, "parameters": WIDTH} | more
    answer = await balancer.client.post(WORKFLOWS, json=body)
    assert answer.status_code == status, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def width_run(balancer: Balancer) -> int:
    """The width that a run without parameters gets."""
    answer = await balancer.client.post(f"{WORKFLOWS}/portrait/run", json={})
    assert answer.status_code == 202, answer.text
    return int(answer.json()["parameters"]["width"])


async def test_each_content_is_a_version_that_tells_what_changed(balancer: Balancer) -> None:
    first = await publish(balancer, prompt(64), note="first")
    assert (first["outcome"], first["version"]) == ("published", 1)
    assert (await publish(balancer, prompt(80), note="wider"))["version"] == 2
    again = await publish(balancer, prompt(80), 200)
    assert (again["outcome"], again["version"]) == ("unchanged", 2)
    listed = (await balancer.client.get(f"{WORKFLOWS}/portrait/versions")).json()["versions"]
    assert [(one["version"], one["note"], one["author"], one["active"]) for one in listed] == [
        (2, "wider", "admin", True),
        (1, "first", "admin", False),
    ]
    (change,) = listed[0]["changes"]
    assert change == {
        "kind": "changed",
        "where": "node 1 (EmptyImage), input width",
        "before": "64",
        "after": "80",
    }
    old = (await balancer.client.get(f"{WORKFLOWS}/portrait/versions/1")).json()
    assert old["graph"]["1"]["inputs"]["width"] == 64


async def test_an_older_version_rolls_back_and_tasks_record_the_version_they_ran(balancer: Balancer) -> None:
    await publish(balancer, prompt(64))
    await publish(balancer, prompt(80))
    assert await width_run(balancer) == 80
    answer = await balancer.client.post(f"{WORKFLOWS}/portrait/versions/1/activate")
    assert (answer.json()["version"], answer.json()["newest"]) == (1, 2)
    assert await width_run(balancer) == 64
    missing = await balancer.client.post(f"{WORKFLOWS}/portrait/versions/9/activate")
    assert missing.status_code == 404
    assert (await balancer.client.post(f"{WORKFLOWS}/nobody/versions/1/activate")).status_code == 404


async def test_a_canary_runs_its_share_until_it_is_ended(balancer: Balancer) -> None:
    await publish(balancer, prompt(64))
    await publish(balancer, prompt(80), activate=False)
    assert await width_run(balancer) == 64
    canary = await balancer.client.put(f"{WORKFLOWS}/portrait/canary", json={"version": 2, "share": 100})
    assert canary.json()["canary"] == {"version": 2, "share": 100}
    assert await width_run(balancer) == 80
    await balancer.client.put(f"{WORKFLOWS}/portrait/canary", json={"version": 2, "share": 0})
    assert await width_run(balancer) == 64
    active = await balancer.client.put(f"{WORKFLOWS}/portrait/canary", json={"version": 1, "share": 5})
    assert active.status_code == 409
    beyond = await balancer.client.put(f"{WORKFLOWS}/portrait/canary", json={"version": 2, "share": 101})
    assert fields_of(beyond) == ["share"]


async def test_a_workflow_that_waiting_tasks_use_is_deleted_only_by_force(balancer: Balancer) -> None:
    await publish(balancer, prompt(64))
    await width_run(balancer)
    refused = await balancer.client.delete(f"{WORKFLOWS}/portrait")
    assert refused.status_code == 409
    assert "1 tasks" in refused.json()["detail"]
    assert (await balancer.client.delete(f"{WORKFLOWS}/portrait?force=true")).status_code == 204
    assert (await balancer.client.get(f"{WORKFLOWS}/portrait")).status_code == 404
    assert (await balancer.client.delete(f"{WORKFLOWS}/portrait")).status_code == 404


async def test_an_editor_graph_is_converted_and_its_parameters_are_inferred(balancer: Balancer) -> None:
    made = await publish(balancer, EDITOR, parameters=None)
    names = [parameter["name"] for parameter in made["workflow"]["parameters"]]
    assert {"width", "height"} <= set(names)
    content = (await balancer.client.get(f"{WORKFLOWS}/portrait/versions/1")).json()
    assert content["graph"]["2"]["inputs"] == {"filename_prefix": "editor", "images": ["1", 0]}
    exported = await balancer.client.get(f"{WORKFLOWS}/portrait/export")
    assert exported.json() == EDITOR
    assert 'filename="portrait.json"' in exported.headers["content-disposition"]
    api = await balancer.client.get(f"{WORKFLOWS}/portrait/export?format=api")
    assert api.json() == content["graph"]
    assert await width_run(balancer) == 96


async def test_a_graph_without_the_editors_is_exported_in_api_format_only(balancer: Balancer) -> None:
    await publish(balancer, prompt())
    assert (await balancer.client.get(f"{WORKFLOWS}/portrait/export")).status_code == 404
    assert (await balancer.client.get(f"{WORKFLOWS}/portrait/export?format=api")).json() == prompt()


def picture(kind: str, **graphs: Any) -> bytes:
    """A picture that carries these graphs as ComfyUI's nodes write them."""
    data = io.BytesIO()
    image = Image.new("RGB", (8, 8))
    if kind == "PNG":
        info = PngInfo()
        for name, graph in graphs.items():
            info.add_text(name, json.dumps(graph))
        image.save(data, kind, pnginfo=info)
    else:
        exif = image.getexif()
        for tag, (name, graph) in zip((0x0110, 0x010F), graphs.items(), strict=False):
            exif[tag] = f"{name}:{json.dumps(graph)}"
        image.save(data, kind, exif=exif)
    return data.getvalue()


async def test_a_picture_publishes_the_graphs_that_it_carries(balancer: Balancer) -> None:
    both = picture("PNG", prompt={"1": {**PROMPT["1"], "is_changed": [None]}, "2": PROMPT["2"]}, workflow=EDITOR)
    query = {"name": "portrait", "note": "from a picture"}
    headers = {"Content-Type": "image/png"}
    answer = await balancer.client.post(WORKFLOWS, content=both, params=query, headers=headers)
    assert answer.status_code == 201, answer.text
    content = (await balancer.client.get(f"{WORKFLOWS}/portrait/versions/1")).json()
    assert content["graph"] == PROMPT, "what made the picture, not what the editor would make now"
    assert (await balancer.client.get(f"{WORKFLOWS}/portrait/export")).json() == EDITOR
    form = {"graph": ("x.webp", picture("WEBP", workflow=EDITOR))}
    answer = await balancer.client.post(WORKFLOWS, files=form, data={"name": "portrait"})
    assert answer.status_code == 201, answer.text
    assert answer.json()["version"] == 2


@pytest.mark.parametrize(
    ("content", "params", "field"),
    [
        (picture("PNG"), {"name": "portrait"}, "graph"),
        (picture("PNG", workflow={"no": "nodes"}), {"name": "portrait"}, "graph"),
        (picture("PNG", workflow=EDITOR)[:60], {"name": "portrait"}, "graph"),
        (picture("PNG", workflow=EDITOR), {}, "name"),
        (b"no picture", {"name": "portrait"}, "body"),
        (b"", {"name": "portrait"}, "body"),
    ],
)
async def test_a_picture_without_a_graph_is_refused(
    balancer: Balancer, content: bytes, params: dict[str, str], field: str
) -> None:
    headers = {"Content-Type": "image/png"}
    answer = await balancer.client.post(WORKFLOWS, content=content, params=params, headers=headers)
    assert answer.status_code == 422, answer.text
    assert fields_of(answer) == [field]


def with_node(**node: Any) -> dict[str, Any]:
    changed: dict[str, Any] = json.loads(json.dumps(EDITOR))
    changed["nodes"][0] |= node
    return changed


async def test_an_unknown_class_of_an_editor_graph_is_named_with_its_node(balancer: Balancer) -> None:
    body = {"name": "portrait", "graph": with_node(type="NoSuchNode")}
    answer = await balancer.client.post(WORKFLOWS, json=body)
    assert answer.status_code == 422
    (error,) = answer.json()["errors"]
    assert (error["field"], error["node"], error["workflow"]) == ("graph.1", "1", "portrait")
    assert "NoSuchNode" in error["message"]


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"name": "a/b"}, "name"),
        ({"name": "x-api"}, "name"),
        ({"graph": {}}, "graph"),
        ({"graph": {"1": 7}}, "graph.1"),
        ({"graph": {"nodes": [7]}}, "graph"),
        ({"graph": {"1": {"class_type": "ImageBlur", "inputs": {"image": ["1", 0]}}}}, "graph.1"),
        ({"graph": {**PROMPT, "2": {"class_type": "SaveImage", "inputs": {"images": ["9", 0]}}}}, "graph.2.inputs"),
        ({"graph": {"1": PROMPT["1"]}}, "graph"),
        ({"graph": {**PROMPT, "3": {"class_type": "SaveImage", "inputs": {"filename_prefix": "x"}}}}, "graph.3.inputs"),
        ({"parameters": {"width": {"node_id": "9", "input_name": "width", "type": "integer"}}}, "parameters.width"),
        ({"parameters": {"width": {"node_id": "1", "input_name": "width", "type": "int"}}}, "parameters"),
        ({"parameters": {"size": {"type": "integer"}}}, "parameters.size"),
        ({"parameters": "parameters: ["}, "parameters"),
        ({"color": "red"}, "color"),
        ({"activate": "yes"}, "activate"),
    ],
)  # fmt: skip
async def test_what_does_not_fit_is_named(balancer: Balancer, changes: dict[str, Any], field: str) -> None:
    answer = await balancer.client.post(WORKFLOWS, json={"name": "portrait", "graph": PROMPT} | changes)
    assert answer.status_code == 422, answer.text
    assert fields_of(answer)[0].startswith(field), answer.text
    assert (await balancer.client.get(f"{WORKFLOWS}/portrait")).status_code == 404


async def test_a_class_that_no_agent_has_is_a_warning(balancer: Balancer) -> None:
    graph = {**PROMPT, "3": {"class_type": "Missing", "inputs": {}}}
    made = await publish(balancer, graph)
    assert any("Missing" in warning for warning in made["workflow"]["warnings"])


async def test_lists_make_a_batch_and_zip_pairs_them(balancer: Balancer) -> None:
    await publish(balancer, prompt(), parameters=None)
    run = f"{WORKFLOWS}/portrait/run"
    product = await balancer.client.post(run, json={"width": [32, 64, 96], "height": [16, 32, 48, 64]})
    assert product.status_code == 202
    assert (product.json()["total"], product.json()["axes"]) == (12, ["width", "height"])
    paired = await balancer.client.post(f"{run}?sweep=zip", json={"width": [32, 64], "height": [16, 32]})
    sizes = [(task["parameters"]["width"], task["parameters"]["height"]) for task in paired.json()["tasks"]]
    assert sizes == [(32, 16), (64, 32)]
    uneven = await balancer.client.post(f"{run}?sweep=zip", json={"width": [32, 64], "height": [16]})
    assert fields_of(uneven) == ["height"]
    assert fields_of(await balancer.client.post(run, json={"width": []})) == ["width"]
    bad = await balancer.client.post(run, json={"width": [32, "wide"]})
    assert fields_of(bad) == ["width.1"]
    assert bad.json()["errors"][0]["workflow"] == "portrait"


async def test_output_options_are_checked_like_a_tasks(balancer: Balancer) -> None:
    await publish(balancer, prompt())
    run = f"{WORKFLOWS}/portrait/run"
    assert (await balancer.client.post(f"{run}?format=webp&quality=80&max_size=64", json={})).status_code == 202
    assert fields_of(await balancer.client.post(f"{run}?quality=80", json={})) == ["quality"]
    assert (await balancer.client.post(f"{run}?format=bmp", json={})).status_code == 422


async def test_the_document_follows_the_workflows(balancer: Balancer) -> None:
    await publish(balancer, prompt())

    async def properties() -> dict[str, Any]:
        document = (await balancer.client.get("/openapi.json")).json()
        content = document["paths"][f"{WORKFLOWS}/portrait/run"]["post"]["requestBody"]["content"]
        name = content["application/json"]["schema"]["$ref"].rpartition("/")[2]
        found: dict[str, Any] = document["components"]["schemas"][name]["properties"]
        return found

    width = (await properties())["width"]
    assert width["type"] == ["integer", "array"]
    assert (width["minimum"], width["maximum"], width["default"]) == (16, 512, 64)
    await publish(balancer, prompt(80))
    assert (await properties())["width"]["default"] == 80
    await balancer.client.delete(f"{WORKFLOWS}/portrait")
    assert f"{WORKFLOWS}/portrait/run" not in (await balancer.client.get("/openapi.json")).json()["paths"]


async def test_the_schema_of_the_parameters_is_of_the_version_asked_for(balancer: Balancer) -> None:
    await publish(balancer, prompt(64))
    await publish(balancer, prompt(80))
    newest = await balancer.client.get(f"{WORKFLOWS}/portrait/schema")
    assert newest.headers["content-type"] == "application/schema+json"
    older = await balancer.client.get(f"{WORKFLOWS}/portrait/schema?version=1")
    defaults = [answer.json()["properties"]["width"]["default"] for answer in (newest, older)]
    assert defaults == [80, 64]
    assert (await balancer.client.get(f"{WORKFLOWS}/portrait/schema?version=7")).status_code == 404


async def test_a_form_takes_files_and_references_for_files(balancer: Balancer) -> None:
    graph = {"1": {"class_type": "LoadImage", "inputs": {"image": "x.png"}}, "2": PROMPT["2"]}
    image = {"image": {"node_id": "1", "input_name": "image", "type": "image", "required": True}}
    await publish(balancer, graph, parameters=image)
    run = f"{WORKFLOWS}/portrait/run"
    sent: httpx.Response = await balancer.client.post(run, files={"image": ("a.png", picture("PNG"))})
    assert sent.status_code == 202, sent.text
    sha256 = sent.json()["parameters"]["image"]
    again = await balancer.client.post(run, json={"image": sha256})
    assert again.status_code == 202, again.text
    assert fields_of(await balancer.client.post(run, json={"image": "no reference"})) == ["image"]
    assert fields_of(await balancer.client.post(run, json={})) == ["image"]
