"""The graphs inside pictures, as ComfyUI's own nodes write them; hostile pictures are refused."""

import io
import json
import struct
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

from comfy_shared.workflows import pictures
from comfy_shared.workflows.pictures import Graphs, PictureError, read_picture

WORKFLOW = {"nodes": [{"id": 1, "type": "Save", "title": "Bär"}], "links": []}
PROMPT = {"1": {"class_type": "Save", "inputs": {"text": "ein Bär"}}}
BOTH = Graphs(workflow=WORKFLOW, prompt=PROMPT)


def png(**texts: str) -> bytes:
    """As SaveImage does."""
    info = PngImagePlugin.PngInfo()
    for key, text in texts.items():
        info.add_text(key, text)
    target = io.BytesIO()
    Image.new("RGB", (4, 4)).save(target, "PNG", pnginfo=info)
    return target.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def with_chunk(kind: bytes, data: bytes) -> bytes:
    plain = png()
    return plain[:33] + chunk(kind, data) + plain[33:]


def webp(*, tags: dict[int, bytes] | None = None) -> bytes:
    """As SaveAnimatedWEBP does: texts in the EXIF tags from Model downwards."""
    image = Image.new("RGB", (4, 4))
    exif = image.getexif()
    texts = {0x0110: b"prompt:" + json.dumps(PROMPT).encode(), 0x010F: b"workflow:" + json.dumps(WORKFLOW).encode()}
    for tag, text in (texts if tags is None else tags).items():
        exif[tag] = text
    target = io.BytesIO()
    image.save(target, "WEBP", exif=exif)
    return target.getvalue()


def test_a_png_carries_both_graphs_in_text_chunks() -> None:
    assert read_picture(png(workflow=json.dumps(WORKFLOW), prompt=json.dumps(PROMPT))) == BOTH


def test_a_png_with_one_graph_gives_that_one() -> None:
    assert read_picture(png(prompt=json.dumps(PROMPT))) == Graphs(workflow=None, prompt=PROMPT)


@pytest.mark.parametrize("ascii_only", [True, False])
def test_a_webp_carries_both_graphs_in_its_exif(ascii_only: bool) -> None:
    """Other tools write UTF-8 there."""
    texts = {0x0110: ("prompt:" + json.dumps(PROMPT, ensure_ascii=ascii_only)).encode()}
    assert read_picture(webp(tags=texts)) == Graphs(workflow=None, prompt=PROMPT)
    assert read_picture(webp()) == BOTH


def test_compressed_and_international_text_chunks_are_read() -> None:
    text = json.dumps(WORKFLOW, ensure_ascii=False).encode()
    wanted = Graphs(workflow=WORKFLOW, prompt=None)
    assert read_picture(with_chunk(b"zTXt", b"workflow\0\0" + zlib.compress(text))) == wanted
    assert read_picture(with_chunk(b"iTXt", b"workflow\0\1\0de\0Ablauf\0" + zlib.compress(text))) == wanted
    assert read_picture(with_chunk(b"iTXt", b"workflow\0\0\0\0\0" + text)) == wanted


def test_a_nan_that_python_wrote_is_read_as_null() -> None:
    """ComfyUI writes is_changed: [NaN] of nodes that always run."""
    assert read_picture(png(prompt='{"1": {"is_changed": [NaN]}}')).prompt == {"1": {"is_changed": [None]}}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "neither a PNG nor a WebP"),
        (b"GIF89a", "neither a PNG nor a WebP"),
        (png(), "carries no graph"),
        (webp(tags={}), "carries no graph"),
        (png(workflow="{"), "is not JSON"),
        (png(workflow="[]"), "is not an object"),
        (png(workflow="[" * 100_000), "is not JSON"),
        (png(prompt='{"a": ' + "9" * 5000 + "}"), "is not JSON"),
        (png(workflow="{}" * 10)[:60], "cut off"),
        (with_chunk(b"zTXt", b"workflow\0\0garbage"), "damaged"),
        (b"RIFF\x20\0\0\0WEBPEXIF\4\0\0\0abcd", "EXIF is damaged"),
    ],
)
def test_a_picture_without_a_readable_graph_is_refused(data: bytes, message: str) -> None:
    with pytest.raises(PictureError, match=message):
        read_picture(data)


def test_a_text_that_unpacks_beyond_the_limit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A few kilobytes can unpack to gigabytes; no more than the limit is ever unpacked."""
    monkeypatch.setattr(pictures, "LONGEST", 1000)
    with pytest.raises(PictureError, match="more than 1000 bytes"):
        read_picture(with_chunk(b"zTXt", b"workflow\0\0" + zlib.compress(b" " * 100_000)))
    with pytest.raises(PictureError, match="more than 1000 bytes"):
        read_picture(png(workflow=" " * 2000))


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_a_damaged_picture_gives_graphs_or_its_error(data: st.DataObject) -> None:
    """Bytes overwritten and cut at random."""
    picture = bytearray(data.draw(st.sampled_from([webp(), png(workflow=json.dumps(WORKFLOW))])))
    for _ in range(data.draw(st.integers(1, 10))):
        picture[data.draw(st.integers(0, len(picture) - 1))] = data.draw(st.integers(0, 255))
    try:
        read_picture(bytes(picture[: data.draw(st.integers(0, len(picture)))]))
    except PictureError:
        return
