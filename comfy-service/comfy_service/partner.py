"""What a task's partner nodes log in with, as it goes to the instance beside the prompt."""

from comfy_shared.errors import RunError, Unavailable
from comfy_shared.models import Task
from comfy_shared.partner import FIELD, PartnerKeys
from comfy_shared.queue import Queue


class KeyUnreadable(RunError):
    """The key for partner nodes could not be read: Redis is away."""

    code = "redis"
    retryable = True


async def partner_data(queue: Queue, task: Task) -> dict[str, str]:
    """The field of extra_data that holds the key; empty when the task has none, or has it no more."""
    token = task.notes.get("partner")
    if not isinstance(token, str):
        return {}
    try:
        key = await PartnerKeys(queue.redis, queue.keys).of(token)
    except Unavailable as error:
        raise KeyUnreadable from error
    return {FIELD: key} if key else {}
