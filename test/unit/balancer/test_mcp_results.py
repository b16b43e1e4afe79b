"""Pictures that are made to fit into a tool's result."""

import io

import pytest
from PIL import Image

from comfy_balancer.mcp_api.results import smaller_picture, text


def png(mode: str, width: int, height: int) -> bytes:
    made = io.BytesIO()
    noise = Image.effect_noise((width, height), 120)
    picture = noise.convert(mode)
    if mode == "RGBA":
        picture.putalpha(100)
    picture.save(made, "PNG")
    return made.getvalue()


@pytest.mark.parametrize(("mode", "most"), [("RGB", 600_000), ("RGB", 20_000), ("RGBA", 20_000), ("L", 5_000)])
def test_a_picture_is_halved_until_it_fits(mode: str, most: int) -> None:
    data = smaller_picture(png(mode, 700, 500), most)
    assert data is not None
    assert len(data) <= most
    with Image.open(io.BytesIO(data)) as shown:
        assert shown.format == "WEBP"
        assert shown.width / shown.height == pytest.approx(1.4, rel=0.05)
        assert ("A" in shown.getbands()) is (mode == "RGBA")


def test_one_that_fits_keeps_its_size() -> None:
    with Image.open(io.BytesIO(smaller_picture(png("RGB", 64, 64), 600_000) or b"")) as shown:
        assert shown.size == (64, 64)


@pytest.mark.parametrize("data", [b"", b"text", png("RGB", 9, 9)[:60]])
def test_what_is_no_picture_is_not_shown(data: bytes) -> None:
    assert smaller_picture(data, 1000) is None


def test_nothing_fits_into_nothing() -> None:
    assert smaller_picture(png("RGB", 64, 64), 1) is None


def test_a_text_can_always_be_sent() -> None:
    assert text("a\ud800b").text == "a?b"
