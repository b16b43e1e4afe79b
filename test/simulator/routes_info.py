"""The routes that describe the instance: node classes, models, machine, logs; and the few that only the frontend asks
for.
"""

import json
import sys
from typing import Any

from aiohttp import web

from test.simulator.instance import Instance
from test.simulator.machine import GIB
from test.simulator.routes_prompt import features
from test.simulator.wire import answer

_RAM = 32 * GIB


class InfoRoutes:
    """Handlers bound to one instance."""

    def __init__(self, instance: Instance) -> None:
        self._instance = instance

    def table(self) -> list[web.RouteDef]:
        return [
            web.get("/object_info", self.all_classes),
            web.get("/object_info/{node_class}", self.one_class),
            web.get("/system_stats", self.system_stats),
            web.get("/features", self.features),
            web.get("/models", self.model_folders),
            web.get("/models/{folder}", self.models),
            web.get("/experiment/models", self.model_paths),
            web.get("/experiment/models/{folder}", self.model_files),
            web.get("/embeddings", self.embeddings),
            web.get("/view_metadata/{folder}", self.model_metadata),
            web.get("/extensions", self.nothing_listed),
            web.get("/i18n", self.nothing_named),
            web.get("/workflow_templates", self.nothing_named),
        ]

    def internal_table(self) -> list[web.RouteDef]:
        """Below /internal only, never below /api."""
        return [
            web.get("/internal/logs", self.log_text),
            web.get("/internal/logs/raw", self.log_entries),
            web.patch("/internal/logs/subscribe", self.subscribe),
            web.get("/internal/folder_paths", self.folder_paths),
            web.get("/internal/files/{kind}", self.newest_files),
        ]

    async def all_classes(self, _: web.Request) -> web.Response:
        return answer(self._instance.catalogue.all_object_info())

    async def one_class(self, request: web.Request) -> web.Response:
        name = request.match_info["node_class"]
        catalogue = self._instance.catalogue
        return answer({name: catalogue.object_info(name)} if name in catalogue else {})

    async def system_stats(self, request: web.Request) -> web.Response:
        options, machine = self._instance.options, self._instance.machine
        total, free = int(options.vram_gib * GIB), machine.vram_free()
        system = {
            "os": "posix",
            "ram_total": _RAM,
            "ram_free": _RAM // 2 - int(machine.faults.leak_gib * GIB),
            "comfyui_version": options.version,
            "required_frontend_version": "1.27.10",
            "installed_templates_version": "0.1.95",
            "required_templates_version": "0.1.95",
            "python_version": sys.version,
            "pytorch_version": "2.13.0+cu130",
            "embedded_python": False,
            "argv": ["main.py", "--listen", options.host, "--base-directory", str(self._instance.folders.base)],
        }
        device = {
            "name": options.device_name,
            "type": "cuda",
            "index": 0,
            "vram_total": total,
            "vram_free": free,
            "torch_vram_total": total - free,
            "torch_vram_free": 0,
        }
        return answer({"system": system, "devices": [device]})

    async def features(self, _: web.Request) -> web.Response:
        return answer(features(self._instance))

    async def model_folders(self, _: web.Request) -> web.Response:
        return answer(list(self._instance.catalogue.models))

    async def models(self, request: web.Request) -> web.Response:
        names = self._instance.catalogue.models.get(request.match_info["folder"])
        return web.Response(status=404) if names is None else answer(names)

    def _paths(self) -> dict[str, list[str]]:
        base = self._instance.folders.base / "models"
        return {folder: [str(base / folder)] for folder in self._instance.catalogue.models}

    async def model_paths(self, _: web.Request) -> web.Response:
        hidden = ("configs", "custom_nodes")
        return answer([{"name": name, "folders": paths} for name, paths in self._paths().items() if name not in hidden])

    async def model_files(self, request: web.Request) -> web.Response:
        names = self._instance.catalogue.models.get(request.match_info["folder"])
        if names is None:
            return web.Response(status=404)
        size = int(self._instance.options.model_gib * GIB)
        about = {"pathIndex": 0, "modified": 1795415110.84, "created": 1795415110.85, "size": size}
        return answer([{"name": name, **about} for name in names])

    async def embeddings(self, _: web.Request) -> web.Response:
        return answer([name.rsplit(".", 1)[0] for name in self._instance.catalogue.models["embeddings"]])

    async def model_metadata(self, request: web.Request) -> web.Response:
        """The header of a safetensors file, if one lies in the models folder: the listed models are only names."""
        folder, name = request.match_info["folder"], request.query.get("filename", "")
        path = self._instance.folders.base / "models" / folder / name
        if not name.endswith(".safetensors") or ".." in name or not path.is_file():
            return web.Response(status=404)
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header: dict[str, Any] = json.loads(file.read(length)) if length <= 1024 * 1024 else {}
        return answer(header["__metadata__"]) if "__metadata__" in header else web.Response(status=404)

    async def nothing_listed(self, _: web.Request) -> web.Response:
        return answer([])

    async def nothing_named(self, _: web.Request) -> web.Response:
        return answer({})

    async def log_text(self, _: web.Request) -> web.Response:
        return answer("".join(f"{entry['t']} - {entry['m']}" for entry in self._instance.logs.entries))

    async def log_entries(self, _: web.Request) -> web.Response:
        return answer({"entries": list(self._instance.logs.entries), "size": {"cols": 80, "rows": 24}})

    async def subscribe(self, request: web.Request) -> web.Response:
        body: Any = await request.json()
        subscribers = self._instance.logs.subscribers
        if body["enabled"]:
            subscribers.add(body["clientId"])
        else:
            subscribers.discard(body["clientId"])
        return web.Response()

    async def folder_paths(self, _: web.Request) -> web.Response:
        return answer(self._paths())

    async def newest_files(self, request: web.Request) -> web.Response:
        folder = self._instance.folders.by_type(request.match_info["kind"])
        if folder is None:
            return answer({"error": "Invalid directory type"}, status=400)
        files = [entry for entry in folder.iterdir() if entry.is_file()]
        return answer([entry.name for entry in sorted(files, key=lambda entry: -entry.stat().st_mtime)])
