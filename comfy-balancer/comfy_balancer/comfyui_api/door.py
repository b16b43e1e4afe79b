"""The door: ComfyUI's routes bare, under `/api`, and both below `/comfyui`, where the frontend is served.

It takes exactly the paths of ComfyUI and leaves every other to the app, so REST and pages keep their own answers.
Paths are matched as they were sent: `%2F` within a name stays part of it. Errors have ComfyUI's shapes.
"""

from typing import Any
from urllib.parse import unquote
from uuid import uuid4

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Match, NoMatchFound, Route, Router, WebSocketRoute
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocket

from comfy_balancer.comfyui_api import frontend, routes_files, routes_info, routes_prompt, routes_user
from comfy_balancer.comfyui_api.context import Json, caller, door, features
from comfy_balancer.comfyui_api.prompts import PromptRefused
from comfy_balancer.comfyui_api.sockets import Client, serve
from comfy_balancer.comfyui_api.userdata import OutsideUserData
from comfy_shared.errors import ComfyError, TooLarge
from comfy_shared.http.middleware import BodyRule
from comfy_shared.http.problems import respond

PAGE = "/comfyui"
OURS = ("/api/v1/", "/api/v2/", "/v1/", "/docs")
LONGEST_CLIENT_ID = 256  # characters
CACHED = "public, max-age=604800, immutable"  # files whose name changes with their content


async def websocket(socket: WebSocket) -> None:
    client_id = socket.query_params.get("clientId") or ""
    if len(client_id) > LONGEST_CLIENT_ID or not client_id.isprintable():
        await socket.send_denial_response(PlainTextResponse("clientId is not valid", 400))
        return
    client = Client(caller(socket).owner, client_id or uuid4().hex)
    try:
        async with door(socket).sessions.opened(client):
            await socket.accept()
            await serve(socket, client, features(socket))
    except TooLarge as error:
        await socket.send_denial_response(PlainTextResponse(error.message, 429))


async def no_socket(request: Request) -> Response:
    return PlainTextResponse('No WebSocket UPGRADE hdr: None\n Can "Upgrade" only to "WebSocket".', 400)


async def no_templates(request: Request) -> Response:
    """The package of workflow templates is not part of the frontend's."""
    return Json({} if request.url.path.endswith("logo.json") else [])


async def style(request: Request) -> Response:
    """A user's own style is among the user's files."""
    return Response(b"", media_type="text/css")


async def page(request: Request) -> Response:
    text = frontend.page()
    if text is None:
        return PlainTextResponse("The ComfyUI frontend is not installed: pip install 'comfy-balancer[frontend]'.", 404)
    return HTMLResponse(text, headers={"Cache-Control": "no-cache"})


async def file(request: Request) -> Response:
    found = frontend.find(unquote(request.path_params["path"]))
    if found is None:
        return Response(status_code=404)
    path, kind = found
    immutable = request.path_params["path"].startswith("assets/")
    headers = {"Cache-Control": CACHED if immutable else "no-cache"}
    return FileResponse(path, media_type=kind, headers=headers)


API: list[BaseRoute] = [
    *routes_prompt.ROUTES,
    *routes_files.ROUTES,
    *routes_user.ROUTES,
    *routes_info.ROUTES,
    Route("/ws", no_socket, methods=["GET"]),
    WebSocketRoute("/ws", websocket),
]
ROUTER = Router([*API, *routes_info.INTERNAL])  # tells which paths are ours


def _on_refused_prompt(request: Request, error: Exception) -> Response:
    assert isinstance(error, PromptRefused)
    return Json(error.body, 400)


def _on_outside(request: Request, error: Exception) -> Response:
    return Response(status_code=403)


def _on_error(request: Request, error: Exception) -> Response:
    """ComfyUI tells most refusals by their status; what is wrong is said all the same, as text."""
    assert isinstance(error, ComfyError)
    answer = respond(error, str(request.state.request_id))
    status = answer.status_code
    if status == 422:
        return PlainTextResponse(error.message, 400)
    if status == 404:
        return Response(status_code=404, media_type="application/octet-stream")
    headers = {name: value for name, value in answer.headers.items() if name in ("retry-after", "content-range")}
    return PlainTextResponse(error.message, status, headers)


def _on_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if error.status_code == 404:
        return Response(status_code=404, media_type="application/octet-stream")
    return PlainTextResponse(f"{error.status_code}: {error.detail}", error.status_code, error.headers)


class Door(BaseRoute):
    """A route of the app that matches what ComfyUI has."""

    def __init__(self) -> None:
        handlers: dict[Any, Any] = {
            PromptRefused: _on_refused_prompt,
            OutsideUserData: _on_outside,
            ComfyError: _on_error,
            HTTPException: _on_http_error,
        }
        pages = [
            Route("/", page, methods=["GET"]),
            Route("/user.css", style, methods=["GET"]),
            Route("/templates/index.json", no_templates, methods=["GET"]),
            Route("/templates/index_logo.json", no_templates, methods=["GET"]),
            Route("/{path:path}", file, methods=["GET"]),
        ]
        self._api = Starlette(routes=[*API, *routes_info.INTERNAL], exception_handlers=handlers)
        self._pages = Starlette(routes=[*API, *routes_info.INTERNAL, *pages], exception_handlers=handlers)

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        if scope["type"] not in ("http", "websocket"):
            return Match.NONE, {}
        place = placed(scope)
        return (Match.NONE, {}) if place is None else (Match.FULL, {"comfyui_path": place})

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        app, path = scope["comfyui_path"]
        if app == "redirect":
            await RedirectResponse(f"{PAGE}/", 307)(scope, receive, send)
            return
        inner = {**scope, "path": path, "root_path": "", "app_root_path": "", "comfyui_page": app == "pages"}
        inner.pop("router", None)
        await (self._pages if app == "pages" else self._api)(inner, receive, send)

    def url_path_for(self, name: str, /, **path_params: Any) -> Any:
        raise NoMatchFound(name, path_params)  # no address is made of a route's name


def placed(scope: Scope) -> tuple[str, str] | None:
    """Which app answers, and the path that it is given; None when the path is none of ComfyUI's."""
    path = raw_path(scope)
    if path.startswith(OURS):  # every request passes here: no route is tried for what is none of ComfyUI's
        return None
    if path == PAGE:
        return "redirect", path
    if path.startswith(f"{PAGE}/"):
        inner = path.removeprefix(PAGE)
        return "pages", inner.removeprefix("/api") if _known(scope, inner.removeprefix("/api")) else inner
    if path == "/favicon.ico" and frontend.folder():
        return "pages", "/assets/favicon.ico"
    if path.startswith("/assets/") and frontend.find(path.removeprefix("/")):  # what its manifest names from the root
        return "pages", path
    if path.startswith("/api/") and not path.startswith("/api/internal/"):
        inner = path.removeprefix("/api")
        return ("api", inner) if _known(scope, inner) else None
    if path.split("/")[1:2] == ["jobs"]:  # newer than the bare paths: only below /api
        return None
    return ("api", path) if _known(scope, path) else None


def raw_path(scope: Scope) -> str:
    raw = scope.get("raw_path")
    return raw.decode("latin-1") if isinstance(raw, bytes) else str(scope["path"])


def _known(scope: Scope, path: str) -> bool:
    inner = {**scope, "path": path, "root_path": ""}
    return any(route.matches(inner)[0] is not Match.NONE for route in ROUTER.routes)


def body_rule(file_limit: int, scope: Scope) -> BodyRule | None:
    """What bodies ComfyUI's routes take: of any type, and files where they are uploaded."""
    place = placed(scope)
    if place is None:
        return None
    return BodyRule(form_limit=file_limit + 1024 * 1024 if place[1].startswith("/upload/") else 0)
