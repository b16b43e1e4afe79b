"""The routes for image files: /view, /upload/image, /upload/mask, with ComfyUI's checks and gaps in checking."""

import io
import json
import mimetypes
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

from aiohttp import web
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from test.simulator.files import Folders
from test.simulator.wire import answer

_FORCED_DOWNLOADS = {"text/html", "text/html-sandboxed", "application/xhtml+xml", "text/javascript", "text/css"}
_CONDITIONS = {"Range", "If-Match", "If-None-Match", "If-Modified-Since", "If-Unmodified-Since", "If-Range"}
_SMALL = 1024 * 1024  # bytes


class FileRoutes:
    """Handlers over the folders of one instance."""

    def __init__(self, folders: Folders) -> None:
        self._folders = folders

    def table(self) -> list[web.RouteDef]:
        return [
            web.get("/view", self.view),
            web.post("/upload/image", self.upload_image),
            web.post("/upload/mask", self.upload_mask),
        ]

    async def view(self, request: web.Request) -> web.StreamResponse:
        query = request.query
        if "filename" not in query:
            return web.Response(status=404)
        path = self._find(query["filename"], query.get("type", "output"), query.get("subfolder"))
        if isinstance(path, int):
            return web.Response(status=path)
        size = _size(path)
        if size is None:
            return web.Response(status=404)
        disposition = {"Content-Disposition": f'filename="{path.name}"'}
        channel = query.get("channel", "rgba")
        if "preview" in query:
            return _smaller(path, query["preview"], query.get("channel", ""), disposition)
        if channel in ("rgb", "a"):
            return _one_channel(path, channel, disposition)
        content_type = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
        if content_type in _FORCED_DOWNLOADS:
            content_type = "application/octet-stream"
        headers = {**disposition, "Content-Type": content_type}
        if _CONDITIONS.isdisjoint(request.headers) and size <= _SMALL:
            return _whole(path, headers)
        return web.FileResponse(path, headers=headers)

    def _find(self, filename: str, kind: str, subfolder: str | None) -> Path | int:
        """The file that a request names, or the status of its refusal."""
        filename, folder = self._folders.split(filename)
        if not filename or filename[0] == "/" or ".." in filename:
            return 400
        folder = folder or self._folders.by_type(kind)
        if folder is None:
            return 400
        if subfolder is not None:
            inner = os.path.join(folder, subfolder)
            if os.path.commonpath((os.path.abspath(inner), str(folder))) != str(folder):
                return 403
            folder = Path(inner)
        return folder / os.path.basename(filename)

    async def upload_image(self, request: web.Request) -> web.Response:
        return self._store(await request.post(), _write)

    async def upload_mask(self, request: web.Request) -> web.Response:
        return self._store(await request.post(), self._write_masked)

    def _store(self, form: Any, write: Callable[[Any, Any, str], None]) -> web.Response:
        image, kind = form.get("image"), form.get("type") or "input"
        folder = self._folders.by_type(kind)
        if folder is None:
            raise ValueError(f"no folder of type {kind}")  # answered as 500
        if not image or not image.file or not image.filename:
            return web.Response(status=400)
        filename, subfolder = image.filename, form.get("subfolder", "")
        target = os.path.join(folder, os.path.normpath(subfolder))
        path = os.path.abspath(os.path.join(target, filename))
        if os.path.commonpath((str(folder), path)) != str(folder):
            return web.Response(status=400)
        os.makedirs(target, exist_ok=True)
        stem, suffix = os.path.splitext(filename)
        content, tries, duplicate = image.file.read(), 0, False
        image.file.seek(0)
        while form.get("overwrite") not in ("true", "1") and os.path.exists(path):
            if Path(path).read_bytes() == content:
                duplicate = True
                break
            tries += 1
            filename = f"{stem} ({tries}){suffix}"
            path = os.path.join(target, filename)
        if not duplicate:
            write(form, image, path)
        return answer({"name": filename, "subfolder": subfolder, "type": kind})

    def _write_masked(self, form: Any, image: Any, path: str) -> None:
        """The original with the alpha channel of the upload; a missing original means that nothing is written."""
        reference = json.loads(form.get("original_ref"))
        original = self._find(
            reference["filename"], reference.get("type", "output"), reference.get("subfolder") or None
        )
        if isinstance(original, int) or not original.is_file():
            return
        with Image.open(original) as source, Image.open(image.file) as mask:
            texts = PngInfo()
            for key, value in getattr(source, "text", {}).items():
                texts.add_text(key, value)
            picture = source.convert("RGBA")
            picture.putalpha(mask.convert("RGBA").getchannel("A"))
            picture.save(path, compress_level=4, pnginfo=texts)


def _write(_: Any, image: Any, path: str) -> None:
    Path(path).write_bytes(image.file.read())


def _size(path: Path) -> int | None:
    """Bytes of a file; None when there is none."""
    try:
        found = path.stat()
    except (OSError, ValueError):  # as Path.is_file sees it
        return None
    return found.st_size if stat.S_ISREG(found.st_mode) else None


def _whole(path: Path, headers: dict[str, str]) -> web.Response:
    """What aiohttp's FileResponse answers to a request without conditions, without its three trips to a thread."""
    with path.open("rb") as file:
        data, about = file.read(), os.fstat(file.fileno())
    whole = web.Response(body=data, headers={**headers, "Accept-Ranges": "bytes"})
    whole.etag = f"{about.st_mtime_ns:x}-{about.st_size:x}"
    whole.last_modified = about.st_mtime
    return whole


def _smaller(path: Path, wanted: str, channel: str, headers: dict[str, str]) -> web.Response:
    """`preview=FORMAT;QUALITY`."""
    words = wanted.split(";")
    kind = words[0] if words[0] in ("webp", "jpeg") and "a" not in channel else "webp"
    quality = int(words[-1]) if words[-1].isdigit() else 90
    buffer = io.BytesIO()
    with Image.open(path) as image:
        flat = image.convert("RGB") if kind == "jpeg" or channel == "rgb" else image
        flat.save(buffer, format=kind, quality=quality)
    return web.Response(body=buffer.getvalue(), content_type=f"image/{kind}", headers=headers)


def _one_channel(path: Path, channel: str, headers: dict[str, str]) -> web.Response:
    buffer = io.BytesIO()
    with Image.open(path) as image:
        if channel == "rgb":
            picture = image.convert("RGB")
        else:
            picture = Image.new("RGBA", image.size)
            picture.putalpha(image.getchannel("A") if image.mode == "RGBA" else Image.new("L", image.size, 255))
        picture.save(buffer, format="PNG")
    return web.Response(body=buffer.getvalue(), content_type="image/png", headers=headers)
