"""The key with which the nodes of one task log in at Comfy's partners: it goes to the instance with the prompt.

It is nobody's business but that prompt's, so it is no part of the task's record: it stands under a token of its own,
which the record names, and only for a day. A task that waits longer runs without it, and its partner nodes say so.
"""

import secrets

from redis.asyncio import Redis
from redis.exceptions import ResponseError

from comfy_shared.keys import Keys
from comfy_shared.store import border

LIFE = 86_400_000  # ms
FIELD = "api_key_comfy_org"  # of extra_data, as ComfyUI knows it


class PartnerKeys:
    """The keys of one namespace. Raises `Unavailable` while Redis is away."""

    def __init__(self, redis: Redis, keys: Keys) -> None:
        self._redis = redis
        self._keys = keys

    async def keep(self, key: str) -> str:
        """Keeps a key for a task to come; the token that stands for it."""
        token = secrets.token_hex(16)
        with border():
            await self._redis.set(self._keys.partner(token), key.encode("utf-8", "replace"), px=LIFE)
        return token

    async def of(self, token: str) -> str | None:
        """The key of a token; None when it is over."""
        try:
            with border():
                kept = await self._redis.get(self._keys.partner(token))
        except ResponseError:  # a key of another kind
            return None
        return kept.decode(errors="replace") if isinstance(kept, bytes) else None

    async def forget(self, token: str) -> None:
        """Deletes the key of a task that was not accepted."""
        with border():
            await self._redis.delete(self._keys.partner(token))
