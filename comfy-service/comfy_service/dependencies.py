"""What the routes of one worker process work with."""

from dataclasses import dataclass
from typing import cast

from fastapi import Request
from redis.asyncio import Redis

from comfy_service.instance.client import Instance
from comfy_service.settings import ServiceSettings
from comfy_shared.http.login import OperatorLogIn
from comfy_shared.queue import Queue
from comfy_shared.registry import Registry


@dataclass(frozen=True, kw_only=True, slots=True)
class Resources:
    """Made at start, closed at the end."""

    settings: ServiceSettings
    redis: Redis
    queue: Queue
    registry: Registry
    log_in: OperatorLogIn
    instance: Instance  # of the routes; the agent loop has its own


async def resources_of(request: Request) -> Resources:
    return cast("Resources", request.state.resources)


async def instance_of(request: Request) -> Instance:
    return (await resources_of(request)).instance
