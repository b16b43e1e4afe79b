"""The queue and the history: in memory only, one prompt at a time, the lowest (number, prompt_id) first.

An item is `(number, prompt_id, prompt, extra_data, outputs_to_execute)` and the heap compares these tuples as they
are, so two items with the same number and id but different graphs raise TypeError (answered as 500) although the item
was queued: ComfyUI does exactly that.
"""

import asyncio
import heapq
from collections.abc import Callable
from typing import Any

Item = tuple[float, str, dict[str, Any], dict[str, Any], list[str]]

MAXIMUM_HISTORY = 10_000
SENSITIVE_KEYS = ("auth_token_comfy_org", "api_key_comfy_org")


class PromptQueue:
    """Pending items, the running one, and the history. `changed` is called after each change of the remaining count."""

    def __init__(self, changed: Callable[[], None]) -> None:
        self._changed = changed
        self._available = asyncio.Event()
        self.pending: list[Item] = []
        self.running: Item | None = None
        self.history: dict[str, dict[str, Any]] = {}

    def put(self, item: Item) -> None:
        heapq.heappush(self.pending, item)
        self._changed()
        self._available.set()

    def wake(self) -> None:
        """Let the worker look at its flags even when nothing is queued."""
        self._available.set()

    async def wait(self) -> None:
        """Until something was put or `wake` was called."""
        await self._available.wait()
        self._available.clear()

    def take(self) -> Item | None:
        """Make the first item the running one; None when the queue is empty."""
        if not self.pending:
            return None
        self.running = heapq.heappop(self.pending)
        self._changed()
        return self.running

    def done(self, outputs: dict[str, Any], meta: dict[str, Any], status: dict[str, Any]) -> None:
        """End the running item with its history entry; secret keys of extra_data do not get there."""
        assert self.running is not None
        number, prompt_id, prompt, extra_data, targets = self.running
        kept = {key: value for key, value in extra_data.items() if key not in SENSITIVE_KEYS}
        if len(self.history) > MAXIMUM_HISTORY:
            self.history.pop(next(iter(self.history)))
        entry = (number, prompt_id, prompt, kept, targets)
        self.history[prompt_id] = {"prompt": entry, "outputs": outputs, "status": status, "meta": meta}
        self.running = None
        self._changed()

    def remaining(self) -> int:
        return len(self.pending) + (self.running is not None)

    def clear(self) -> None:
        self.pending = []
        self._changed()

    def delete(self, prompt_id: Any) -> None:
        """Remove the first pending item of that id, if any; the running one is not touched."""
        for index, item in enumerate(self.pending):
            if item[1] == prompt_id:
                if len(self.pending) == 1:
                    self.clear()
                else:
                    self.pending.pop(index)
                    heapq.heapify(self.pending)
                self._changed()
                return

    def page(self, max_items: int | None, offset: int) -> dict[str, dict[str, Any]]:
        """History entries, oldest first: from `offset`, or the newest `max_items` when `offset` is negative."""
        if offset < 0 and max_items is not None:
            offset = len(self.history) - max_items
        found: dict[str, dict[str, Any]] = {}
        for index, (prompt_id, entry) in enumerate(self.history.items()):
            if index < offset:
                continue
            found[prompt_id] = entry
            if max_items is not None and len(found) >= max_items:
                break
        return found
