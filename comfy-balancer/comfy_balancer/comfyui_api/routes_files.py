"""Files in and out: /upload/image, /upload/mask, /view. No path of a client's reaches a file system."""

from collections.abc import AsyncIterator, Awaitable, Callable

import msgspec
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from comfy_balancer.checks import path_trick
from comfy_balancer.comfyui_api.context import Json, caller, door, resources
from comfy_balancer.comfyui_api.files import Found, checked_place
from comfy_balancer.comfyui_api.names import Place, place_of
from comfy_balancer.comfyui_api.pictures import CHANNELS
from comfy_balancer.downloads import INLINE, MEDIA_TYPE, UNKNOWN
from comfy_balancer.ranges import parse_range, tag_fits
from comfy_balancer.uploads import Form, read_form
from comfy_shared.errors import InvalidTask
from comfy_shared.http.problems import MalformedBody, invalid

TRUE = ("true", "1")


def refusing_briefly(route: Callable[[Request], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
    """As ComfyUI does here: bad input is a 400 without a word."""

    async def brief(request: Request) -> Response:
        try:
            return await route(request)
        except (InvalidTask, MalformedBody):
            return Response(status_code=400)

    return brief


async def upload_image(request: Request) -> Response:
    async with read_form(request, resources(request).settings) as form:
        place, overwrite = _wish(form)
        upload = form.uploads[0]
        kept = await door(request).files.upload(upload, place, caller(request), overwrite=overwrite)
    return _named(kept)


async def upload_mask(request: Request) -> Response:
    async with read_form(request, resources(request).settings) as form:
        place, overwrite = _wish(form)
        original = _original(form)
        kept = await door(request).files.upload_mask(
            form.uploads[0], original, place, caller(request), overwrite=overwrite
        )
    return _named(kept)


def _named(place: Place) -> Response:
    return Json({"name": place.filename, "subfolder": place.subfolder, "type": place.type})


def _wish(form: Form) -> tuple[Place, bool]:
    """Where the upload is to be, and whether it may replace what is there. Raises InvalidTask."""
    if len(form.uploads) != 1 or form.uploads[0].field != "image":
        raise invalid("image", "is required: one file part")
    texts = {name: value.decode(errors="replace") for name, value in form.texts.items()}
    place = checked_place(texts.get("type") or "input", texts.get("subfolder", ""), form.uploads[0].filename)
    return place, texts.get("overwrite", "").lower() in TRUE


def _original(form: Form) -> Place:
    try:
        given = msgspec.json.decode(form.texts["original_ref"], type=dict[str, str | None])
        filename = given.get("filename") or ""
    except (KeyError, msgspec.MsgspecError, UnicodeDecodeError):
        raise invalid("original_ref", "must be JSON with filename, subfolder and type") from None
    named = place_of(filename) if filename.endswith("]") else None
    kind = given.get("type") or (named.type if named else "output")
    return checked_place(kind, given.get("subfolder") or "", named.filename if named else filename)


async def view(request: Request) -> Response:
    query = request.query_params
    filename = query.get("filename")
    if filename is None:
        return Response(status_code=404)
    if path_trick(query.get("subfolder", "")):
        return Response(status_code=403)
    named = place_of(filename) if filename.endswith("]") else None
    if not path_trick(named.field if named else filename) and "/" in filename:
        return Response(status_code=404)  # as ComfyUI, which cuts the folder off and then misses the file
    kind = named.type if named else query.get("type") or "output"
    place = checked_place(kind, query.get("subfolder", ""), named.filename if named else filename)
    found = await door(request).files.find(place, caller(request))
    preview, channel = query.get("preview"), query.get("channel")
    if channel is not None and channel not in CHANNELS:
        raise invalid("channel", "must be rgba, rgb or a", limits={"choices": list(CHANNELS)})
    channel = None if channel == "rgba" else channel
    if preview is None and channel is None:
        return await _served(request, found)
    if not found.content_type.startswith("image/"):
        raise invalid("filename", "is no picture")
    data, content_type = await door(request).files.converted(found, preview=preview, channel=channel)
    headers = {"Content-Disposition": _disposition(found.name, "inline"), **_guards()}
    return Response(data, media_type=content_type, headers=headers)


def _guards() -> dict[str, str]:
    return {
        "Content-Security-Policy": "sandbox; default-src 'none'",
        "X-Content-Type-Options": "nosniff",
        "Cache-Control": "private, no-cache",
    }


def _disposition(name: str, how: str) -> str:
    plain = "".join(character if character.isalnum() or character in "._-() " else "_" for character in name)
    named = f'filename="{plain.encode("ascii", "replace").decode().replace("?", "_")}"'
    return named if how == "inline" else f"{how}; {named}"


async def _served(request: Request, found: Found) -> Response:
    """The file, or the range of it that was asked for; never as something that a browser would run."""
    content_type = found.content_type if MEDIA_TYPE.fullmatch(found.content_type) else UNKNOWN
    inline = content_type in INLINE
    headers = {
        "Content-Type": content_type + ("; charset=utf-8" if content_type == "text/plain" else ""),
        "Content-Disposition": _disposition(found.name, "inline" if inline else "attachment"),
        "Accept-Ranges": "bytes",
        "ETag": f'"{found.sha256}"',
        **_guards(),
    }
    if not inline:
        headers["Content-Type"] = UNKNOWN
    if tag_fits(request.headers.get("if-none-match"), headers["ETag"]):
        return Response(status_code=304, headers=headers)
    part = parse_range(request.headers.get("range"), found.size)
    start, end = part or (0, found.size)
    headers["Content-Length"] = str(end - start)
    if part:
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{found.size}"
    files = resources(request).files
    if request.method == "HEAD":
        await files.size(found.key)
        return Response(status_code=206 if part else 200, headers=headers)
    chunks = files.read(found.key, start=start, end=end if part else None)
    first = await anext(chunks, b"")  # before the answer begins: a file that is gone is a 404

    async def body() -> AsyncIterator[bytes]:
        yield first
        async for chunk in chunks:
            yield chunk

    return StreamingResponse(body(), 206 if part else 200, headers=headers)


ROUTES = [
    Route("/upload/image", refusing_briefly(upload_image), methods=["POST"]),
    Route("/upload/mask", refusing_briefly(upload_mask), methods=["POST"]),
    Route("/view", refusing_briefly(view), methods=["GET"]),
]
