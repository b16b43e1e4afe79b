"""The nodes that load and use models, pretended: names instead of weights, pauses instead of work.

What flows through the wires are small values that say how they came to be; a sampler folds everything that would
influence its image into one key, and the decoder paints that key. So the same graph gives the same image and any
change gives another one. Unrealistic: conditioning, LoRA strengths and the like change the picture but nothing else;
CLIP and VAE loaders take no time.
"""

import hashlib
from typing import Any

import msgspec

from test.simulator import pictures
from test.simulator.node import Call, Result, node
from test.simulator.pictures import Batch


class Model(msgspec.Struct, frozen=True):
    """A diffusion model, text encoder or VAE, by name, with what was done to it."""

    name: str  # the file it came from
    changes: tuple[str, ...] = ()  # LoRAs and settings, in order

    def changed(self, *what: object) -> "Model":
        return Model(self.name, (*self.changes, "/".join(map(str, what))))


class Conditioning(msgspec.Struct, frozen=True):
    """A text as a sampler sees it."""

    text: str
    changes: tuple[str, ...] = ()


class Latent(msgspec.Struct, frozen=True):
    """A batch of images before decoding."""

    width: int  # pixels
    height: int  # pixels
    batch: int  # images
    key: str  # decides how they will look


def _digest(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()


@node("CheckpointLoaderSimple", "ImageOnlyCheckpointLoader")
async def checkpoint_loader(call: Call) -> Result:
    await call.machine.load(call["ckpt_name"])
    model = Model(call["ckpt_name"])
    return Result(model, model, model)


@node("UNETLoader")
async def unet_loader(call: Call) -> Result:
    await call.machine.load(call["unet_name"])
    return Result(Model(call["unet_name"], (call["weight_dtype"],)))


@node("CLIPLoader")
def clip_loader(call: Call) -> Result:
    return Result(Model(call["clip_name"], (call["type"],)))


@node("DualCLIPLoader")
def dual_clip_loader(call: Call) -> Result:
    return Result(Model(call["clip_name1"], (call["clip_name2"], call["type"])))


@node("VAELoader")
def vae_loader(call: Call) -> Result:
    return Result(Model(call["vae_name"]))


@node("LoraLoader", "LoraLoaderModelOnly")
def lora_loader(call: Call) -> Result:
    model = call["model"].changed("lora", call["lora_name"], call["strength_model"])
    if "clip" not in call.inputs:
        return Result(model)
    return Result(model, call["clip"].changed("lora", call["lora_name"], call["strength_clip"]))


@node("CLIPSetLastLayer")
def clip_set_last_layer(call: Call) -> Result:
    return Result(call["clip"].changed("layer", call["stop_at_clip_layer"]))


@node("VideoLinearCFGGuidance")
def video_linear_cfg(call: Call) -> Result:
    return Result(call["model"].changed("min_cfg", call["min_cfg"]))


@node("CLIPTextEncode")
def clip_text_encode(call: Call) -> Result:
    return Result(Conditioning(call["text"], (call["clip"].name, *call["clip"].changes)))


@node("CLIPTextEncodeSDXL")
def clip_text_encode_sdxl(call: Call) -> Result:
    rest = [f"{name}={value}" for name, value in sorted(call.inputs.items()) if name not in ("clip", "text_g")]
    return Result(Conditioning(call["text_g"], (call["clip"].name, *call["clip"].changes, *rest)))


@node("FluxGuidance")
def flux_guidance(call: Call) -> Result:
    old: Conditioning = call["conditioning"]
    return Result(Conditioning(old.text, (*old.changes, f"guidance={call['guidance']}")))


@node("ConditioningZeroOut")
def conditioning_zero_out(call: Call) -> Result:
    return Result(Conditioning("", ("zero",)))


@node("EmptyLatentImage", "EmptySD3LatentImage")
def empty_latent_image(call: Call) -> Result:
    return Result(Latent(call["width"] // 8 * 8, call["height"] // 8 * 8, call["batch_size"], "empty"))


@node("LatentUpscale")
def latent_upscale(call: Call) -> Result:
    old: Latent = call["samples"]
    width, height = call["width"], call["height"]
    if not width and not height:
        return Result(old)
    width = width or max(64, round(old.width * height / old.height))
    height = height or max(64, round(old.height * width / old.width))
    return Result(Latent(width // 8 * 8, height // 8 * 8, old.batch, _digest(old.key, width, height)))


@node("LatentUpscaleBy")
def latent_upscale_by(call: Call) -> Result:
    old: Latent = call["samples"]
    width, height = (round(side / 8 * call["scale_by"]) * 8 for side in (old.width, old.height))
    return Result(Latent(width, height, old.batch, _digest(old.key, width, height)))


@node("SetLatentNoiseMask")
def set_latent_noise_mask(call: Call) -> Result:
    old: Latent = call["samples"]
    return Result(Latent(old.width, old.height, old.batch, _digest(old.key, _batch_key(call["mask"]))))


def _batch_key(batch: Batch) -> str:
    return _digest(*(each.png() for each in batch))


@node("VAEEncode", "VAEEncodeForInpaint")
async def vae_encode(call: Call) -> Result:
    await call.machine.pause(call.options.decode_seconds)
    image = call["pixels"][0].image
    key = _digest(_batch_key(call["pixels"]), _batch_key(call["mask"]) if "mask" in call.inputs else "")
    return Result(Latent(image.width // 8 * 8, image.height // 8 * 8, len(call["pixels"]), key))


@node("SVD_img2vid_Conditioning")
def svd_conditioning(call: Call) -> Result:
    key = _digest(_batch_key(call["init_image"]), call["motion_bucket_id"], call["augmentation_level"])
    condition = Conditioning(key)
    return Result(condition, condition, Latent(call["width"], call["height"], call["video_frames"], key))


_NOT_IN_KEY = ("model", "latent_image", "positive", "negative")


@node("KSampler", "KSamplerAdvanced")
async def sample(call: Call) -> Result:
    latent: Latent = call["latent_image"]
    model: Model = call["model"]
    call.machine.reserve(latent.width, latent.height, latent.batch)
    await call.machine.need(model.name)
    settings: list[Any] = sorted((name, value) for name, value in call.inputs.items() if name not in _NOT_IN_KEY)
    key = _digest(model, latent.key, call["positive"], call["negative"], settings)
    first = call.inputs.get("start_at_step", 0)
    last = min(call["steps"], call.inputs.get("end_at_step", call["steps"]))
    steps = max(0, last - first)
    for step in range(1, steps + 1):
        await call.machine.pause(call.options.step_seconds)
        preview = None
        if call.options.preview_method != "none":
            preview = ("JPEG", pictures.imagine(f"{key}/{step}", latent.width // 8, latent.height // 8))
        call.progress(step, steps, preview)
    return Result(Latent(latent.width, latent.height, latent.batch, key))


@node("VAEDecode")
async def vae_decode(call: Call) -> Result:
    await call.machine.pause(call.options.decode_seconds)
    latent: Latent = call["samples"]
    return Result(
        tuple(pictures.imagine(f"{latent.key}/{index}", latent.width, latent.height) for index in range(latent.batch))
    )
