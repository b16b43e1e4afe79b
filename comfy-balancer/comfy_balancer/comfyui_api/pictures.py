"""What /view and /upload/mask do to pictures: smaller previews, single channels, a mask as alpha. Runs in threads."""

import io

from PIL import Image, UnidentifiedImageError
from PIL.PngImagePlugin import PngInfo

from comfy_balancer.uploads import PICTURES
from comfy_shared.errors import TooLarge
from comfy_shared.http.problems import invalid

PREVIEWS = {"webp": "WEBP", "jpeg": "JPEG"}
CHANNELS = ("rgba", "rgb", "a")


def _opened(data: bytes, pixel_limit: int) -> Image.Image:
    """Raises InvalidTask when it is no picture, TooLarge when it has too many pixels; both before anything decodes."""
    try:
        picture = Image.open(io.BytesIO(data), formats=tuple(PICTURES))
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError) as error:
        raise invalid("filename", "is no picture") from error
    if picture.width * picture.height > pixel_limit:
        raise TooLarge(f"The picture has more than {pixel_limit} pixels.")
    return picture


def preview(data: bytes, wish: str, pixel_limit: int) -> tuple[bytes, str]:
    """The picture as `webp;QUALITY` or `jpeg;QUALITY`, and its media type. Another format is webp, as in ComfyUI."""
    name, _, quality = wish.partition(";")
    name = name if name in PREVIEWS else "webp"
    best = min(100, max(1, int(quality))) if quality.isdecimal() and len(quality) < 4 else 90
    picture = _opened(data, pixel_limit)
    if name == "jpeg" or picture.mode not in ("RGB", "RGBA"):
        picture = picture.convert("RGB" if name == "jpeg" else "RGBA")
    return _written(picture, PREVIEWS[name], quality=best), f"image/{name}"


def channel(data: bytes, wish: str, pixel_limit: int) -> bytes:
    """The picture without its alpha (`rgb`), or its alpha alone (`a`), as PNG."""
    picture = _opened(data, pixel_limit)
    if wish == "rgb":
        return _written(picture.convert("RGB"), "PNG")
    alone = Image.new("RGBA", picture.size)
    alone.putalpha(picture.convert("RGBA").getchannel("A"))
    return _written(alone, "PNG")


def masked(original: bytes, mask: bytes, pixel_limit: int) -> bytes:
    """The original with the mask's alpha, as PNG; what the original's PNG says of itself is kept."""
    picture, alpha = _opened(original, pixel_limit), _opened(mask, pixel_limit)
    told = PngInfo()
    for key, value in getattr(picture, "text", {}).items():
        told.add_text(key, value)
    result = picture.convert("RGBA")
    result.putalpha(alpha.convert("RGBA").getchannel("A").resize(result.size))
    return _written(result, "PNG", pnginfo=told, compress_level=4)


def _written(picture: Image.Image, kind: str, **options: object) -> bytes:
    data = io.BytesIO()
    try:
        picture.save(data, kind, **options)
    except (OSError, ValueError, SyntaxError) as error:  # Pillow decodes only now
        raise invalid("filename", "is a damaged picture") from error
    return data.getvalue()
