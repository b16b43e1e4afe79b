"""Pictures become other pictures as wished, or it is said why not; nothing is decoded before it was measured."""

import io
import struct
import zlib
from typing import Any

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from comfy_shared.output_options import OutputOptions, PictureFormat
from comfy_shared.pictures import Converted, Unconvertible, convert, thumbnail

LIMIT = 1_000_000


def saved(image: Image.Image, kind: str = "PNG", **options: Any) -> io.BytesIO:
    data = io.BytesIO()
    image.save(data, kind, **options)
    return data


def noise(width: int = 120, height: int = 80) -> Image.Image:
    return Image.effect_noise((width, height), 80).convert("RGB")


def opened(made: Converted | None) -> Image.Image:
    assert made is not None
    return Image.open(io.BytesIO(made.data))


def converted(file: io.BytesIO, **options: Any) -> Converted | None:
    return convert(file, OutputOptions(**options), pixel_limit=LIMIT)


@pytest.mark.parametrize("target", list(PictureFormat))
@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16"])
def test_every_mode_goes_into_every_format(mode: str, target: PictureFormat) -> None:
    image = noise().convert(mode) if mode != "I;16" else Image.new("I;16", (120, 80), 32768)
    kind = "TIFF" if mode == "CMYK" else "PNG"
    made = converted(saved(image, kind), format=target, max_size=60)
    found = opened(made)
    assert (found.format, found.size) == (target.value.upper(), (60, 40))
    assert made is not None
    assert made.content_type == f"image/{target.value}"


def test_quality_makes_it_smaller() -> None:
    low, high = (converted(saved(noise()), format=PictureFormat.WEBP, quality=quality) for quality in (10, 95))
    assert low is not None
    assert high is not None
    assert len(low.data) < len(high.data) / 2


def test_the_longest_side_counts_and_nothing_grows() -> None:
    assert opened(converted(saved(noise(100, 400)), max_size=100)).size == (25, 100)
    assert opened(converted(saved(noise()), format=PictureFormat.JPEG, max_size=4000)).size == (120, 80)


def test_a_picture_that_would_be_no_other_stays() -> None:
    assert converted(saved(noise()), format=PictureFormat.PNG) is None
    assert converted(saved(noise()), max_size=120) is None
    assert converted(saved(noise(), "JPEG"), format=PictureFormat.JPEG) is None
    assert converted(saved(noise(), "JPEG"), format=PictureFormat.JPEG, quality=20) is not None


def test_a_format_that_is_none_of_ours_becomes_png_when_it_is_made_smaller() -> None:
    assert opened(converted(saved(noise(), "BMP"), max_size=10)).format == "PNG"


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_an_animation_stays_and_its_thumbnail_is_the_first_picture(kind: str) -> None:
    first, second = Image.new("RGB", (64, 64), (255, 0, 0)), Image.new("RGB", (64, 64), (0, 0, 255))
    file = saved(first, kind, save_all=True, append_images=[second])
    assert converted(file, format=PictureFormat.JPEG) is None
    small = opened(thumbnail(file, 32, PictureFormat.PNG, pixel_limit=LIMIT)).convert("RGB")
    red, _, blue = small.getpixel((5, 5))  # type: ignore[misc]  # a pixel of three
    assert (small.size, red > 200, blue < 50) == ((32, 32), True, True)


def test_transparency_is_kept_or_becomes_white() -> None:
    clear = Image.new("RGBA", (20, 20), (255, 0, 0, 0))
    assert opened(converted(saved(clear), format=PictureFormat.WEBP)).convert("RGBA").getpixel((3, 3))[3] == 0  # type: ignore[index]
    assert opened(converted(saved(clear), format=PictureFormat.JPEG)).getpixel((3, 3)) == (255, 255, 255)
    marked = saved(Image.new("RGB", (20, 20), (1, 2, 3)), transparency=(1, 2, 3))
    assert opened(converted(marked, max_size=16)).convert("RGBA").getpixel((3, 3))[3] == 0  # type: ignore[index]


def test_sixteen_bits_keep_their_brightness() -> None:
    small = opened(converted(saved(Image.new("I;16", (40, 40), 128 * 256)), format=PictureFormat.JPEG))
    value = small.convert("L").getpixel((5, 5))
    assert isinstance(value, int)
    assert abs(value - 128) < 3


def test_texts_and_exif_do_not_come_along_but_the_turn_does() -> None:
    info = PngInfo()
    info.add_text("prompt", "SECRET-GRAPH")
    made = converted(saved(noise(), pnginfo=info), format=PictureFormat.WEBP)
    assert made is not None
    assert b"SECRET" not in made.data
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "SECRET-GRAPH"  # turned by 90 degrees
    turned = converted(saved(noise(), "JPEG", exif=exif), format=PictureFormat.WEBP)
    assert opened(turned).size == (80, 120)
    assert turned is not None
    assert b"SECRET" not in turned.data


def test_pixels_are_counted_before_anything_is_decoded() -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    bomb = io.BytesIO(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")))
    with pytest.raises(Unconvertible, match="more than 1000000 pixels"):
        converted(bomb, format=PictureFormat.JPEG)
    with pytest.raises(Unconvertible, match="pixels"):
        thumbnail(bomb, 64, PictureFormat.PNG, pixel_limit=LIMIT)


@pytest.mark.parametrize("data", [b"", b"x" * 100, b"<svg/>", saved(noise()).getvalue()[:2000], b"%!PS-Adobe-3.0\n"])
def test_what_is_no_whole_picture_is_said_to_be_none(data: bytes) -> None:
    with pytest.raises(Unconvertible):
        converted(io.BytesIO(data), format=PictureFormat.JPEG)
    with pytest.raises(Unconvertible):
        thumbnail(io.BytesIO(data), 64, PictureFormat.PNG, pixel_limit=LIMIT)


def test_what_a_format_cannot_hold_is_said() -> None:
    with pytest.raises(Unconvertible, match="cannot be written"):
        converted(saved(Image.new("L", (17000, 2))), format=PictureFormat.WEBP)
