"""The agent's application: routes that operate its instance, and, in one of the worker processes, the agent itself.

    uvicorn comfy_service.app:create_app --factory --workers 2 --port 8101

However many workers serve the routes, only the one that has the leader's lock runs the agent loop.
"""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import structlog
from fastapi import FastAPI
from redis.asyncio import Redis

from comfy_service.agent import Agent
from comfy_service.dependencies import Resources
from comfy_service.instance.client import Instance
from comfy_service.leader import Leadership
from comfy_service.routes import agent, health, instance
from comfy_service.settings import ServiceSettings
from comfy_shared import logs
from comfy_shared.files import open_store
from comfy_shared.guesses import GuessLimit
from comfy_shared.http.docs import docs_router
from comfy_shared.http.handlers import add_edge, refuse_unsafe
from comfy_shared.http.login import OperatorLogIn
from comfy_shared.keys import Keys
from comfy_shared.queue import Queue
from comfy_shared.registry import Registry
from comfy_shared.store import connect

log = structlog.get_logger(__name__)

MiB = 1024 * 1024
FORM_PATHS = frozenset({"/upload/image", "/upload/mask"})


def create_app(settings: ServiceSettings | None = None) -> FastAPI:
    """The application. Without `settings` they come from the environment."""
    settings = settings or ServiceSettings()
    refuse_unsafe(settings, "comfy-service")
    app = FastAPI(
        title=f"Comfy service {settings.agent}",
        version="1",
        description="Operates the one ComfyUI of this agent. Tasks are submitted at the balancer.",
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        lifespan=partial(_lifespan, settings),
        redirect_slashes=False,
    )
    for part in (agent, instance, health):
        app.include_router(part.router)
    app.include_router(docs_router(app.title))
    add_edge(app, json_limit=MiB, form_limit=instance.LARGEST_UPLOAD + MiB, form_paths=FORM_PATHS)
    return app


@asynccontextmanager
async def _lifespan(settings: ServiceSettings, _: FastAPI) -> AsyncIterator[dict[str, Any]]:
    log_system = logs.configure(
        service="service",
        level=settings.log_level,
        logdy_host=settings.logdy_host or None,
        logdy_port=settings.logdy_port,
    )
    if weakness := settings.password_weakness():
        log.warning("THE LOG-IN IS UNSAFE: set API_PASSWORD", action="settings.unsafe", reason=weakness)
    redis = connect(settings)
    comfyui = Instance(settings.comfyui_urls, patience=settings.patience_seconds)
    stop = asyncio.Event()
    resources = _compose(settings, redis, comfyui)
    leading = asyncio.create_task(_lead(resources, redis, stop), name="agent")
    try:
        yield {"resources": resources}
    finally:
        stop.set()
        await leading
        await comfyui.close()
        await redis.aclose()
        log_system.close()


def _compose(settings: ServiceSettings, redis: Redis, comfyui: Instance) -> Resources:
    keys = Keys(settings.redis_namespace)
    return Resources(
        settings=settings,
        redis=redis,
        queue=Queue(redis, keys, settings),
        registry=Registry(redis, keys, heartbeat_ttl=settings.heartbeat_ttl, retention=settings.agent_retention),
        log_in=OperatorLogIn(settings, GuessLimit(redis, keys, settings)),
        instance=comfyui,
    )


async def _lead(resources: Resources, redis: Redis, stop: asyncio.Event) -> None:
    """Waits for the lock, then runs the agent; a process whose agent died must not go on looking healthy."""
    settings = resources.settings
    leadership = Leadership(settings.lock_folder, settings.agent)
    try:
        granted = asyncio.create_task(leadership.acquire())
        stopped = asyncio.create_task(stop.wait())
        await asyncio.wait({granted, stopped}, return_when=asyncio.FIRST_COMPLETED)
        stopped.cancel()
        if stop.is_set():
            granted.cancel()
            return
        await granted
        await Agent(settings, redis, resources.queue, resources.registry, open_store(settings)).run(stop, _die)
    except Exception:
        log.exception("The agent died", action="agent.died")
        _die("agent")
    finally:
        leadership.release()


def _die(name: str) -> None:
    log.critical("Stopping: the agent cannot go on", action="loop.fatal", loop=name)
    os.kill(os.getpid(), signal.SIGTERM)
