"""Tasks for somebody who waits for them on an open connection: whoever hangs up, or waits longer than is allowed, no
longer needs them, and no GPU renders for nobody."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress

from comfy_balancer.service import TaskService
from comfy_shared.callers import Caller
from comfy_shared.errors import ComfyError
from comfy_shared.models import Task


@asynccontextmanager
async def wanted(service: TaskService, who: Caller, tasks: Sequence[Task]) -> AsyncIterator[None]:
    """While the block lasts somebody waits for the tasks; what has not ended when it is left by an error or a
    cancellation is canceled."""
    try:
        yield
    except BaseException:
        await asyncio.shield(_cancel(service, who, tasks))
        raise


async def _cancel(service: TaskService, who: Caller, tasks: Sequence[Task]) -> None:
    for task in tasks:
        with suppress(ComfyError):  # it ended, or Redis is away
            await service.cancel(task.id, who)
