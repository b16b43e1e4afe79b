"""Outputs as assets: the id names the task and the output's place in it, so that nothing more has to be stored."""

import re

from comfy_balancer.service import TaskService
from comfy_shared.callers import Caller
from comfy_shared.errors import NotFound
from comfy_shared.models import Task

OUTPUT_ID = re.compile(r"([0-9a-z]{26})-(0|[1-9][0-9]{0,5})")


async def find_output(service: TaskService, asset_id: str, who: Caller) -> tuple[Task, int] | None:
    """The task of an output that the caller may see, and its place; None when the id is no output's.

    Raises:
        NotFound: there is no such task or output.
    """
    match = OUTPUT_ID.fullmatch(asset_id)
    if match is None:
        return None
    task = await service.get(match.group(1), who)
    index = int(match.group(2))
    if index >= len(task.outputs):
        raise NotFound("there is no such output")
    return task, index
