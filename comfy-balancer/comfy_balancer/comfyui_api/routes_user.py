"""What the editor keeps for its user: /userdata, /v2/userdata, /settings, /users."""

from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from comfy_balancer.comfyui_api.context import Json, caller, done, door, read_json, read_object
from comfy_balancer.comfyui_api.userdata import OutsideUserData, StoredFile, checked_path
from comfy_shared.errors import NotFound
from comfy_shared.http.problems import invalid

LONGEST_SETTING_NAME = 256  # characters
FOLDERS = ("workflows", "subgraphs")  # of the editor; there from the start
# What the editor asks for at its start; a 404 would be an error in its console.
EMPTY = {"user.css": b"", "comfy.templates.json": b"[]"}
# In our page: no look for news at another host, no tour through templates that are not installed.
PAGE_SETTINGS = {
    "Comfy.Notification.ShowVersionUpdates": False,
    "Comfy.TutorialCompleted": True,
}


def _flag(request: Request, name: str, otherwise: str = "false") -> bool:
    return request.query_params.get(name, otherwise).lower() == "true"


def _path(request: Request, name: str = "file") -> str:
    return checked_path(unquote(request.path_params[name]))


def _info(path: str, file: StoredFile) -> dict[str, Any]:
    return {"path": path, "size": file.size, "modified": file.modified, "created": file.created}


def _below(files: Mapping[str, StoredFile], folder: str) -> dict[str, StoredFile]:
    """The files of a folder by their path in it."""
    prefix = f"{folder}/" if folder else ""
    return {path.removeprefix(prefix): file for path, file in files.items() if path.startswith(prefix)}


async def listing(request: Request) -> Response:
    wanted = request.query_params.get("dir", "")
    if not wanted:
        return PlainTextResponse("Directory not provided", 400)
    try:
        folder = checked_path(wanted, empty=True)
    except OutsideUserData:
        return PlainTextResponse("Invalid directory", 403)
    found = _below(await door(request).userdata.all(caller(request).owner), folder)
    if not found and folder not in FOLDERS:
        return PlainTextResponse("Directory not found", 404)
    if not _flag(request, "recurse"):
        found = {path: file for path, file in found.items() if "/" not in path}
    if _flag(request, "full_info"):
        return Json([_info(path, file) for path, file in found.items()])
    if _flag(request, "split"):
        return Json([[path, *path.split("/")] for path in found])
    return Json(list(found))


async def listing_with_folders(request: Request) -> Response:
    try:
        folder = checked_path(unquote(request.query_params.get("path", "")), empty=True)
    except OutsideUserData:
        return Json({"error": "Invalid path"}, 400)
    files = await door(request).userdata.all(caller(request).owner)
    if folder in files:
        return Json({"error": "Requested path is not a directory"}, 400)
    found = _below(files, folder)
    if not found and folder:
        return Json({"error": "Requested path does not exist"}, 404)
    prefix = f"{folder}/" if folder else ""
    folders = sorted({"/".join(path.split("/")[:depth]) for path in found for depth in range(1, path.count("/") + 1)})
    entries: list[dict[str, Any]] = [
        {"name": path.rpartition("/")[2], "path": prefix + path, "type": "directory"} for path in folders
    ]
    entries += [
        {
            "name": path.rpartition("/")[2],
            "path": prefix + path,
            "type": "file",
            "size": file.size,
            "modified": file.modified,
        }
        for path, file in found.items()
    ]
    return Json(entries)


async def read(request: Request) -> Response:
    path = _path(request)
    try:
        data = await door(request).userdata.read(caller(request).owner, path)
    except NotFound:
        if path not in EMPTY:
            return Response(status_code=404)
        data = EMPTY[path]
    headers = {"X-Content-Type-Options": "nosniff", "Content-Security-Policy": "sandbox; default-src 'none'"}
    kinds = {"json": "application/json", "css": "text/css", "txt": "text/plain"}
    kind = kinds.get(path.rpartition(".")[2].lower(), "application/octet-stream")
    return Response(data, media_type=kind, headers=headers)


async def write(request: Request) -> Response:
    path, owner = _path(request), caller(request).owner
    if not _flag(request, "overwrite", "true") and path in await door(request).userdata.all(owner):
        return PlainTextResponse("File already exists", 409)
    file = await door(request).userdata.write(owner, path, await request.body())
    return Json(_info(path, file) if _flag(request, "full_info") else path)


async def delete(request: Request) -> Response:
    try:
        await door(request).userdata.delete(caller(request).owner, _path(request))
    except NotFound:
        return Response(status_code=404)
    return Response(status_code=204)


async def move(request: Request) -> Response:
    path, to, owner = _path(request), _path(request, "to"), caller(request).owner
    files = await door(request).userdata.all(owner)
    if path not in files:
        return Response(status_code=404)
    if to in files and not _flag(request, "overwrite", "true"):
        return PlainTextResponse("File already exists", 409)
    file = await door(request).userdata.move(owner, path, to)
    return Json(_info(to, file) if _flag(request, "full_info") else to)


async def slash_not_encoded(request: Request) -> Response:
    """A slash within a file's name must come as %2F."""
    return PlainTextResponse("405: Method Not Allowed", 405)


async def settings(request: Request) -> Response:
    given: dict[str, Any] = dict(PAGE_SETTINGS) if request.scope.get("comfyui_page") else {}
    return Json(given | await door(request).userdata.settings(caller(request).owner))


async def setting(request: Request) -> Response:
    found = await door(request).userdata.setting(caller(request).owner, unquote(request.path_params["name"]))
    return Response(found, media_type="application/json")


async def change_settings(request: Request) -> Response:
    await _change(request, await read_object(request))
    return done()


async def change_setting(request: Request) -> Response:
    await _change(request, {unquote(request.path_params["name"]): await read_json(request)})
    return done()


async def _change(request: Request, changes: dict[str, Any]) -> None:
    for name in changes:
        if not name or len(name) > LONGEST_SETTING_NAME:
            raise invalid("name", f"a setting's name has 1 to {LONGEST_SETTING_NAME} characters")
    await door(request).userdata.change(caller(request).owner, changes)


async def users(request: Request) -> Response:
    return Json({"storage": "server", "migrated": True})


ROUTES = [
    Route("/userdata", listing, methods=["GET"]),
    Route("/v2/userdata", listing_with_folders, methods=["GET"]),
    Route("/userdata/{file}", read, methods=["GET"]),
    Route("/userdata/{file}", write, methods=["POST"]),
    Route("/userdata/{file}", delete, methods=["DELETE"]),
    Route("/userdata/{file}/move/{to}", move, methods=["POST"]),
    Route("/userdata/{rest:path}", slash_not_encoded),
    Route("/settings", settings, methods=["GET"]),
    Route("/settings", change_settings, methods=["POST"]),
    Route("/settings/{name}", setting, methods=["GET"]),
    Route("/settings/{name}", change_setting, methods=["POST"]),
    Route("/users", users, methods=["GET"]),
]
