"""For load balancers and containers, without a log-in: nothing but yes or no."""

import asyncio
from typing import Annotated

import structlog
from fastapi import APIRouter, Depends, Response

from comfy_service.dependencies import Resources, resources_of
from comfy_shared.errors import ComfyError
from comfy_shared.store import border

router = APIRouter(tags=["health"])
log = structlog.get_logger(__name__)

PATIENCE = 1.0  # seconds for Redis


@router.head("/healthz", include_in_schema=False)
@router.get("/healthz", summary="This process answers")
async def healthz() -> dict[str, str]:
    return {"status": "ok"}


@router.head("/readyz", include_in_schema=False)
@router.get("/readyz", summary="Redis answers, and the agent is registered")
async def readyz(response: Response, resources: Annotated[Resources, Depends(resources_of)]) -> dict[str, str]:
    """A ComfyUI that is absent leaves the agent ready: it waits for it and says so in its registration."""
    try:
        async with asyncio.timeout(PATIENCE):
            with border():
                known = await resources.redis.exists(resources.queue.keys.agent(resources.settings.agent))
    except (ComfyError, TimeoutError) as error:
        log.warning("Not ready", action="health.not_ready", reason=str(error) or type(error).__name__)
        known = 0
    response.status_code = 200 if known else 503
    return {"status": "ok" if known else "unavailable"}
