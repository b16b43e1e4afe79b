"""The leases that this agent holds: renewed together, given up in time.

Whoever cannot renew must stop its run before the lease ends, because another agent may then begin the task; whoever
is told that a lease is lost
(canceled, swept, taken over) must stop at once. Both are the same call: `on_lost`, with whether Redis told so.
"""

import asyncio
import time
from collections.abc import Callable

import structlog

from comfy_shared.claims import Attempt
from comfy_shared.errors import Unavailable
from comfy_shared.lifecycle import Loops
from comfy_shared.queue import Queue

log = structlog.get_logger(__name__)


class LeaseKeeper:
    """Renews the leases of all attempts in one call per round."""

    def __init__(self, queue: Queue, session: str, *, lease: float, on_lost: Callable[[str, bool], None]) -> None:
        self._queue = queue
        self._session = session
        self._lease = lease
        self._on_lost = on_lost
        self._attempts: dict[str, int] = {}
        self._until: dict[str, float] = {}

    def hold(self, attempt: Attempt) -> None:
        """Renews this attempt from now on; it was claimed or adopted just now."""
        self._attempts[attempt.id] = attempt.number
        self._until[attempt.id] = time.monotonic() + self._lease

    def drop(self, task_id: str, number: int) -> None:
        """Renews this attempt no longer; a later attempt at the same task is left alone."""
        if self._attempts.get(task_id) == number:
            del self._attempts[task_id], self._until[task_id]

    async def run(self, loops: Loops) -> None:
        """Renews every third of a lease, and more often while Redis does not answer."""
        wait = self._lease / 3
        while not await loops.pause(wait):
            wait = self._lease / 3 if await self.renew() else self._lease / 15

    async def renew(self) -> bool:
        """One round; False when Redis did not answer."""
        attempts = dict(self._attempts)
        if not attempts:
            return True
        asked_at = time.monotonic()
        try:
            # A stalled Redis must not keep us from looking at the clock.
            async with asyncio.timeout(self._patience(asked_at)):
                lost = await self._queue.renew(self._session, attempts)
        except (Unavailable, TimeoutError):
            self._give_up_in_time()
            return False
        for task_id, number in attempts.items():
            if self._attempts.get(task_id) != number:
                continue
            if task_id in lost:
                self._lose(task_id, told=True)
            else:
                self._until[task_id] = asked_at + self._lease
        return True

    def _patience(self, now: float) -> float:
        """How long Redis may think, so that the first lease to end is still given up before it does."""
        left = min(self._until.values()) - self._lease / 5 - now
        return min(self._lease / 5, max(left, self._lease / 20))

    def _give_up_in_time(self) -> None:
        now = time.monotonic()
        for task_id, until in list(self._until.items()):
            if now > until - self._lease / 5:
                self._lose(task_id, told=False)

    def _lose(self, task_id: str, *, told: bool) -> None:
        if task_id in self._attempts:
            reason = "told" if told else "not renewed in time"
            log.warning("Lease lost", action="lease.lost", task_id=task_id, reason=reason)
            self.drop(task_id, self._attempts[task_id])
            self._on_lost(task_id, told)
