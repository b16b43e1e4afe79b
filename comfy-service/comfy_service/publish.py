"""Loading the workflow files into Redis, once at start: agents that start together write once, an unchanged file is
not rewritten."""

from pathlib import Path
from typing import cast

import structlog
from redis.asyncio import Redis

from comfy_shared import scripts
from comfy_shared.batching import Batcher
from comfy_shared.errors import Unavailable
from comfy_shared.keys import Keys
from comfy_shared.lifecycle import Backoff, Loops
from comfy_shared.store import border
from comfy_shared.workflows import Workflow, WorkflowError, load_workflows, to_json

log = structlog.get_logger(__name__)


async def publish_folder(redis: Redis, keys: Keys, folder: Path) -> None:
    """Publishes every sound workflow of the folder; a broken one is named in the log and left out.

    Raises:
        Unavailable: Redis is away.
    """
    try:
        workflows, broken = load_workflows(folder)
    except WorkflowError as unreadable:  # the folder itself
        log.error("Workflows cannot be read", action="workflow.broken", reason=str(unreadable))
        return
    for error in broken:
        log.error("Workflow is broken", action="workflow.broken", workflow=error.workflow, reason=str(error))
    for workflow in workflows:
        if await publish(redis, keys, workflow):
            log.info("Workflow published", action="workflow.published", workflow=workflow.name, digest=workflow.digest)


async def publish(redis: Redis, keys: Keys, workflow: Workflow) -> bool:
    """Keeps a workflow under its name; False when the very same was there already. Raises Unavailable."""
    with border():
        reply = await scripts.PUBLISH(
            Batcher(redis),
            keys,
            {"workflow": keys.workflow(workflow.name)},
            name=workflow.name,
            digest=workflow.digest,
            content=to_json(workflow),
        )
    return cast("bytes", reply) == b"written"


async def publish_at_start(redis: Redis, keys: Keys, folder: Path, loops: Loops) -> None:
    """Publishes as soon as Redis answers, then waits for the stop."""
    backoff = Backoff(0.2, 5.0)
    while not loops.stop.is_set():
        try:
            await publish_folder(redis, keys, folder)
            break
        except Unavailable as error:
            log.warning("Publishing waits for Redis", action="workflow.publish_waits", reason=error.message)
            await loops.pause(backoff.next())
    await loops.stop.wait()
