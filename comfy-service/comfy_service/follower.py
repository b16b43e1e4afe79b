"""Waiting for the end of one prompt: the websocket is a hint and history the truth.

An ending that a frame announces is looked up, silence is looked into, and a prompt that the instance forgot is lost.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

from comfy_service.instance.client import Instance, Place
from comfy_shared.errors import InstanceLost, RunError

HISTORY_LAG = 1.0  # seconds in which a prompt that was announced as ended must be in history


class Forgotten(RunError):
    """ComfyUI no longer knows the prompt: it was restarted, or somebody deleted it there."""

    code = "instance_lost"
    retryable = True


class Follower:
    """Waits for the end of one prompt."""

    def __init__(
        self, instance: Instance, prompt_id: str, *, silence: float, next_first: Callable[[], Awaitable[None]]
    ) -> None:
        self._instance = instance
        self._prompt_id = prompt_id
        self._silence = silence  # seconds without a frame before history is asked
        self._next_first = next_first  # waits until the next prompt is there, or there is none
        self._signal = asyncio.Event()
        self._ended = False
        self._look = False
        self._heard_at = time.monotonic()

    def heard(self, *, ended: bool) -> None:
        """A frame came; `ended` when it announces the end."""
        self._heard_at = time.monotonic()
        if ended:
            self._ended = True
            self._signal.set()

    def look(self) -> None:
        """Has history and queue asked now."""
        self._look = True
        self._signal.set()

    async def follow(self, *, look_first: bool) -> dict[str, Any]:
        """The history entry of the ended prompt.

        Raises:
            InstanceLost: the instance is gone, or knows nothing of the prompt any more.
            BadAnswer: it answers nonsense.
        """
        self._heard_at = time.monotonic()
        if look_first:
            self.look()
        misses = 0
        while True:
            try:
                entry = await self._next_look()
                misses = 0
            except InstanceLost:
                misses += 1
                if misses > 1:
                    raise
                await asyncio.sleep(0.3)
                self.look()
                continue
            if entry is not None:
                return entry

    async def _next_look(self) -> dict[str, Any] | None:
        """Waits for an announced end, a wish to look, or silence; then asks."""
        try:
            async with asyncio.timeout(max(0.05, self._heard_at + self._silence - time.monotonic())):
                await self._signal.wait()
        except TimeoutError:
            self._look = self._look or time.monotonic() >= self._heard_at + self._silence
        self._signal.clear()
        if self._ended:
            self._ended = False
            entry = await self._announced()
            if entry is not None:
                return entry
            self._look = True
        if not self._look:
            return None
        self._look = False
        self._heard_at = time.monotonic()  # the next look after another silence
        place = await self._instance.whereabouts(self._prompt_id)
        if place is Place.NOWHERE:
            raise Forgotten
        return await self._instance.history(self._prompt_id) if place is Place.ENDED else None

    async def _announced(self) -> dict[str, Any] | None:
        """Success may be announced some milliseconds before history has it."""
        await self._next_first()
        until = time.monotonic() + HISTORY_LAG
        while time.monotonic() < until:
            entry = await self._instance.history(self._prompt_id)
            if entry is not None:
                return entry
            await asyncio.sleep(0.01)  # history has no event to wait for
        return None
