"""Images as the nodes hand them on: a batch is a tuple of `Picture`, each a Pillow image that remembers its PNG bytes.

Encoding is the dearest part of a small prompt, so an image is encoded once and the text chunks (prompt, workflow) are
spliced in. `imagine` makes the picture that a diffusion model would have: two colours and a direction taken from a
digest, so the same seed and text always give the same bytes.
"""

import functools
import hashlib
import io
import struct
import zlib
from typing import Any

from PIL import Image, ImageOps

_HEADER_END = 33  # 8 bytes of signature and the 25 bytes of the IHDR chunk

RESAMPLING = {
    "nearest-exact": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "area": Image.Resampling.BOX,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
    "bislerp": Image.Resampling.BILINEAR,
}


class Picture:
    """One image; immutable by convention."""

    __slots__ = ("_png", "image")

    def __init__(self, image: Image.Image) -> None:
        self.image = image
        self._png: bytes | None = None

    def png(self, texts: dict[str, str] | None = None) -> bytes:
        """The PNG file, with one tEXt chunk per entry of `texts` (which must be Latin-1)."""
        if self._png is None:
            buffer = io.BytesIO()
            self.image.save(buffer, format="PNG", compress_level=4)
            self._png = buffer.getvalue()
        if not texts:
            return self._png
        chunks = b"".join(_text_chunk(key, value) for key, value in texts.items())
        return self._png[:_HEADER_END] + chunks + self._png[_HEADER_END:]

    def jpeg(self, quality: int = 95) -> bytes:
        """The JPEG file."""
        buffer = io.BytesIO()
        self.image.convert("RGB").save(buffer, format="JPEG", quality=quality)
        return buffer.getvalue()

    def __repr__(self) -> str:
        bands = len(self.image.getbands())
        return f"tensor(simulated, shape=(1, {self.image.height}, {self.image.width}, {bands}))"


Batch = tuple[Picture, ...]


def _text_chunk(key: str, value: str) -> bytes:
    body = b"tEXt" + key.encode("latin-1", "replace") + b"\0" + value.encode("latin-1", "replace")
    return struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))


@functools.lru_cache(maxsize=64)
def plain(width: int, height: int, colour: int, mode: str = "RGB") -> Picture:
    """One colour, given as 0xRRGGBB (or 0 to 255 for mode L)."""
    fill: Any = colour if mode == "L" else (colour >> 16 & 255, colour >> 8 & 255, colour & 255)
    return Picture(Image.new(mode, (width, height), fill))


def scale(picture: Picture, width: int, height: int, method: str, crop: str = "disabled") -> Picture:
    """Resize; a side of 0 follows the other in proportion, both 0 change nothing; crop `center` keeps the aspect
    ratio.
    """
    image = picture.image
    if width == 0 and height == 0:
        return picture
    width = width or max(1, round(image.width * height / image.height))
    height = height or max(1, round(image.height * width / image.width))
    if crop == "center":
        return Picture(ImageOps.fit(image, (width, height), RESAMPLING[method]))
    return Picture(image.resize((width, height), RESAMPLING[method]))


def imagine(key: str, width: int, height: int) -> Picture:
    """A gradient between two colours, all decided by `key`."""
    digest = hashlib.sha256(key.encode()).digest()
    ramp = Image.linear_gradient("L").rotate(90 * (digest[6] % 4)).resize((width, height))
    first, second = (digest[0], digest[1], digest[2]), (digest[3], digest[4], digest[5])
    return Picture(ImageOps.colorize(ramp, first, second))


def animation(pictures: Batch, fps: float, lossless: bool, quality: int) -> bytes:
    """An animated WEBP of the pictures."""
    buffer = io.BytesIO()
    first, *others = [picture.image.convert("RGB") for picture in pictures]
    first.save(
        buffer,
        format="WEBP",
        save_all=True,
        append_images=others,
        duration=int(1000 / fps),
        lossless=lossless,
        quality=quality,
        method=0,
    )
    return buffer.getvalue()
