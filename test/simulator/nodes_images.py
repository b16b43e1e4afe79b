"""The nodes that need no model, run for real with Pillow, and our lab nodes (see test/contract/lab_nodes.py).

Unrealistic: 8 bits a channel where ComfyUI computes in floats, and Pillow's filters instead of torch's: sizes and
formats agree with the real ones, pixel values only nearly.
"""

import hashlib
import json
import random
from pathlib import Path
from typing import Any

from PIL import Image, ImageChops, ImageFilter, ImageOps, ImageSequence

from test.simulator import pictures
from test.simulator.machine import OutOfMemoryError
from test.simulator.node import Call, Result, node
from test.simulator.pictures import Batch, Picture, plain
from test.simulator.video import motion_jpeg

_TEMP_PREFIX = "ComfyUI_temp_" + "".join(random.choice("abcdefghijklmnopqrstupvxyz") for _ in range(5))


@node("EmptyImage")
def empty_image(call: Call) -> Result:
    return Result((plain(call["width"], call["height"], call["color"]),) * call["batch_size"])


@node("LoadImage")
def load_image(call: Call) -> Result:
    images: list[Picture] = []
    masks: list[Picture] = []
    with Image.open(call.folders.locate(call["image"])) as file:
        for frame in ImageSequence.Iterator(file):
            upright = ImageOps.exif_transpose(frame)
            picture = Picture(upright.convert("RGB"))
            if images and picture.image.size != images[0].image.size:
                continue
            images.append(picture)
            has_alpha = "A" in upright.getbands() or (upright.mode == "P" and "transparency" in upright.info)
            alpha = upright.convert("RGBA").getchannel("A") if has_alpha else None
            masks.append(plain(64, 64, 0, "L") if alpha is None else Picture(ImageChops.invert(alpha)))
    return Result(tuple(images), tuple(masks))


@node("LoadImageMask")
def load_image_mask(call: Call) -> Result:
    with Image.open(call.folders.locate(call["image"])) as file:
        band = ImageOps.exif_transpose(file).convert("RGBA").getchannel(call["channel"][0].upper())
    return Result((Picture(ImageChops.invert(band) if call["channel"] == "alpha" else band),))


def _each(images: Batch, change: Any) -> Result:
    return Result(tuple(change(picture) for picture in images))


@node("ImageScale")
def image_scale(call: Call) -> Result:
    size = call["width"], call["height"]
    return _each(call["image"], lambda each: pictures.scale(each, *size, call["upscale_method"], call["crop"]))


@node("ImageScaleBy")
def image_scale_by(call: Call) -> Result:
    def change(each: Picture) -> Picture:
        width, height = (round(side * call["scale_by"]) for side in each.image.size)
        return pictures.scale(each, width, height, call["upscale_method"])

    return _each(call["image"], change)


@node("ImageBlur")
def image_blur(call: Call) -> Result:
    blur = ImageFilter.GaussianBlur(call["sigma"])
    return _each(call["image"], lambda each: Picture(each.image.filter(blur)))


@node("ImageInvert", "InvertMask")
def image_invert(call: Call) -> Result:
    return _each(next(iter(call.inputs.values())), lambda each: Picture(ImageChops.invert(each.image)))


@node("ImageBatch")
def image_batch(call: Call) -> Result:
    width, height = call["image1"][0].image.size
    others = (pictures.scale(each, width, height, "bilinear", "center") for each in call["image2"])
    return Result((*call["image1"], *others))


@node("ImageCrop")
def image_crop(call: Call) -> Result:
    def change(each: Picture) -> Picture:
        left, top = min(call["x"], each.image.width - 1), min(call["y"], each.image.height - 1)
        right, bottom = min(left + call["width"], each.image.width), min(top + call["height"], each.image.height)
        return Picture(each.image.crop((left, top, right, bottom)))

    return _each(call["image"], change)


@node("SolidMask")
def solid_mask(call: Call) -> Result:
    return Result((plain(call["width"], call["height"], round(call["value"] * 255), "L"),))


@node("MaskToImage")
def mask_to_image(call: Call) -> Result:
    return _each(call["mask"], lambda each: Picture(each.image.convert("RGB")))


@node("ImageToMask")
def image_to_mask(call: Call) -> Result:
    band = call["channel"][0].upper()

    def change(each: Picture) -> Picture:
        return (
            Picture(each.image.getchannel(band)) if band in each.image.getbands() else plain(*each.image.size, 255, "L")
        )

    return _each(call["image"], change)


def _texts(call: Call) -> dict[str, str]:
    """The text chunks of a saved image: the prompt, and each key of extra_pnginfo."""
    texts = {"prompt": json.dumps(call.prompt)}
    for key, value in (call.extra_data.get("extra_pnginfo") or {}).items():
        texts[key] = json.dumps(value)
    return texts


def _write(call: Call, prefix: str, suffix: str, size: tuple[int, int], data: bytes, temp: bool = False) -> Any:
    folder, kind = (call.folders.temp, "temp") if temp else (call.folders.output, "output")
    path, name, subfolder = call.folders.next_name(prefix, folder, suffix, size)
    path.write_bytes(data)
    if call.machine.use_up("lose_output"):
        path.unlink()
    return {"filename": name, "subfolder": subfolder, "type": kind}


@node("SaveImage", "PreviewImage")
def save_image(call: Call) -> Result:
    temp = "filename_prefix" not in call.inputs
    prefix = _TEMP_PREFIX if temp else call["filename_prefix"]
    size = call["images"][0].image.size
    texts = _texts(call)
    saved = []
    for index, picture in enumerate(call["images"]):
        numbered = prefix.replace("%batch_num%", str(index))
        saved.append(_write(call, numbered, ".png", size, picture.png(texts), temp))
    return Result(ui={"images": saved})


@node("SaveAnimatedWEBP")
def save_animated_webp(call: Call) -> Result:
    data = pictures.animation(call["images"], call["fps"], call["lossless"], call["quality"])
    saved = _write(call, call["filename_prefix"], ".webp", call["images"][0].image.size, data)
    return Result(ui={"images": [saved], "animated": [len(call["images"]) != 1]})


@node("CreateVideo")
def create_video(call: Call) -> Result:
    return Result((call["images"], call["fps"]))


@node("SaveVideo")
def save_video(call: Call) -> Result:
    """An MP4 file with one JPEG per frame: valid, but not the H.264 that ComfyUI writes."""
    images, fps = call["video"]
    data = motion_jpeg([each.jpeg(80) for each in images], images[0].image.size, fps)
    saved = _write(call, call["filename_prefix"], ".mp4", images[0].image.size, data)
    return Result(ui={"images": [saved], "animated": [True]})


@node("SaveImageWebsocket")
def save_image_websocket(call: Call) -> Result:
    images: Batch = call["images"]
    for index, picture in enumerate(images):
        call.progress(index, len(images), ("PNG", picture))
    return Result()


@node("PreviewAny")
def preview_any(call: Call) -> Result:
    source = call["source"]
    if isinstance(source, dict | list):
        return Result(ui={"text": [json.dumps(source)]})
    return Result(ui={"text": [str(source)]})


@node("SlowProgress")
async def slow_progress(call: Call) -> Result:
    steps = call["steps"]
    for step in range(1, steps + 1):
        call.machine.check()
        await call.machine.pause(call["ms_per_step"] / 1000)
        preview = plain(32, 32, (255 * step // steps) << 16 | 64 << 8 | 128) if call.inputs.get("preview") else None
        call.progress(step, steps, ("JPEG", preview) if preview else None)
    return Result(call["image"])


@node("Fail")
def fail(call: Call) -> Result:
    raise ValueError(call["message"])


@node("LabOutOfMemory")
def lab_out_of_memory(call: Call) -> Result:
    raise OutOfMemoryError("Allocation on device ")


@node("TextOut")
def text_out(call: Call) -> Result:
    call.text(call["text"])
    return Result(ui={"text": [call["text"]]})


def content_fingerprint(path: Path) -> Any:
    """What the cache key of a loading node depends on: the file's content; a missing file equals nothing."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return object()
