"""The graphs inside a picture, as ComfyUI's nodes write them. Pure, and safe with whatever bytes.

PNG: text chunks (tEXt, zTXt, iTXt) `prompt` and `workflow`. WebP: an EXIF chunk whose texts (Make, Model, and the tags
below them) are `prompt:{…}` and `workflow:{…}`. Nothing is decoded but these texts, and of each at most `LONGEST`.
"""

import json
import struct
import zlib
from collections.abc import Generator, Iterator
from typing import Any

import msgspec

LONGEST = 16 * 2**20  # bytes of one text, unpacked
MOST_CHUNKS = 100_000  # of one picture
MOST_TAGS = 512  # of one EXIF directory
PNG, RIFF, WEBP = b"\x89PNG\r\n\x1a\n", b"RIFF", b"WEBP"

_TEXTS = (2, 7)  # EXIF's types for text and for bytes
_INNER, _COMMENT = 0x8769, 0x9286  # the tag of EXIF's inner directory; UserComment, which opens with its encoding


class PictureError(Exception):
    """A picture whose graphs cannot be read, and why."""


class Graphs(msgspec.Struct, frozen=True, kw_only=True):
    """What a picture carries; None for what it does not."""

    workflow: dict[str, Any] | None  # the editor's graph
    prompt: dict[str, Any] | None  # the graph in API format, unchecked


def is_picture(data: bytes) -> bool:
    """Whether the bytes begin as a PNG or WebP picture does."""
    return data.startswith(PNG) or (data.startswith(RIFF) and data[8:12] == WEBP)


def read_picture(data: bytes) -> Graphs:
    """The graphs inside a PNG or WebP picture.

    Raises:
        PictureError: it is neither, it is damaged, or it carries no graph.
    """
    if not is_picture(data):
        raise PictureError("this is neither a PNG nor a WebP picture")
    found: dict[str, dict[str, Any]] = {}
    for key, text in _png(data) if data.startswith(PNG) else _webp(data):
        name = key.strip().lower()
        if name in ("workflow", "prompt") and name not in found:
            found[name] = _graph(name, text)
    if not found:
        raise PictureError("the picture carries no graph: neither workflow nor prompt")
    return Graphs(workflow=found.get("workflow"), prompt=found.get("prompt"))


def _graph(name: str, text: bytes) -> dict[str, Any]:
    try:
        # Python writes NaN, which is no JSON, where a node asked to run always.
        graph = json.loads(text.rstrip(b"\0 \n").decode("utf-8", "replace"), parse_constant=lambda _: None)
    except (ValueError, RecursionError) as error:
        raise PictureError(f"the picture's {name} is not JSON") from error
    if not isinstance(graph, dict):
        raise PictureError(f"the picture's {name} is not an object")
    return graph


def _png(data: bytes) -> Iterator[tuple[str, bytes]]:
    place = len(PNG)
    for _ in range(MOST_CHUNKS):
        if place + 12 > len(data):
            return
        size, kind = int.from_bytes(data[place : place + 4]), data[place + 4 : place + 8]
        if place + 12 + size > len(data):
            raise PictureError("the picture is cut off")
        if kind in (b"tEXt", b"zTXt", b"iTXt"):
            yield from _png_text(kind, data[place + 8 : place + 8 + size])
        place += 12 + size
    raise PictureError(f"the picture has more than {MOST_CHUNKS} chunks")


def _png_text(kind: bytes, chunk: bytes) -> Iterator[tuple[str, bytes]]:
    key, _, rest = chunk.partition(b"\0")
    name = key[:80].decode("latin-1")
    if name.strip().lower() not in ("workflow", "prompt"):
        return
    match kind:
        case b"tEXt":
            yield name, _latin_or_utf8(_short(rest))
        case b"zTXt":
            yield name, _latin_or_utf8(_unpacked(rest[1:]))
        case _:
            packed = rest[:1] == b"\1"
            text = rest[2:].partition(b"\0")[2].partition(b"\0")[2]  # after the language and the translated key
            yield name, _unpacked(text) if packed else _short(text)


def _latin_or_utf8(text: bytes) -> bytes:
    """PNG says Latin-1; JSON's own escapes make both the same, and some tools write UTF-8 all the same."""
    try:
        text.decode("utf-8")
    except UnicodeDecodeError:
        return text.decode("latin-1").encode()
    return text


def _short(text: bytes) -> bytes:
    if len(text) > LONGEST:
        raise PictureError(f"a text in the picture has more than {LONGEST} bytes")
    return text


def _unpacked(packed: bytes) -> bytes:
    unpacking = zlib.decompressobj()
    try:
        text = unpacking.decompress(packed, LONGEST + 1)
    except zlib.error as error:
        raise PictureError("a compressed text in the picture is damaged") from error
    return _short(text)


def _webp(data: bytes) -> Iterator[tuple[str, bytes]]:
    place = 12
    for _ in range(MOST_CHUNKS):
        if place + 8 > len(data):
            return
        kind, size = data[place : place + 4], int.from_bytes(data[place + 4 : place + 8], "little")
        if kind == b"EXIF":
            yield from _exif(_short(data[place + 8 : place + 8 + size]).removeprefix(b"Exif\0\0"))
        place += 8 + size + size % 2
    raise PictureError(f"the picture has more than {MOST_CHUNKS} chunks")


def _exif(exif: bytes) -> Iterator[tuple[str, bytes]]:
    order = {b"II": "<", b"MM": ">"}.get(exif[:2])
    if order is None or len(exif) < 8:
        raise PictureError("the picture's EXIF is damaged")
    inner = yield from _directory(exif, struct.unpack_from(order + "I", exif, 4)[0], order)
    if inner is not None:
        yield from _directory(exif, inner, order)


def _directory(exif: bytes, start: int, order: str) -> Generator[tuple[str, bytes], None, int | None]:
    """Gives the texts of one directory; returns where the inner one begins."""
    inner: int | None = None
    if start + 2 > len(exif):
        return inner
    count = min(struct.unpack_from(order + "H", exif, start)[0], MOST_TAGS)
    for place in range(start + 2, min(start + 2 + 12 * count, len(exif) - 11), 12):
        tag, type_, size, at = struct.unpack_from(order + "HHII", exif, place)
        if tag == _INNER:
            inner = at
        if type_ in _TEXTS and size > 4:
            text = exif[at : at + size]
            key, _, value = (text[8:] if tag == _COMMENT else text).partition(b":")
            if value and len(key) <= 16:
                yield key.decode("latin-1"), value
    return inner
