"""The texts leave a PNG, the pixels stay, whatever the pieces it comes in."""

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from comfy_service.stripping import PngStripper


def picture(**texts: str) -> bytes:
    info = PngInfo()
    for name, text in texts.items():
        info.add_text(name, text, zip=name == "zipped")
    info.add_itxt("international", "grüße")
    info.add(b"comf", b"prompt\0{}", after_idat=True)
    data = io.BytesIO()
    image = Image.effect_noise((40, 30), 60)
    exif = Image.Exif()
    exif[0x010E] = "prompt:{}"
    image.save(data, "PNG", pnginfo=info, exif=exif)
    return data.getvalue()


def stripped(data: bytes, size: int) -> bytes:
    stripper = PngStripper()
    pieces = [stripper.feed(data[start : start + size]) for start in range(0, len(data), size)]
    return b"".join(pieces) + stripper.rest()


GRAPH = picture(prompt='{"1": {"class_type": "KSampler"}}', workflow="x" * 5000, zipped="y" * 500)


@pytest.mark.parametrize("size", [1, 7, 8, 64, 1000, 10**6])
def test_texts_go_and_pixels_stay(size: int) -> None:
    data = stripped(GRAPH, size)
    for word in (b"KSampler", b"tEXt", b"zTXt", b"iTXt", b"comf", b"eXIf", b"prompt"):
        assert word in GRAPH or word == b"zTXt"
        assert word not in data
    before, after = Image.open(io.BytesIO(GRAPH)), Image.open(io.BytesIO(data))
    assert after.info == {}
    assert after.tobytes() == before.tobytes()
    assert data == stripped(GRAPH, 3)


@given(st.binary(max_size=200), st.integers(1, 50))
def test_what_is_no_png_passes_as_it_is(data: bytes, size: int) -> None:
    assert stripped(data, size) == data


@given(st.integers(0, len(GRAPH)), st.integers(1, 3000))
def test_a_file_that_breaks_off_loses_nothing_but_texts(end: int, size: int) -> None:
    assert stripped(GRAPH, 10**6).startswith(stripped(GRAPH[:end], size)[:8])
    assert stripped(GRAPH[:8], size) == GRAPH[:8]
