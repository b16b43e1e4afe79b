"""The pretended models: deterministic pictures, load times, memory, video; and the options behind them."""

import asyncio
import io
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from PIL import Image

from test.contract.comfy import Comfy, Graph
from test.simulator import Options, Simulator

WORKFLOWS = Path(__file__).parents[2] / "workflows"


@asynccontextmanager
async def running(**options: Any) -> AsyncIterator[Comfy]:
    models = {"checkpoints": ("sd15.safetensors", "sdxl.safetensors", "svd.safetensors"), **options}
    async with Simulator(Options(**models)) as simulator, aiohttp.ClientSession() as session:
        yield Comfy(simulator.url, session, simulated=True)


def text_to_image(prefix: str, seed: int = 1, checkpoint: str = "sd15.safetensors", **changes: int) -> Graph:
    size = {"width": 64, "height": 48, "batch_size": 1, **changes}
    settings = {"seed": seed, "steps": 3, "cfg": 7.0, "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0}
    wires = {"model": ["4", 0], "positive": ["6", 0], "negative": ["7", 0], "latent_image": ["5", 0]}
    return {
        "3": {"class_type": "KSampler", "inputs": {**settings, **wires}},
        "4": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": checkpoint}},
        "5": {"class_type": "EmptyLatentImage", "inputs": size},
        "6": {"class_type": "CLIPTextEncode", "inputs": {"text": "a fox", "clip": ["4", 1]}},
        "7": {"class_type": "CLIPTextEncode", "inputs": {"text": "", "clip": ["4", 1]}},
        "8": {"class_type": "VAEDecode", "inputs": {"samples": ["3", 0], "vae": ["4", 2]}},
        "9": {"class_type": "SaveImage", "inputs": {"images": ["8", 0], "filename_prefix": prefix}},
    }


async def image_of(comfyui: Comfy, graph: Graph) -> Image.Image:
    entry = await comfyui.entry(await comfyui.submit(graph))
    assert entry["status"]["status_str"] == "success", entry["status"]
    name = entry["outputs"]["9"]["images"][0]["filename"]
    return Image.open(io.BytesIO((await comfyui.get(f"/view?filename={name}")).body))


async def seconds_of(comfyui: Comfy, graph: Graph) -> float:
    await comfyui.entry(await comfyui.submit(graph))
    prompt = (await comfyui.get("/simulator/stats")).json["prompts"][-1]
    return float(prompt["ended_at"] - prompt["started_at"])


async def test_the_same_seed_and_text_give_the_same_picture_and_others_another() -> None:
    async with running() as comfyui:
        first = await image_of(comfyui, text_to_image("a"))
        again = await image_of(comfyui, text_to_image("b"))
        other = await image_of(comfyui, text_to_image("c", seed=2))
        assert first.size == (64, 48)
        assert first.tobytes() == again.tobytes() != other.tobytes()


async def test_samplers_send_a_preview_a_step_when_told_so() -> None:
    async with running(preview_method="latent2rgb") as comfyui, comfyui.socket(comfyui.prefix) as socket:
        await socket.ended(await comfyui.submit(text_to_image("a"), client_id=comfyui.prefix))
        assert [each["value"] for each in socket.of("progress")] == [1, 2, 3]
        assert len(socket.binary()) == 3


async def test_a_model_is_loaded_once_while_it_stays_in_use() -> None:
    async with running(load_seconds=0.1) as comfyui:
        cold = await seconds_of(comfyui, text_to_image("a", seed=1))
        warm = await seconds_of(comfyui, text_to_image("a", seed=2))
        other = await seconds_of(comfyui, text_to_image("a", checkpoint="sdxl.safetensors"))
        back = await seconds_of(comfyui, text_to_image("a", seed=3))
        assert warm < 0.1 <= min(cold, other, back)


async def test_kept_models_stay_loaded_across_other_prompts() -> None:
    async with running(load_seconds=0.1, kept_models=1) as comfyui:
        await seconds_of(comfyui, text_to_image("a"))
        await seconds_of(comfyui, text_to_image("a", checkpoint="sdxl.safetensors"))
        assert await seconds_of(comfyui, text_to_image("a", seed=3)) < 0.1


async def test_after_unloading_the_sampler_pays_for_the_load() -> None:
    async with running(load_seconds=0.1) as comfyui:
        await seconds_of(comfyui, text_to_image("a"))
        total = (await comfyui.get("/system_stats")).json["devices"][0]["vram_total"]
        assert (await comfyui.get("/system_stats")).json["devices"][0]["vram_free"] < total
        await comfyui.post("/free", {"unload_models": True})
        assert await seconds_of(comfyui, text_to_image("a", seed=2)) >= 0.1


async def test_a_picture_too_large_for_the_memory_fails_like_pytorch() -> None:
    async with running(vram_gib=6.0, model_gib=4.0) as comfyui:
        assert (await image_of(comfyui, text_to_image("a", width=1024, height=1024))).width == 1024
        entry = await comfyui.entry(await comfyui.submit(text_to_image("a", width=2048, height=1024)))
        assert entry["status"]["messages"][-1][1]["exception_type"] == "torch.OutOfMemoryError"


async def test_a_steps_time_is_paid_for_each_step() -> None:
    async with running(step_seconds=0.03) as comfyui:
        assert await seconds_of(comfyui, text_to_image("a")) >= 0.09


async def test_missing_classes_and_model_lists_are_as_told() -> None:
    async with running(missing_classes=("KSampler",), checkpoints=("mine.safetensors",)) as comfyui:
        reply = await comfyui.post("/prompt", {"prompt": text_to_image("a")})
        assert "node KSampler does not exist" in reply.text
        assert (await comfyui.get("/models/checkpoints")).json == ["mine.safetensors"]
        assert "KSampler" not in (await comfyui.get("/object_info")).json


async def test_an_image_becomes_a_film() -> None:
    settings = {
        "width": 64,
        "height": 64,
        "video_frames": 4,
        "motion_bucket_id": 127,
        "fps": 6,
        "augmentation_level": 0.0,
    }
    sampler = text_to_image("a")["3"]["inputs"]
    wires = {"model": ["2", 0], "positive": ["4", 0], "negative": ["4", 1], "latent_image": ["4", 2]}
    graph: Graph = {
        "1": {"class_type": "ImageOnlyCheckpointLoader", "inputs": {"ckpt_name": "svd.safetensors"}},
        "2": {"class_type": "VideoLinearCFGGuidance", "inputs": {"model": ["1", 0], "min_cfg": 1.0}},
        "3": {"class_type": "EmptyImage", "inputs": {"width": 64, "height": 64, "batch_size": 1, "color": 9}},
        "4": {
            "class_type": "SVD_img2vid_Conditioning",
            "inputs": {"clip_vision": ["1", 1], "init_image": ["3", 0], "vae": ["1", 2], **settings},
        },
        "5": {"class_type": "KSampler", "inputs": {**sampler, **wires}},
        "6": {"class_type": "VAEDecode", "inputs": {"samples": ["5", 0], "vae": ["1", 2]}},
        "9": {
            "class_type": "SaveAnimatedWEBP",
            "inputs": {
                "images": ["6", 0],
                "filename_prefix": "film",
                "fps": 6.0,
                "lossless": False,
                "quality": 80,
                "method": "default",
            },
        },
    }
    async with running() as comfyui:
        film = await image_of(comfyui, graph)
        assert (film.format, getattr(film, "n_frames", 1), film.size) == ("WEBP", 4, (64, 64))


async def test_the_sdxl_and_inpaint_and_flux_nodes_run() -> None:
    graph = text_to_image("a")
    graph["6"] = {
        "class_type": "CLIPTextEncodeSDXL",
        "inputs": {
            "clip": ["10", 1],
            "text_g": "fox",
            "text_l": "fox",
            **dict.fromkeys(("width", "height", "target_width", "target_height"), 1024),
            **dict.fromkeys(("crop_w", "crop_h"), 0),
        },
    }
    lora = {"lora_name": "style.safetensors", "strength_model": 1.0, "strength_clip": 1.0}
    graph["10"] = {"class_type": "LoraLoader", "inputs": {"model": ["11", 0], "clip": ["12", 0], **lora}}
    graph["11"] = {
        "class_type": "UNETLoader",
        "inputs": {"unet_name": "flux.safetensors", "weight_dtype": "default"},
    }
    clips = {"clip_name1": "clip_l.safetensors", "clip_name2": "t5xxl.safetensors", "type": "flux"}
    graph["13"] = {"class_type": "DualCLIPLoader", "inputs": clips}
    graph["12"] = {"class_type": "CLIPSetLastLayer", "inputs": {"clip": ["13", 0], "stop_at_clip_layer": -2}}
    graph["14"] = {"class_type": "VAELoader", "inputs": {"vae_name": "vae.safetensors"}}
    graph["15"] = {"class_type": "EmptyImage", "inputs": {"width": 40, "height": 40, "batch_size": 1, "color": 9}}
    graph["16"] = {"class_type": "SolidMask", "inputs": {"value": 0.5, "width": 40, "height": 40}}
    inpaint = {"pixels": ["15", 0], "vae": ["14", 0], "mask": ["16", 0], "grow_mask_by": 6}
    graph["5"] = {"class_type": "VAEEncodeForInpaint", "inputs": inpaint}
    graph["7"]["inputs"]["clip"] = ["12", 0]
    graph["3"]["inputs"]["model"] = ["10", 0]
    graph["8"]["inputs"]["vae"] = ["14", 0]
    del graph["4"]
    async with running() as comfyui:
        assert (await image_of(comfyui, graph)).size == (40, 40)


async def test_an_upload_above_the_limit_is_refused() -> None:
    async with running(max_upload_mib=0.01) as comfyui:
        reply = await comfyui.upload("big.png", bytes(20_000))
        assert reply.status == 413
        assert reply.text.startswith("Maximum request body size")
        assert (await comfyui.get("/features")).json["max_upload_size"] == 10486


@pytest.mark.parametrize("path", sorted(WORKFLOWS.glob("*-api.json")), ids=lambda path: path.stem)
async def test_every_shipped_workflow_runs_as_it_is(path: Path) -> None:
    graph: Graph = json.loads(await asyncio.to_thread(path.read_text))
    async with Simulator(Options()) as simulator, aiohttp.ClientSession() as session:
        comfyui = Comfy(simulator.url, session, simulated=True)
        for node in graph.values():
            if node["class_type"] in ("LoadImage", "LoadImageMask"):
                buffer = io.BytesIO()
                Image.new("RGB", (64, 64)).save(buffer, format="PNG")
                await comfyui.upload(node["inputs"]["image"], buffer.getvalue())
        entry = await comfyui.entry(await comfyui.submit(graph))
        assert entry["status"]["status_str"] == "success"
        assert entry["outputs"]
