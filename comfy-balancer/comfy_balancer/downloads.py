"""A stored file as an answer: whole, by range, or unchanged; and never as something that a browser would run."""

import re
from collections.abc import AsyncIterator
from urllib.parse import quote

import msgspec
from fastapi import Request, Response
from fastapi.responses import StreamingResponse

from comfy_balancer.ranges import parse_range, tag_fits
from comfy_shared.files import FileStore

MEDIA_TYPE = re.compile(r"[a-z0-9][a-z0-9!#$&^_.+-]{0,63}/[a-z0-9][a-z0-9!#$&^_.+-]{0,63}")
UNKNOWN = "application/octet-stream"
INLINE = frozenset(
    {
        "image/png", "image/jpeg", "image/webp", "image/gif", "image/avif", "image/bmp", "video/mp4", "video/webm",
        "audio/mpeg", "audio/wav", "audio/x-wav", "audio/flac", "audio/x-flac", "audio/ogg", "audio/mp4", "text/plain",
    },
)  # fmt: skip


class Download(msgspec.Struct, frozen=True, kw_only=True):
    """A file of the file store, and how it is called."""

    key: str  # where it is
    name: str
    size: int  # bytes
    sha256: str  # of its bytes
    content_type: str


async def serve(files: FileStore, request: Request, file: Download, *, download: bool = False) -> Response:
    """The answer to GET or HEAD. Raises NotFound, Unavailable, RangeNotSatisfiable.

    With `download` a browser saves the file instead of showing it.
    """
    headers = _headers(file, download=download)
    if tag_fits(request.headers.get("if-none-match"), headers["ETag"]):
        return Response(status_code=304, headers=headers)
    wished = (
        request.headers.get("range") if request.headers.get("if-range", headers["ETag"]) == headers["ETag"] else None
    )
    part = parse_range(wished, file.size)
    start, end = part or (0, file.size)
    headers["Content-Length"] = str(end - start)
    if part:
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{file.size}"
    if request.method == "HEAD":
        await files.size(file.key)
        return Response(status_code=206 if part else 200, headers=headers)
    # The first chunk is read before the answer begins: a file that is gone is a 404, not a broken stream.
    chunks = files.read(file.key, start=start, end=end if part else None)
    first = await anext(chunks, b"")
    return StreamingResponse(_chain(first, chunks), 206 if part else 200, headers=headers)


async def _chain(first: bytes, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield first
    async for chunk in rest:
        yield chunk


def _headers(file: Download, *, download: bool) -> dict[str, str]:
    content_type = file.content_type if MEDIA_TYPE.fullmatch(file.content_type) else UNKNOWN
    place = "inline" if content_type in INLINE and not download else "attachment"
    if content_type == "text/plain":
        content_type += "; charset=utf-8"
    return {
        "Content-Type": content_type,
        "Content-Disposition": f"{place}; filename*=UTF-8''{quote(file.name, safe='')}",
        "Content-Security-Policy": "sandbox; default-src 'none'",
        "X-Content-Type-Options": "nosniff",
        "Accept-Ranges": "bytes",
        "Cache-Control": "private, no-cache",
        "ETag": f'"{file.sha256}"',
    }
