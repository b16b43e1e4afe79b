"""What routes are given: the resources that the lifespan yields, and who asks.

The dependencies are `async` although they wait for nothing: FastAPI runs plain ones in a thread, which costs more than
the whole request.
"""

from dataclasses import dataclass
from typing import Annotated, Any, cast

import msgspec
from fastapi import Depends, Header
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from redis.asyncio import Redis
from starlette.requests import HTTPConnection
from starlette.responses import Response

from comfy_balancer.assets import Assets
from comfy_balancer.batches import BatchService
from comfy_balancer.catalog import Catalog, Fleet
from comfy_balancer.document import Document
from comfy_balancer.explaining import Explainer
from comfy_balancer.fetching import Fetcher
from comfy_balancer.listing import TaskLister
from comfy_balancer.login.check import Credentials
from comfy_balancer.login.links import Links
from comfy_balancer.login.tickets import Tickets
from comfy_balancer.service import TaskService
from comfy_balancer.settings import BalancerSettings
from comfy_balancer.sheets import Sheets
from comfy_balancer.streams import Streams
from comfy_balancer.thumbnails import Thumbnails
from comfy_balancer.uploads import Inputs
from comfy_shared.callers import Caller
from comfy_shared.errors import Forbidden
from comfy_shared.files import FileStore
from comfy_shared.live import LiveHub


@dataclass(frozen=True, kw_only=True, slots=True)
class Resources:
    """What one process holds while it serves."""

    settings: BalancerSettings
    redis: Redis
    files: FileStore
    fetcher: Fetcher
    service: TaskService
    batches: BatchService
    thumbnails: Thumbnails
    sheets: Sheets
    lister: TaskLister
    explainer: Explainer
    catalog: Catalog
    fleet: Fleet
    inputs: Inputs
    assets: Assets
    streams: Streams
    live: LiveHub
    log_in: Credentials
    tickets: Tickets
    links: Links
    mcp: StreamableHTTPSessionManager
    document: Document


async def _resources(connection: HTTPConnection) -> Resources:
    return cast("Resources", connection.state.resources)


async def _caller(connection: HTTPConnection) -> Caller:
    return cast("Caller", connection.state.caller)


Who = Annotated[Caller, Depends(_caller)]


async def _admin(who: Who) -> Caller:
    if not who.is_admin:
        raise Forbidden("Only the role admin may do this.")
    return who


Here = Annotated[Resources, Depends(_resources)]
Admin = Annotated[Caller, Depends(_admin)]
IdempotencyKey = Annotated[
    str | None,
    Header(description="Makes a repeated call the same call: 1 to 255 visible ASCII characters."),
]


class Json(Response):
    """An answer encoded by msgspec."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return msgspec.json.encode(content)
