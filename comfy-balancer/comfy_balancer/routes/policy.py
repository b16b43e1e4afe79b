"""Which task an idle agent gets next: read and switch the rule, at run time, for all agents at once."""

import structlog
from fastapi import APIRouter, Request, Response

from comfy_balancer.decoding import decode_body
from comfy_balancer.dependencies import Admin, Here, Json
from comfy_balancer.openapi import answer, body
from comfy_balancer.schemas import PolicyView

router = APIRouter(prefix="/policy", tags=["Agents"])
log = structlog.get_logger(__name__)


@router.get(
    "",
    summary="The scheduling policy",
    responses=answer(200, PolicyView, "The policy in force."),
    response_class=Json,
)
async def get_policy(here: Here) -> Response:
    """`lane` keeps agents on what their instances have in memory; the others are there to compare with."""
    return Json(PolicyView(policy=await here.service.queue.policy()))


@router.put(
    "",
    summary="Switch the scheduling policy",
    responses=answer(200, PolicyView, "The policy in force."),
    response_class=Json,
    openapi_extra=body(PolicyView, examples={"lane": {"policy": "lane"}}),
)
async def put_policy(request: Request, here: Here, _: Admin) -> Response:
    """Counts from the next claim of every agent on."""
    wished = decode_body(await request.body(), PolicyView, values_limit=here.settings.values_limit)
    await here.service.queue.set_policy(wished.policy)
    log.info("Scheduling policy switched", action="policy.switched", policy=wished.policy.value)
    return Json(wished)
