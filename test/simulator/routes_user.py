"""The routes for a user's files and settings: /users, /userdata, /v2/userdata, /settings. One user, called default."""

import glob
import json
import os
import shutil
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from aiohttp import web

from test.simulator.files import Folders
from test.simulator.wire import answer


class UserRoutes:
    """Handlers over the user folder of one instance."""

    def __init__(self, folders: Folders) -> None:
        self._root = folders.user / "default"

    def table(self) -> list[web.RouteDef]:
        return [
            web.get("/users", self.users),
            web.get("/settings", self.settings),
            web.post("/settings", self.change_settings),
            web.get("/settings/{id}", self.setting),
            web.post("/settings/{id}", self.change_setting),
            web.get("/userdata", self.list_files),
            web.get("/v2/userdata", self.list_everything),
            web.get("/userdata/{file}", self.read),
            web.post("/userdata/{file}", self.write),
            web.delete("/userdata/{file}", self.delete),
            web.post("/userdata/{file}/move/{dest}", self.move),
        ]

    def _path(self, name: str, make_parent: bool = True) -> Path | None:
        """Where a user's file lies; None outside the user's folder. Makes its parent, as ComfyUI does even for
        reading.
        """
        path = os.path.abspath(os.path.join(self._root, unquote(name)))
        if os.path.commonpath((str(self._root), path)) != str(self._root):
            return None
        if make_parent:
            os.makedirs(os.path.dirname(path), exist_ok=True)
        return Path(path)

    async def users(self, _: web.Request) -> web.Response:
        return answer({"storage": "server", "migrated": self._root.exists()})

    def _read_settings(self) -> dict[str, Any]:
        path = self._root / "comfy.settings.json"
        settings: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
        return settings

    def _write_settings(self, settings: dict[str, Any]) -> web.Response:
        self._root.mkdir(parents=True, exist_ok=True)
        (self._root / "comfy.settings.json").write_text(json.dumps(settings, indent=4))
        return web.Response()

    async def settings(self, _: web.Request) -> web.Response:
        return answer(self._read_settings())

    async def setting(self, request: web.Request) -> web.Response:
        return answer(self._read_settings().get(request.match_info["id"]))

    async def change_settings(self, request: web.Request) -> web.Response:
        return self._write_settings({**self._read_settings(), **await request.json()})

    async def change_setting(self, request: web.Request) -> web.Response:
        return self._write_settings({**self._read_settings(), request.match_info["id"]: await request.json()})

    async def list_files(self, request: web.Request) -> web.Response:
        directory = request.query.get("dir", "")
        if not directory:
            return web.Response(status=400, text="Directory not provided")
        folder = self._path(directory)
        if folder is None:
            return web.Response(status=403, text="Invalid directory")
        if not folder.exists():
            return web.Response(status=404, text="Directory not found")
        recurse = request.query.get("recurse", "").lower() == "true"
        paths = _visible_files(folder, recurse)
        if request.query.get("full_info", "").lower() == "true":
            return answer([_about(path, folder) for path in paths])
        names = [path.relative_to(folder).as_posix() for path in paths]
        if request.query.get("split", "").lower() == "true":
            return answer([[name, *name.split("/")] for name in names])
        return answer(names)

    async def list_everything(self, request: web.Request) -> web.Response:
        folder = self._path(unquote(request.query.get("path", "")), make_parent=False)
        if folder is None:
            return web.Response(status=400, text="Invalid path requested")
        if not folder.exists():
            if folder == self._root:
                return answer([])
            return web.Response(status=404, text="Requested path not found")
        if not folder.is_dir():
            return web.Response(status=400, text="Requested path is not a directory")
        found = [_entry(path, self._root) for path in folder.rglob("*")]
        return answer(sorted(found, key=lambda entry: (entry["type"] != "directory", entry["name"].lower())))

    def _existing(self, request: web.Request) -> Path | web.Response:
        path = self._path(request.match_info["file"])
        if path is None:
            return web.Response(status=403)
        return path if path.exists() else web.Response(status=404)

    async def read(self, request: web.Request) -> web.StreamResponse:
        path = self._existing(request)
        return web.FileResponse(path) if isinstance(path, Path) else path

    async def write(self, request: web.Request) -> web.Response:
        path = self._path(request.match_info["file"])
        if path is None:
            return web.Response(status=403)
        if request.query.get("overwrite", "true") == "false" and path.exists():
            return web.Response(status=409, text="File already exists")
        try:
            path.write_bytes(await request.read())
        except OSError:
            reason = 'Invalid filename. Please avoid special characters like :\\/*?"<>|'
            return web.Response(status=400, reason=reason)
        return self._told(request, path)

    async def delete(self, request: web.Request) -> web.Response:
        path = self._existing(request)
        if not isinstance(path, Path):
            return path
        path.unlink()
        return web.Response(status=204)

    async def move(self, request: web.Request) -> web.Response:
        source = self._existing(request)
        if not isinstance(source, Path):
            return source
        target = self._path(request.match_info["dest"])
        if target is None:
            return web.Response(status=403)
        if request.query.get("overwrite", "true") == "false" and target.exists():
            return web.Response(status=409, text="File already exists")
        shutil.move(source, target)
        return self._told(request, target)

    def _told(self, request: web.Request, path: Path) -> web.Response:
        """The answer to a change: the name from the user's root, or all about the file."""
        if request.query.get("full_info", "false").lower() == "true":
            return answer(_about(path, self._root))
        return answer(path.relative_to(self._root).as_posix())


def _visible_files(folder: Path, recurse: bool) -> list[Path]:
    pattern = os.path.join(glob.escape(str(folder)), *(["**"] if recurse else []), "*")
    return [Path(found) for found in glob.glob(pattern, recursive=recurse) if os.path.isfile(found)]


def _about(path: Path, root: Path) -> dict[str, Any]:
    stat = path.stat()
    name = path.relative_to(root).as_posix()
    return {"path": name, "size": stat.st_size, "modified": stat.st_mtime, "created": stat.st_ctime}


def _entry(path: Path, root: Path) -> dict[str, Any]:
    entry: dict[str, Any] = {"name": path.name, "path": path.relative_to(root).as_posix()}
    if path.is_dir():
        return {**entry, "type": "directory"}
    return {**entry, "type": "file", "size": path.stat().st_size, "modified": path.stat().st_mtime}
