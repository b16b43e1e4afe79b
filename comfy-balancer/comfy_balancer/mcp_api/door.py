"""The route `/mcp`, and the official library's server behind it."""

import asyncio
from typing import Any

import msgspec
from mcp.server import Server
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from starlette.types import Receive, Scope, Send

from comfy_balancer.mcp_api.tools import call_tool, list_tools
from comfy_shared.http.middleware import refuse

PATH = "/mcp"
INSTRUCTIONS = (
    "Each tool is a workflow that renders pictures (or video, or audio) on a cluster of GPUs. A call takes seconds to "
    "minutes and tells its progress. A result over the size that fits is shown smaller, with the address of the whole."
)
REFUSED = -32000  # of the codes that JSON-RPC leaves to a server


def make_manager() -> StreamableHTTPSessionManager:
    """What answers the calls of one run of the application; it is opened and closed with it."""
    server: Server[Any] = Server(
        "comfy", title="Comfy", instructions=INSTRUCTIONS, on_list_tools=list_tools, on_call_tool=call_tool
    )
    return StreamableHTTPSessionManager(server, stateless=True)


async def keep_open(manager: StreamableHTTPSessionManager, stop: asyncio.Event, ready: asyncio.Event) -> None:
    """Opens the manager until the stop. The library wants it closed by the task that opened it."""
    async with manager.run():
        ready.set()
        await stop.wait()


class McpDoor:
    """The route's endpoint. Without sessions there is nothing to GET or to DELETE."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] != "POST":
            headers = {"Allow": "POST"}
            await refuse(scope, receive, send, 405, "method-not-allowed", "Only POST: there are no sessions.", headers)
            return
        await scope["state"]["resources"].mcp.handle_request(scope, receive, send)


def shape(status: int, code: str, detail: str, _request_id: str) -> tuple[bytes, str]:
    """A refusal of the edge as an error of JSON-RPC."""
    error = {"code": REFUSED, "message": detail, "data": {"status": status, "code": code}}
    return msgspec.json.encode({"jsonrpc": "2.0", "id": None, "error": error}), "application/json"
