"""A task's id and its prompt id are the same 128 bits: 26 lowercase Crockford characters, or a canonical UUID. Pure.

So an id that a client chose leads to its task, and back, without any table.
"""

import re
from uuid import UUID

from comfy_shared.ids import ALPHABET, encode

VALUES = {character: value for value, character in enumerate(ALPHABET)}
CANONICAL = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
TASK_ID = re.compile(r"[0-7][0-9a-hjkmnp-tv-z]{25}")


def task_id_of(prompt_id: str) -> str | None:
    """The task of a prompt id; None when it is no canonical lowercase UUID."""
    if not CANONICAL.fullmatch(prompt_id):
        return None
    return encode(UUID(prompt_id).int)


def prompt_id_of(task_id: str) -> str:
    """The prompt id of a task. Raises ValueError when it is no task id."""
    if not TASK_ID.fullmatch(task_id):
        raise ValueError(f"{task_id!r} is no task id")
    value = 0
    for character in task_id:
        value = value << 5 | VALUES[character]
    return str(UUID(int=value))
