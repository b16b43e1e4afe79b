"""What the routes of this door are given, and how they answer."""

from dataclasses import dataclass
from typing import Any, cast

import msgspec
from starlette.requests import HTTPConnection, Request
from starlette.responses import Response

from comfy_balancer.comfyui_api.definitions import Merger
from comfy_balancer.comfyui_api.files import ClientFiles
from comfy_balancer.comfyui_api.prompts import Prompts
from comfy_balancer.comfyui_api.sessions import Sessions
from comfy_balancer.comfyui_api.tasklists import OwnTasks
from comfy_balancer.comfyui_api.userdata import UserData
from comfy_balancer.dependencies import Resources
from comfy_shared.callers import Caller
from comfy_shared.http.problems import invalid


@dataclass(frozen=True, kw_only=True, slots=True)
class ComfyUI:
    """What one process holds for its ComfyUI clients."""

    prompts: Prompts
    files: ClientFiles
    tasks: OwnTasks
    sessions: Sessions
    userdata: UserData
    merger: Merger


def door(connection: HTTPConnection) -> ComfyUI:
    return cast("ComfyUI", connection.state.comfyui)


def resources(connection: HTTPConnection) -> Resources:
    return cast("Resources", connection.state.resources)


def caller(connection: HTTPConnection) -> Caller:
    return cast("Caller", connection.state.caller)


def features(connection: HTTPConnection) -> dict[str, Any]:
    """What this ComfyUI can do."""
    return {"supports_preview_metadata": True, "max_upload_size": resources(connection).settings.file_limit}


class Json(Response):
    """An answer encoded by msgspec."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return msgspec.json.encode(content)


def done() -> Response:
    """ComfyUI's answer to what it did, and to much that it did not."""
    return Response(b"", 200, media_type="application/octet-stream")


async def read_object(request: Request) -> dict[str, Any]:
    """The body as a JSON object. Raises InvalidTask."""
    value = await read_json(request)
    if not isinstance(value, dict):
        raise invalid("body", "must be a JSON object")
    return value


async def read_json(request: Request) -> Any:
    """The body as JSON, whatever its Content-Type. Raises InvalidTask."""
    try:
        return msgspec.json.decode(await request.body())
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise invalid("body", "must be JSON") from None


def ids_in(body: dict[str, Any], field: str) -> list[str]:
    """A list of ids in a body. Raises InvalidTask."""
    found = body.get(field)
    if not isinstance(found, list) or len(found) > 10_000 or not all(isinstance(item, str) for item in found):
        raise invalid(field, "must be a list of prompt ids")
    return found
