"""Making pictures of pictures: converted, smaller, small. Blocking work for a thread; pixels are counted before they
are decoded, and nothing but known picture formats is opened.
"""

import io
from typing import Any, BinaryIO

import msgspec
from PIL import Image, ImageOps

from comfy_shared.output_options import OutputOptions, PictureFormat

# The limit of ours is checked before anything decodes; Pillow's own would only be a second, lower one.
Image.MAX_IMAGE_PIXELS = None

READABLE = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")
EXTENSIONS = {
    PictureFormat.PNG: ".png",
    PictureFormat.JPEG: ".jpg",
    PictureFormat.WEBP: ".webp",
    PictureFormat.AVIF: ".avif",
}
QUALITY = {PictureFormat.JPEG: 85, PictureFormat.WEBP: 85, PictureFormat.AVIF: 60}
OPAQUE = (255, 255, 255)  # what shows through where a format has no transparency


class Unconvertible(Exception):
    """A picture that cannot be converted; the text says why."""


class Converted(msgspec.Struct, frozen=True, kw_only=True):
    """A new picture."""

    data: bytes
    extension: str  # with the dot
    content_type: str


def convert(file: BinaryIO, options: OutputOptions, *, pixel_limit: int) -> Converted | None:
    """The picture as wished; None when it is to stay as it is: it is animated, or would be no other.

    Raises:
        Unconvertible: it is no picture, damaged, or has too many pixels.
    """
    with _opened(file, pixel_limit) as picture:
        own = PictureFormat(picture.format.lower()) if picture.format in ("PNG", "JPEG", "WEBP", "AVIF") else None
        target = options.format or own or PictureFormat.PNG
        size = options.max_size or max(picture.size)
        smaller = max(picture.size) > size
        if getattr(picture, "n_frames", 1) > 1 or (target is own and not smaller and options.quality is None):
            return None
        try:
            return _encoded(picture, size if smaller else None, target, options.quality)
        except Exception as error:  # as below; and a format may be unable to hold it
            raise Unconvertible(f"the picture is damaged or cannot be written ({type(error).__name__})") from error


def thumbnail(file: BinaryIO, size: int, target: PictureFormat, *, pixel_limit: int) -> Converted:
    """The picture (of an animation the first) with no side longer than `size` pixels; never enlarged.

    Raises:
        Unconvertible: as `convert`.
    """
    with _opened(file, pixel_limit) as picture:
        try:
            picture.draft("RGB", (size, size))
            return _encoded(picture, size, target, None)
        except Exception as error:
            raise Unconvertible(f"the picture is damaged ({type(error).__name__})") from error


def _opened(file: BinaryIO, pixel_limit: int) -> Image.Image:
    file.seek(0)
    try:
        picture = Image.open(file, formats=READABLE)
    except Exception as error:  # Pillow's readers raise whatever a broken file makes them stumble over
        raise Unconvertible("it is no picture of a known format") from error
    if picture.size[0] * picture.size[1] > pixel_limit:
        raise Unconvertible(f"the picture has more than {pixel_limit} pixels")
    return picture


def _plain(picture: Image.Image) -> Image.Image:
    """In a mode that scales smoothly and that every format takes."""
    if picture.has_transparency_data:
        return picture.convert("RGBA")
    if picture.mode in ("RGB", "L"):
        return picture
    if picture.mode.startswith("I"):  # 16 bits
        return picture.convert("I").point(lambda value: value * (1 / 256)).convert("L")
    return picture.convert("RGB")


def _encoded(picture: Image.Image, size: int | None, target: PictureFormat, quality: int | None) -> Converted:
    options: dict[str, Any] = {"icc_profile": profile} if (profile := picture.info.get("icc_profile")) else {}
    upright = ImageOps.exif_transpose(picture)
    if size or target is not PictureFormat.PNG or upright.mode not in ("1", "LA", "I;16"):
        upright = _plain(upright)
    if size:
        upright.thumbnail((size, size), Image.Resampling.LANCZOS)
    if target is PictureFormat.JPEG and upright.mode == "RGBA":
        ground = Image.new("RGB", upright.size, OPAQUE)
        ground.paste(upright, mask=upright.getchannel("A"))
        upright = ground
    if target in QUALITY:
        options["quality"] = quality or QUALITY[target]
    if target is PictureFormat.AVIF:
        options["speed"] = 8  # 6 is Pillow's; the difference in size is small, that in time is not
    upright.info = {}  # no text, no EXIF: what the new picture shows, not how it came about
    buffer = io.BytesIO()
    upright.save(buffer, target.value.upper(), **options)
    return Converted(data=buffer.getvalue(), extension=EXTENSIONS[target], content_type=f"image/{target.value}")
