"""What this ComfyUI is and has: node classes, models, devices, features; and the little that its log says."""

import platform
from typing import Any
from urllib.parse import unquote

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from comfy_balancer.comfyui_api import frontend
from comfy_balancer.comfyui_api.context import Json, caller, done, door, features, read_object, resources
from comfy_balancer.comfyui_api.definitions import FOLDERS, models_in, with_files
from comfy_balancer.eligibility import Member, different
from comfy_shared.http.problems import invalid
from comfy_shared.needs import Offer
from comfy_shared.registry import Agent


async def _offers(request: Request) -> list[Offer]:
    """Of the agents that live; when none does, of those that are remembered."""
    fleet = resources(request).fleet
    members: list[Member] = await fleet.members()
    if not different(members):  # an agent may have come a moment ago
        members = await fleet.now()
    return different([member for member in members if member.agent.alive]) or different(members)


async def object_info(request: Request) -> Response:
    name = request.path_params.get("name")
    merger = door(request).merger
    classes: Any = merger.of(await _offers(request))
    if name is not None:
        name = unquote(name)
        classes = {name: classes[name]} if name in classes else {}
    uploads = [each for each in merger.uploads if each[0] in classes]
    if uploads:
        classes = with_files(classes, uploads, await door(request).files.names.inputs(caller(request).owner))
    return Json(classes)


async def models(request: Request) -> Response:
    return Json(list(FOLDERS))


async def models_of(request: Request) -> Response:
    classes = door(request).merger.of(await _offers(request))
    found = models_in(classes, unquote(request.path_params["folder"]))
    return Response(status_code=404) if found is None else Json(found)


async def nothing_listed(request: Request) -> Response:
    return Json([])


async def nothing_named(request: Request) -> Response:
    return Json({})


async def not_there(request: Request) -> Response:
    return Response(status_code=404)


async def system_stats(request: Request) -> Response:
    agents = [agent for agent in await resources(request).fleet.agents() if agent.alive]
    versions = sorted({agent.record.comfyui_version for agent in agents if agent.record.comfyui_version})
    free = sum(agent.vitals.ram_free for agent in agents)
    system = {
        "os": "posix",
        "ram_total": free,
        "ram_free": free,
        "comfyui_version": versions[0] if versions else "unknown",
        "required_frontend_version": frontend.version(),
        "installed_templates_version": None,
        "required_templates_version": None,
        "python_version": platform.python_version(),
        "pytorch_version": "unknown",
        "embedded_python": False,
        "argv": ["comfy-balancer"],
    }
    return Json({"system": system, "devices": [each for agent in agents for each in _devices(agent)]})


def _devices(agent: Agent) -> list[dict[str, Any]]:
    count = len(agent.record.devices)
    return [
        {
            "name": f"{device.name} ({agent.record.id})",
            "type": device.type,
            "index": index,
            "vram_total": device.vram_total,
            "vram_free": agent.vitals.vram_free // count,
            "torch_vram_total": device.vram_total,
            "torch_vram_free": agent.vitals.vram_free // count,
        }
        for index, device in enumerate(agent.record.devices)
    ]


async def tell_features(request: Request) -> Response:
    return Json(features(request))


async def extensions(request: Request) -> Response:
    return Json(frontend.extensions())


async def free(request: Request) -> Response:
    """Memory is everybody's: only an admin's wish reaches the instances, each when it is idle."""
    body = await read_object(request)
    wish = {name: bool(body.get(name)) for name in ("unload_models", "free_memory")}
    if caller(request).is_admin and any(wish.values()):
        await resources(request).fleet.registry.free_memory(**wish)
    return done()


async def log_text(request: Request) -> Response:
    return Json("")


async def log_entries(request: Request) -> Response:
    return Json({"entries": [], "size": {"cols": 80, "rows": 24}})


async def subscribe_log(request: Request) -> Response:
    """Instances write everybody's lines into one log: nobody is told them here."""
    if not isinstance((await read_object(request)).get("clientId"), str):
        raise invalid("clientId", "is required")
    return done()


ROUTES = [
    Route("/object_info", object_info, methods=["GET"]),
    Route("/object_info/{name}", object_info, methods=["GET"]),
    Route("/models", models, methods=["GET"]),
    Route("/models/{folder}", models_of, methods=["GET"]),
    Route("/embeddings", nothing_listed, methods=["GET"]),
    Route("/experiment/models", nothing_listed, methods=["GET"]),
    Route("/experiment/models/{folder}", nothing_listed, methods=["GET"]),
    Route("/view_metadata/{folder}", not_there, methods=["GET"]),
    Route("/system_stats", system_stats, methods=["GET"]),
    Route("/features", tell_features, methods=["GET"]),
    Route("/extensions", extensions, methods=["GET"]),
    Route("/i18n", nothing_named, methods=["GET"]),
    Route("/workflow_templates", nothing_named, methods=["GET"]),
    Route("/global_subgraphs", nothing_named, methods=["GET"]),
    Route("/free", free, methods=["POST"]),
]
INTERNAL = [
    Route("/internal/logs", log_text, methods=["GET"]),
    Route("/internal/logs/raw", log_entries, methods=["GET"]),
    Route("/internal/folder_paths", nothing_named, methods=["GET"]),
    Route("/internal/files/{folder}", nothing_listed, methods=["GET"]),
    Route("/internal/logs/subscribe", subscribe_log, methods=["PATCH"]),
]
