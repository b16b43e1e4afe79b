"""The balancer's application: composed by hand in `create_app`; its lifespan opens and closes what the routes use.

    uvicorn comfy_balancer.app:create_app --factory --workers 2 --port 7999

Nothing is opened at import, and nothing is kept but what Redis knows as well.
"""

import asyncio
import os
import re
import signal
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from functools import partial
from typing import Any

import structlog
from fastapi import FastAPI, Request
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from starlette.routing import Route

from comfy_balancer import comfy_v2, mcp_api, openai_api, openapi, sweeper
from comfy_balancer.assets import Assets
from comfy_balancer.batches import BatchService
from comfy_balancer.catalog import Catalog, Fleet
from comfy_balancer.comfyui_api.context import ComfyUI
from comfy_balancer.comfyui_api.definitions import Merger
from comfy_balancer.comfyui_api.door import Door, body_rule
from comfy_balancer.comfyui_api.files import ClientFiles
from comfy_balancer.comfyui_api.names import Names
from comfy_balancer.comfyui_api.prompts import Prompts
from comfy_balancer.comfyui_api.sessions import Sessions
from comfy_balancer.comfyui_api.tasklists import OwnTasks
from comfy_balancer.comfyui_api.userdata import UserData
from comfy_balancer.dependencies import Resources
from comfy_balancer.document import Document
from comfy_balancer.explaining import Explainer
from comfy_balancer.fetching import Fetcher
from comfy_balancer.listing import TaskLister
from comfy_balancer.login.api_keys import ApiKeys
from comfy_balancer.login.check import Credentials
from comfy_balancer.login.links import Links
from comfy_balancer.login.tickets import Tickets
from comfy_balancer.references import References
from comfy_balancer.routes import (
    agents,
    batches,
    events,
    health,
    inputs,
    log_in,
    outputs,
    plain_submit,
    policy,
    publishing,
    runs,
    tasks,
    workflows,
)
from comfy_balancer.service import TaskService
from comfy_balancer.settings import BalancerSettings
from comfy_balancer.sheets import Sheets
from comfy_balancer.streams import Streams
from comfy_balancer.thumbnails import Thumbnails
from comfy_balancer.uploads import Inputs
from comfy_shared import logs
from comfy_shared.batches import Batches
from comfy_shared.events import EventHub
from comfy_shared.files import FileStore, open_store
from comfy_shared.guesses import GuessLimit
from comfy_shared.http.docs import docs_router
from comfy_shared.http.handlers import add_edge, refuse_unsafe
from comfy_shared.http.login import Gate
from comfy_shared.keys import Keys
from comfy_shared.lifecycle import Loops
from comfy_shared.live import LiveHub
from comfy_shared.queue import Queue
from comfy_shared.registry import Registry
from comfy_shared.store import connect

log = structlog.get_logger(__name__)

SHAPES = {
    openai_api.PREFIX: openai_api.shape,
    comfy_v2.PREFIX: comfy_v2.edge_shape,
    mcp_api.PATH: mcp_api.shape,
}


class FormPaths:
    """The paths that take files."""

    _paths = re.compile(r"/api/v1/(tasks|inputs|workflows|workflows/[^/]+/run)|/v1/images/edits|/api/v2/assets")

    def __contains__(self, path: object) -> bool:
        return isinstance(path, str) and self._paths.fullmatch(path) is not None


def create_app(settings: BalancerSettings | None = None) -> FastAPI:
    """The application. Without `settings` they come from the environment."""
    settings = settings or BalancerSettings()
    refuse_unsafe(settings, "comfy-balancer")
    app = FastAPI(
        title="Comfy balancer",
        version="1",
        description=openapi.DESCRIPTION,
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        lifespan=partial(_lifespan, settings),
        redirect_slashes=False,
        telemetry={"tracing": False, "metrics": False, "logs": False},  # looked up anew for every request
    )
    for part in (tasks, runs, events, outputs, batches, inputs, workflows, publishing, agents, policy, log_in):
        app.include_router(part.router, prefix="/api/v1")
    app.include_router(health.router)
    app.mount(comfy_v2.PREFIX, comfy_v2.create())
    app.mount(openai_api.PREFIX, openai_api.create())
    app.router.routes.append(Route(mcp_api.PATH, mcp_api.McpDoor()))
    app.include_router(docs_router(app.title, _document))
    app.router.routes.append(Door())
    app.openapi = partial(openapi.build, app)  # type: ignore[method-assign]  # FastAPI's own way to replace it
    app.add_middleware(plain_submit.PlainSubmit)
    add_edge(
        app,
        json_limit=settings.json_limit,
        form_limit=settings.form_limit,
        form_paths=FormPaths(),
        shapes=SHAPES,
        rule_of=lambda scope: publishing.picture_rule(settings, scope) or body_rule(settings.file_limit, scope),
    )
    return app


@asynccontextmanager
async def _lifespan(settings: BalancerSettings, _: FastAPI) -> AsyncIterator[dict[str, Any]]:
    log_system = logs.configure(
        service="balancer",
        level=settings.log_level,
        logdy_host=settings.logdy_host or None,
        logdy_port=settings.logdy_port,
    )
    redis = connect(settings)
    try:
        if weakness := settings.password_weakness():
            log.warning("THE LOG-IN IS UNSAFE: set API_PASSWORD", action="settings.unsafe", reason=weakness)
        manager, ready = mcp_api.make_manager(), asyncio.Event()
        async with Loops(_die) as loops:
            loops.start("mcp", partial(mcp_api.keep_open, manager, loops.stop, ready))
            await ready.wait()
            state = _compose(settings, redis, loops, manager)
            async with aclosing(state["resources"].fetcher):
                yield state
    finally:
        await redis.aclose()
        log_system.close()


def _compose(
    settings: BalancerSettings, redis: Any, loops: Loops, manager: StreamableHTTPSessionManager
) -> dict[str, Any]:
    keys = Keys(settings.redis_namespace)
    files = open_store(settings)
    queue = Queue(redis, keys, settings)
    catalog = Catalog(redis, keys)
    # This process never registers an agent, so the time to live of a heartbeat says nothing here.
    fleet = Fleet(Registry(redis, keys, heartbeat_ttl=settings.lease_seconds, retention=settings.agent_retention))
    inputs = Inputs(redis, keys, files)
    hub = EventHub(redis, keys, on_news=partial(_on_news, catalog, fleet))
    live = LiveHub(redis, keys)
    loops.start("events", partial(hub.tail, loops.stop))
    loops.start("live", partial(live.listen, loops))
    loops.start("offers", partial(fleet.keep_fresh, loops))
    _keep_tidy(settings, queue, files, inputs, loops)
    log_in, tickets, links = _log_in(settings, redis, keys)
    fetcher = Fetcher(settings.address_policy, timeout=settings.fetch_timeout, redirects=settings.fetch_redirects)
    service = TaskService(queue, hub, catalog, fleet, References(queue, inputs, files, fetcher, settings), settings)
    thumbnails = Thumbnails(files, pixel_limit=settings.pixel_limit)
    resources = Resources(
        settings=settings,
        redis=redis,
        files=files,
        fetcher=fetcher,
        service=service,
        batches=BatchService(Batches(redis, keys), hub, service),
        thumbnails=thumbnails,
        sheets=Sheets(files, thumbnails),
        lister=TaskLister(redis, keys),
        explainer=Explainer(redis, keys, fleet, running_limit=settings.owner_running_limit),
        catalog=catalog,
        fleet=fleet,
        inputs=inputs,
        assets=Assets(redis, keys, inputs, retention=settings.input_retention),
        streams=Streams(settings.streams_limit),
        live=live,
        log_in=log_in,
        tickets=tickets,
        links=links,
        mcp=manager,
        document=Document(catalog),
    )
    return {"resources": resources, "comfyui": _comfyui(resources, keys, hub, loops)}


def _comfyui(resources: Resources, keys: Keys, hub: EventHub, loops: Loops) -> ComfyUI:
    settings, redis, files = resources.settings, resources.redis, resources.files
    tasks = OwnTasks(redis, keys, resources.lister)
    sessions = Sessions(hub, resources.live, tasks)
    loops.start("comfyui", partial(sessions.tell, loops))
    names = Names(redis, keys, retention=settings.task_retention)
    client_files = ClientFiles(names, resources.inputs, files, resources.service, tasks, settings)
    return ComfyUI(
        prompts=Prompts(resources.service, resources.fleet, client_files, settings),
        files=client_files,
        tasks=tasks,
        sessions=sessions,
        userdata=UserData(redis, keys, files, settings),
        merger=Merger(),
    )


def _keep_tidy(settings: BalancerSettings, queue: Queue, files: FileStore, inputs: Inputs, loops: Loops) -> None:
    loops.start("sweep", partial(sweeper.sweep, queue, loops, longest=settings.sweep_seconds))
    purge = partial(sweeper.purge, every=settings.purge_seconds, input_retention=settings.input_retention)
    loops.start("purge", partial(purge, queue, files, inputs, loops))


def _on_news(catalog: Catalog, fleet: Fleet, kind: str) -> None:
    if kind == "workflow":
        catalog.forget()
    elif kind == "agents":
        fleet.refresh_soon()


def _log_in(settings: BalancerSettings, redis: Any, keys: Keys) -> tuple[Credentials, Tickets, Links]:
    gate = Gate(settings, GuessLimit(redis, keys, settings))
    tickets = Tickets(redis, keys, seconds=settings.ticket_seconds)
    links = Links(redis, keys, seconds=settings.link_seconds)
    return Credentials(settings, gate, ApiKeys(redis, keys), tickets, links), tickets, links


async def _document(request: Request) -> bytes:
    resources: Resources = request.state.resources
    return await resources.document.encoded(request.app.openapi())


def _die(name: str) -> None:
    """A process whose sweep or event tail is dead must not go on looking healthy; its supervisor starts another."""
    log.critical("Stopping: a background loop died", action="loop.fatal", loop=name)
    os.kill(os.getpid(), signal.SIGTERM)
