"""The agents."""

import structlog
from fastapi import APIRouter, Response

from comfy_balancer import views
from comfy_balancer.dependencies import Admin, Here, Json, Resources
from comfy_balancer.openapi import answer
from comfy_balancer.schemas import AgentList, AgentView
from comfy_shared.errors import NotFound

router = APIRouter(prefix="/agents", tags=["Agents"])
log = structlog.get_logger(__name__)


@router.get("", summary="List agents", responses=answer(200, AgentList, "By id."), response_class=Json)
async def list_agents(here: Here) -> Response:
    """All agents that are remembered, those that fell silent too."""
    return Json(AgentList(agents=[views.agent_view(agent) for agent in await here.fleet.agents()]))


@router.get("/{agent_id}", summary="One agent", responses=answer(200, AgentView, "The agent."), response_class=Json)
async def get_agent(agent_id: str, here: Here) -> Response:
    """What an agent says of itself and its instance."""
    return Json(await _view(agent_id, here))


async def _view(agent_id: str, here: Resources) -> AgentView:
    for agent in await here.fleet.agents():
        if agent.record.id == agent_id:
            return views.agent_view(agent)
    raise NotFound("there is no such agent")


@router.post(
    "/{agent_id}/drain",
    summary="Drain an agent",
    responses=answer(200, AgentView, "It claims no more."),
    response_class=Json,
)
async def drain(agent_id: str, here: Here, _: Admin) -> Response:
    """The agent finishes what it holds and claims no more, until it is resumed."""
    await here.fleet.registry.drain(agent_id, on=True)
    log.info("Agent is to drain", action="agent.drain", agent=agent_id)
    return Json(await _view(agent_id, here))


@router.post(
    "/{agent_id}/resume",
    summary="Resume an agent",
    responses=answer(200, AgentView, "It claims again."),
    response_class=Json,
)
async def resume(agent_id: str, here: Here, _: Admin) -> Response:
    """The agent claims again."""
    await here.fleet.registry.drain(agent_id, on=False)
    log.info("Agent is to claim again", action="agent.resume", agent=agent_id)
    return Json(await _view(agent_id, here))
