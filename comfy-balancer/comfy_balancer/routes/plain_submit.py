"""The submit that programs send by the thousand: JSON without an option. Past Starlette and FastAPI, whose reading of
the parameters that it could have costs more than all that is done about the task."""

import msgspec
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from comfy_balancer import views
from comfy_balancer.dependencies import Resources
from comfy_balancer.routes.tasks import answered
from comfy_shared.errors import ComfyError
from comfy_shared.http.handlers import on_domain_error

PATH = f"{views.API}/tasks"
JSON = b"application/json"


class PlainSubmit:
    """The innermost of the edge. What it does not take, `tasks.submit` does; there the call is documented, too."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not _plain(scope):
            await self.app(scope, receive, send)
            return
        try:
            await _submit(scope, receive, send)
        except ComfyError as error:
            await on_domain_error(Request(scope), error)(scope, receive, send)


def _plain(scope: Scope) -> bool:
    if scope["type"] != "http" or scope["path"] != PATH or scope["method"] != "POST" or scope["query_string"]:
        return False
    for name, value in scope["headers"]:
        if name == b"idempotency-key" or (name == b"content-type" and not value.startswith(JSON)):
            return False
    return True


async def _submit(scope: Scope, receive: Receive, send: Send) -> None:
    state = scope["state"]
    here: Resources = state["resources"]
    accepted = await here.service.submit_body(await _body(scope, receive), state["caller"])
    state["told"] = True  # "Task accepted", in a line with the same request id
    if accepted.batch:
        answer = await answered(here, state["caller"], accepted, None)
        await answer(scope, receive, send)
        return
    task = accepted.tasks[0]
    body = msgspec.json.encode(views.task_view(task))
    headers = [
        (b"content-type", JSON),
        (b"content-length", b"%d" % len(body)),
        (b"location", views.task_url(task.id).encode()),
    ]
    await send({"type": "http.response.start", "status": 202, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def _body(scope: Scope, receive: Receive) -> bytes:
    part = await receive()
    if part["type"] == "http.request" and not part.get("more_body", False):
        whole: bytes = part["body"]
        return whole
    return await Request(scope, _again(part, receive)).body()


def _again(part: Message, receive: Receive) -> Receive:
    """`receive`, after the part that was received already."""
    parts = [part]

    async def receiving() -> Message:
        return parts.pop() if parts else await receive()

    return receiving
