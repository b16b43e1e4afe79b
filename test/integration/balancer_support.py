"""A balancer for tests: the app with its lifespan run, an agent with a few nodes, and a look at what was stored."""

import asyncio
import io
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import uvicorn
from fastapi import FastAPI
from PIL import Image
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource
from redis.asyncio import Redis
from starlette.types import ASGIApp, Receive, Scope, Send

from comfy_balancer.app import create_app
from comfy_balancer.settings import BalancerSettings
from comfy_shared.keys import Keys
from comfy_shared.queue import Queue
from comfy_shared.registry import Registry, Vitals, pack_offer
from comfy_shared.settings import SharedSettings
from comfy_shared.versions import Versions
from comfy_shared.workflows import load_workflow
from comfy_shared.workflows.loading import files_digest
from test.support.agents import Hand
from test.support.builders import agent_record
from test.support.waiting import wait_until

WORKFLOWS = Path(__file__).parents[2] / "workflows"
LOGIN = ("admin", "admin")
TASKS = "/api/v1/tasks"
SMOKE: dict[str, Any] = {"workflow": "smoke", "parameters": {"width": 64}}
PROMPT: dict[str, Any] = {
    "1": {"class_type": "EmptyImage", "inputs": {"width": 64, "height": 64, "batch_size": 1, "color": 0}},
    "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "test"}},
}
WITH_FILE: dict[str, Any] = {
    "1": {"class_type": "LoadImage", "inputs": {"image": "x"}},
    "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "test"}},
}


def _node(*, output: bool = False, **inputs: list[Any]) -> dict[str, Any]:
    return {"input": {"required": inputs}, "output_node": output}


OBJECT_INFO: dict[str, Any] = {
    "EmptyImage": _node(width=["INT", {}], height=["INT", {}], batch_size=["INT", {}], color=["INT", {"min": 0}]),
    "ImageScale": _node(image=["IMAGE"], upscale_method=[["nearest-exact"]], width=["INT"], height=["INT"]),
    "ImageBlur": _node(image=["IMAGE"]),
    "LoadImage": _node(image=[["example.png"], {"image_upload": True}]),
    "SaveImage": _node(output=True, images=["IMAGE"], filename_prefix=["STRING", {}]),
    "CheckpointLoaderSimple": _node(ckpt_name=[["a.safetensors", "sd\\b.safetensors"], {}]),
    "CLIPTextEncode": _node(text=["STRING", {}]),
}


class BalancerFixed(BalancerSettings):
    """`BalancerSettings` from its arguments and defaults only."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (init_settings,)


def balancer_settings(shared: SharedSettings, **changes: Any) -> BalancerFixed:
    return BalancerFixed(**(shared.model_dump() | changes))


@dataclass(kw_only=True)
class Balancer:
    """A running app, and the world around it."""

    app: FastAPI
    asgi: ASGIApp
    client: httpx.AsyncClient
    settings: BalancerSettings
    redis: Redis
    keys: Keys
    queue: Queue
    registry: Registry

    async def submit(self, body: Any = SMOKE, **options: Any) -> dict[str, Any]:
        """A task that is accepted."""
        answer = await self.client.post(TASKS, json=body, **options)
        assert answer.status_code == 202, answer.text
        task: dict[str, Any] = answer.json()
        return task

    async def hand(self, name: str = "gpu-1") -> Hand:
        """An agent with `OBJECT_INFO` that the balancer knows of."""
        offer = pack_offer(OBJECT_INFO)
        await self.registry.register(agent_record(name), Vitals(), session="s1", offer=offer, takeover=True)
        fleet = self.app.state.fleet

        async def known() -> bool:
            fleet.refresh_soon()
            return bool(await fleet.offers())

        await wait_until(known, "the balancer knows the offer")
        return Hand(self.queue, self.registry, name)

    async def traces(self) -> list[str]:
        """Keys and files that an accepted request would have left."""
        found = []
        for pattern in ("task:*", "story:*", "lane:*", "needs:*", "queue", "inputs", "input-uses", "idempotency:*"):
            found += [key.decode() async for key in self.redis.scan_iter(self.keys.base + pattern)]
        return found + await asyncio.to_thread(_files_below, Path(urlsplit(self.settings.file_store).path))


def _files_below(folder: Path) -> list[str]:
    return [str(path) for path in folder.rglob("*") if path.is_file()]


@asynccontextmanager
async def running(redis: Redis, shared: SharedSettings, **changes: Any) -> AsyncIterator[Balancer]:
    """A balancer on `redis`, called in this process."""
    settings = balancer_settings(shared, **changes)
    keys = Keys(settings.redis_namespace)
    await publish(redis, keys, "smoke", "image-to-image", "first-workflow")
    app = create_app(settings)
    async with app.router.lifespan_context(app) as state:
        assert state is not None
        app.state.fleet = state["resources"].fleet
        app.state.streams = state["resources"].streams

        async def asgi(scope: Scope, receive: Receive, send: Send) -> None:
            await app({**scope, "state": dict(state)}, receive, send)

        transport = httpx.ASGITransport(app=asgi, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://balancer", auth=LOGIN) as client:
            yield Balancer(
                app=app,
                asgi=asgi,
                client=client,
                settings=settings,
                redis=redis,
                keys=keys,
                queue=Queue(redis, keys, settings),
                registry=Registry(redis, keys, heartbeat_ttl=15, retention=3600),
            )
        poke = asyncio.create_task(_poke(redis, keys))
    await poke


async def _poke(redis: Redis, keys: Keys) -> None:
    """The tail of events waits up to a second for the next one: an event lets a stopping app go at once."""
    await asyncio.sleep(0.01)
    await redis.xadd(keys.events, {"task": "", "type": "nothing"})


async def publish(redis: Redis, keys: Keys, *names: str) -> None:
    """Publishes workflows of the repository."""
    for name in names:
        files = files_digest(WORKFLOWS, name)
        await Versions(redis, keys).publish(load_workflow(WORKFLOWS, name), author="gpu-1", files=files)


@asynccontextmanager
async def serving(balancer: Balancer) -> AsyncIterator[str]:
    """The same app behind uvicorn on a socket; yields its address."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        config = uvicorn.Config(
            balancer.asgi, lifespan="off", log_config=None, http="httptools", timeout_graceful_shutdown=1
        )
        server = uvicorn.Server(config)
        task = asyncio.create_task(server.serve(sockets=[listener]))
        await wait_until(lambda: server.started, "uvicorn serves")
        try:
            yield f"127.0.0.1:{port}"
        finally:
            server.should_exit = True
            await task


def picture(width: int = 8, height: int = 8, kind: str = "PNG", color: int = 90) -> bytes:
    """The bytes of a picture of one color."""
    data = io.BytesIO()
    Image.new("RGB", (width, height), (color, 10, 10)).save(data, kind)
    return data.getvalue()


def fields_of(answer: httpx.Response) -> list[str]:
    """The fields that a problem document names."""
    assert answer.headers["content-type"] == "application/problem+json", answer.text
    problem = answer.json()
    assert problem["status"] == answer.status_code
    assert problem["request_id"] == answer.headers["x-request-id"]
    return [error["field"] for error in problem["errors"]]
