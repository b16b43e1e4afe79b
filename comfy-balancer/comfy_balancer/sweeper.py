"""The balancer's own background loops: sweep lapsed leases, purge what is past its retention.

Every process of every balancer runs them; each step is atomic in Redis, so that together they do no more than one
would.
"""

import random

import structlog

from comfy_balancer.uploads import Inputs
from comfy_shared.errors import Unavailable
from comfy_shared.files import FileStore, output_folder, thumbnail_folder
from comfy_shared.lifecycle import Backoff, Loops
from comfy_shared.queue import Queue

log = structlog.get_logger(__name__)

PURGED_AT_ONCE = 200


async def sweep(queue: Queue, loops: Loops, *, longest: float) -> None:
    """Sweeps when the next lease runs out, at least every `longest` seconds."""
    backoff = Backoff(0.5, 5.0)
    while not loops.stop.is_set():
        try:
            swept = await queue.sweep()
        except Unavailable as error:
            log.warning("Sweeping waits for Redis", action="sweep.waits", reason=error.message)
            await loops.pause(backoff.next())
            continue
        backoff.reset()
        for task_id, status in swept.statuses.items():
            log.warning("Lease ran out", action="task.swept", task_id=task_id, status=status.value)
        wait = longest if swept.next_lease is None else min(longest, swept.next_lease + 0.01)
        await loops.pause(max(0.05, wait * random.uniform(0.8, 1.0)))


async def purge(
    queue: Queue,
    files: FileStore,
    inputs: Inputs,
    loops: Loops,
    *,
    every: float,
    input_retention: float,
) -> None:
    """Forgets finished tasks past their retention and deletes their files, every `every` seconds."""
    while not await loops.pause(every * random.uniform(0.8, 1.2)):
        try:
            more = True
            while more and not loops.stop.is_set():
                more = await purge_once(queue, files, inputs, input_retention=input_retention)
        except Unavailable as error:
            log.warning("Purging waits", action="purge.waits", reason=error.message)


async def purge_once(queue: Queue, files: FileStore, inputs: Inputs, *, input_retention: float) -> bool:
    """One step; True when there may be more to do. A file that cannot be deleted now is logged with its name."""
    purged = await queue.purge(input_retention_ms=int(input_retention * 1000), limit=PURGED_AT_ONCE)
    for task_id in purged.tasks:
        log.info("Task forgotten", action="task.purged", task_id=task_id)
    for task_id in purged.outputs:
        try:
            await files.delete_folder(output_folder(task_id))
            await files.delete_folder(thumbnail_folder(task_id))
        except Unavailable as error:
            log.error("Outputs stay behind", action="purge.orphan", task_id=task_id, reason=error.message)
    for sha256 in purged.inputs:
        try:
            await inputs.delete(sha256)
        except Unavailable as error:
            log.error("Input stays behind", action="purge.orphan", sha256=sha256, reason=error.message)
    return PURGED_AT_ONCE in (len(purged.tasks), len(purged.inputs))
