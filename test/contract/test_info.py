"""The routes that describe the server: node classes, models, machine, features, logs; and its manners in HTTP."""

import json
from pathlib import Path

import pytest

from test import simulator
from test.contract.comfy import Comfy
from test.simulator import Options

RECORDED = Path(simulator.__file__).parent / "object_info.json"


@pytest.mark.parametrize("prefix", ["", "/api"])
async def test_the_definition_of_one_class(comfyui: Comfy, prefix: str) -> None:
    info = (await comfyui.get(f"{prefix}/object_info/SaveImage")).json["SaveImage"]
    assert info["input"]["required"]["images"] == ["IMAGE", {"tooltip": "The images to save."}]
    assert info["input"]["hidden"] == {"prompt": "PROMPT", "extra_pnginfo": "EXTRA_PNGINFO"}
    assert info["input_order"] == {"required": ["images", "filename_prefix"], "hidden": ["prompt", "extra_pnginfo"]}
    assert (info["output"], info["output_node"], info["name"]) == ([], True, "SaveImage")


async def test_the_definition_of_our_lab_node(lab: Comfy) -> None:
    """The simulator's copy of it must say the same as ComfyUI makes of test/contract/lab_nodes.py."""
    assert (await lab.get("/object_info/SlowProgress")).json["SlowProgress"] == {
        "input": {
            "required": {
                "image": ["IMAGE"],
                "steps": ["INT", {"default": 10, "min": 1, "max": 10000}],
                "ms_per_step": ["FLOAT", {"default": 100.0, "min": 0.0, "max": 60000.0}],
            },
            "optional": {"preview": ["BOOLEAN", {"default": False}], "tag": ["STRING", {"default": ""}]},
            "hidden": {"unique_id": "UNIQUE_ID"},
        },
        "input_order": {
            "required": ["image", "steps", "ms_per_step"],
            "optional": ["preview", "tag"],
            "hidden": ["unique_id"],
        },
        "output": ["IMAGE"],
        "output_is_list": [False],
        "output_name": ["IMAGE"],
        "name": "SlowProgress",
        "display_name": "Slow Progress (lab)",
        "description": "",
        "python_module": "custom_nodes.lab_nodes",
        "category": "lab",
        "output_node": False,
    }


async def test_an_unknown_class_is_an_empty_object(comfyui: Comfy) -> None:
    reply = await comfyui.get("/object_info/NoSuch")
    assert (reply.status, reply.json) == (200, {})


async def test_all_definitions_at_once_agree_with_the_single_ones(comfyui: Comfy) -> None:
    everything = (await comfyui.get("/object_info")).json
    for name in ("EmptyImage", "KSampler", "CheckpointLoaderSimple", "SaveVideo"):
        assert (await comfyui.get(f"/object_info/{name}")).json == {name: everything[name]}


async def test_the_simulators_definitions_are_those_of_the_version_it_claims(comfyui: Comfy) -> None:
    """Choice lists of files apart, which the simulator empties and fills by itself."""
    if (await comfyui.get("/system_stats")).json["system"]["comfyui_version"] != Options().version:
        pytest.skip("another version")
    everything = (await comfyui.get("/object_info")).json
    for name, recorded in json.loads(RECORDED.read_text()).items():
        for spec in recorded["input"].get("required", {}).values():
            if spec[0] == []:
                spec[0] = "files"
        for key, spec in everything[name]["input"].get("required", {}).items():
            if recorded["input"]["required"][key][0] == "files":
                spec[0] = "files"
        assert everything[name] == recorded


async def test_an_uploaded_image_is_a_choice_of_load_image_at_once(comfyui: Comfy) -> None:
    name = f"{comfyui.prefix}.png"
    await comfyui.upload(name, b"any")
    await comfyui.upload(f"{comfyui.prefix}.txt", b"any")
    info = (await comfyui.get("/object_info/LoadImage")).json["LoadImage"]
    choices, extra = info["input"]["required"]["image"]
    assert name in choices
    assert f"{comfyui.prefix}.txt" not in choices
    assert choices == sorted(choices)
    assert extra == {"image_upload": True}


async def test_system_stats(comfyui: Comfy) -> None:
    stats = (await comfyui.get("/system_stats")).json
    assert set(stats) == {"system", "devices"}
    assert {
        "os",
        "ram_total",
        "ram_free",
        "comfyui_version",
        "required_frontend_version",
        "python_version",
        "pytorch_version",
        "embedded_python",
        "argv",
    } <= set(stats["system"])
    assert set(stats["devices"][0]) == {
        "name",
        "type",
        "index",
        "vram_total",
        "vram_free",
        "torch_vram_total",
        "torch_vram_free",
    }
    assert stats["devices"][0]["vram_total"] >= stats["devices"][0]["vram_free"] > 0


async def test_features(comfyui: Comfy) -> None:
    features = (await comfyui.get("/features")).json
    assert features == {"supports_preview_metadata": True, "max_upload_size": 104857600}


async def test_model_names_by_folder(comfyui: Comfy) -> None:
    folders = (await comfyui.get("/models")).json
    assert {"checkpoints", "loras", "vae", "diffusion_models", "text_encoders", "embeddings"} <= set(folders)
    checkpoints = (await comfyui.get("/models/checkpoints")).json
    info = (await comfyui.get("/object_info/CheckpointLoaderSimple")).json["CheckpointLoaderSimple"]
    assert checkpoints == info["input"]["required"]["ckpt_name"][0]
    reply = await comfyui.get("/models/nosuch")
    assert (reply.status, reply.body) == (404, b"")
    assert isinstance((await comfyui.get("/embeddings")).json, list)


async def test_the_model_browser(comfyui: Comfy) -> None:
    folders = {entry["name"]: entry["folders"] for entry in (await comfyui.get("/experiment/models")).json}
    assert folders["checkpoints"][0].startswith("/")
    for model in (await comfyui.get("/experiment/models/checkpoints")).json:
        assert set(model) == {"name", "pathIndex", "modified", "created", "size"}


async def test_model_metadata_is_missing_for_models_without(comfyui: Comfy) -> None:
    for query in ("", "?filename=nope.safetensors", "?filename=x.ckpt"):
        assert (await comfyui.get(f"/view_metadata/checkpoints{query}")).status == 404


async def test_what_the_frontend_asks_for(comfyui: Comfy) -> None:
    assert isinstance((await comfyui.get("/extensions")).json, list)
    assert (await comfyui.get("/users")).json["storage"] == "server"
    assert isinstance((await comfyui.get("/i18n")).json, dict)
    assert isinstance((await comfyui.get("/workflow_templates")).json, dict)
    root = await comfyui.get("/")
    assert (root.status, root.headers["Content-Type"]) == (200, "text/html")


async def test_unknown_paths_and_methods(comfyui: Comfy) -> None:
    reply = await comfyui.get("/nosuch/route")
    assert reply.status == 404
    assert (await comfyui.get("/api/jobs")).status == 404
    assert (await comfyui.post("/nosuch")).status == 405
    head = await comfyui.request("HEAD", "/system_stats")
    assert (head.status, head.body) == (200, b"")


async def test_a_foreign_origin_is_refused_everywhere(comfyui: Comfy) -> None:
    foreign = {"Origin": "http://127.0.0.1:9999", "Host": "127.0.0.1:8188"}
    for method, path in (("GET", "/system_stats"), ("POST", "/prompt"), ("OPTIONS", "/prompt"), ("GET", "/ws")):
        reply = await comfyui.request(method, path, headers=foreign)
        assert (reply.status, reply.body) == (403, b"")
    same = {"Origin": "http://127.0.0.1:8188", "Host": "127.0.0.1:8188"}
    assert (await comfyui.get("/system_stats", headers=same)).status == 200
    elsewhere = {"Origin": "http://evil.example", "Host": "192.0.2.7:8188"}
    assert (await comfyui.get("/system_stats", headers=elsewhere)).status == 200  # only loopback is guarded
    assert (await comfyui.request("OPTIONS", "/prompt")).status == 200


async def test_internal_routes_are_not_below_api(comfyui: Comfy) -> None:
    for path in ("/internal/logs", "/internal/logs/raw", "/internal/folder_paths", "/internal/files/input"):
        assert (await comfyui.get(path)).status == 200
        assert (await comfyui.get(f"/api{path}")).status == 404
    assert (await comfyui.get("/internal/files/elsewhere")).json == {"error": "Invalid directory type"}


async def test_the_log_is_one_string_or_entries(comfyui: Comfy) -> None:
    await comfyui.entry(await comfyui.submit(comfyui.picture()))
    assert "got prompt\n" in (await comfyui.get("/internal/logs")).json
    raw = (await comfyui.get("/internal/logs/raw")).json
    assert set(raw["size"]) == {"cols", "rows"}
    assert "got prompt\n" in [entry["m"] for entry in raw["entries"]]
    assert set(raw["entries"][0]) == {"t", "m"}


async def test_subscribers_hear_the_log(comfyui: Comfy) -> None:
    async def subscribe(enabled: bool) -> None:
        body = {"clientId": comfyui.prefix, "enabled": enabled}
        reply = await comfyui.request("PATCH", "/internal/logs/subscribe", json=body)
        assert (reply.status, reply.body) == (200, b"")

    async with comfyui.socket(comfyui.prefix) as socket, comfyui.socket(f"{comfyui.prefix}-other") as other:
        await subscribe(True)
        await comfyui.submit(comfyui.picture())
        logs = await socket.first("logs")
        assert set(logs) == {"entries", "size"}
        await socket.until(lambda each: "got prompt\n" in str_of_logs(each.of("logs")), "got prompt")
        await socket.until(lambda each: "Prompt executed in" in str_of_logs(each.of("logs")), "the end in the log")
        assert other.of("logs") == []
        await subscribe(False)


def str_of_logs(messages: list[dict[str, list[dict[str, str]]]]) -> str:
    return "".join(entry["m"] for message in messages for entry in message["entries"])


async def test_odd_subscriptions(comfyui: Comfy) -> None:
    body = {"clientId": "nobody", "enabled": True}
    assert (await comfyui.request("PATCH", "/internal/logs/subscribe", json=body)).status == 200
    assert (await comfyui.request("PATCH", "/internal/logs/subscribe", json={})).status == 500
    assert (await comfyui.post("/internal/logs/subscribe", body)).status == 405
