"""This agent: its registration, what it runs, drain and resume. Answered from Redis, so every worker process knows
it."""

from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Depends

from comfy_service.dependencies import Resources, resources_of
from comfy_shared.errors import NotFound
from comfy_shared.registry import Agent

router = APIRouter(tags=["agent"])

Own = Annotated[Resources, Depends(resources_of)]


async def _self(resources: Resources) -> Agent:
    for agent in await resources.registry.agents():
        if agent.record.id == resources.settings.agent:
            return agent
    raise NotFound("this agent is not registered at this moment")


@router.get("/agent", summary="This agent as the registry knows it")
async def agent(resources: Own) -> dict[str, Any]:
    found: dict[str, Any] = msgspec.to_builtins(await _self(resources))
    return found


@router.get("/task", summary="The tasks that this agent holds")
async def tasks(resources: Own) -> dict[str, Any]:
    """`running` is on the GPU; `storing` has its outputs on their way to the file store."""
    vitals = (await _self(resources)).vitals
    held = [await resources.queue.get(task_id) for task_id in await resources.queue.held(resources.settings.agent)]
    shown = [
        {
            "id": task.id,
            "attempt": task.attempt,
            "prompt_id": task.prompt_id,
            "workflow": task.workflow or None,
            "phase": "storing" if task.id in vitals.storing else "running",
            "progress": msgspec.to_builtins(task.progress),
        }
        for task in held
    ]
    return {"tasks": shown}


@router.post("/drain", status_code=202, summary="Claim no more tasks; finish what is held")
async def drain(resources: Own) -> dict[str, bool]:
    await resources.registry.drain(resources.settings.agent, on=True)
    return {"draining": True}


@router.post("/resume", status_code=202, summary="Claim tasks again")
async def resume(resources: Own) -> dict[str, bool]:
    await resources.registry.drain(resources.settings.agent, on=False)
    return {"draining": False}
