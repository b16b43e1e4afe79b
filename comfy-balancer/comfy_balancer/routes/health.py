"""For load balancers, without a log-in: nothing but yes or no."""

import asyncio

import structlog
from fastapi import APIRouter, Response

from comfy_balancer.dependencies import Here, Json, Resources
from comfy_balancer.openapi import answer
from comfy_balancer.schemas import Health
from comfy_shared.errors import ComfyError
from comfy_shared.store import border

router = APIRouter(tags=["Health"])
log = structlog.get_logger(__name__)


@router.head("/healthz", include_in_schema=False)
@router.get("/healthz", summary="Alive?", responses=answer(200, Health, "Alive."), response_class=Json)
async def healthz() -> Response:
    """This process answers."""
    return Json(Health(status="ok"))


@router.head("/readyz", include_in_schema=False)
@router.get(
    "/readyz",
    summary="Ready?",
    responses=answer(200, Health, "Ready.") | answer(503, Health, "Redis or the file store does not answer."),
    response_class=Json,
)
async def readyz(here: Here) -> Response:
    """Redis and the file store answer, too."""
    try:
        async with asyncio.timeout(here.settings.ready_seconds):
            await _ask(here)
    except (ComfyError, TimeoutError) as error:
        log.warning("Not ready", action="health.not_ready", reason=str(error) or type(error).__name__)
        return Json(Health(status="unavailable"), 503, headers={"Retry-After": "2"})
    return Json(Health(status="ok"))


async def _ask(here: Resources) -> None:
    with border():
        await here.redis.ping()
    await here.files.exists("readyz")  # whether it is there does not matter
