"""Two questions about the instance, without I/O: does it fail everything, and has it grown beyond its limit?

The breaker opens after a number of attempts in a row that failed. What a client may have caused (a node, the memory or
the time that its prompt takes) is only a reason to look at once: a prompt of our own then tells whether the instance
is well. What no client can cause is a reason to wait first, and to open again at the very next failure (half-open).
"""

from collections.abc import Mapping
from typing import Any

from comfy_shared.errors import Interrupted, NodeFailed, OutOfMemory, PromptRejected, RunError, RunTimeout

LONGEST_PAUSE = 120.0  # seconds between two looks at an instance that stays unwell
GIB = 1024**3


class Breaker:
    """Counts the attempts that failed in a row. `threshold` 0 switches it off."""

    def __init__(self, threshold: int, pause: float) -> None:
        self._threshold = threshold
        self._first_pause = pause
        self._streak = 0
        self._by_instance = False  # a failure of this streak was none that a client can cause
        self._opened = 0  # times in a row that it opened without a success in between
        self.codes: set[str] = set()  # of the failures of this streak

    def succeeded(self) -> None:
        """A task completed: all is well."""
        self._streak, self._opened, self._by_instance = 0, 0, False
        self.codes.clear()

    def failed(self, error: RunError) -> bool:
        """An attempt ended badly; whether that opens the breaker."""
        if not self._threshold or isinstance(error, PromptRejected | Interrupted):
            return False  # the instance did as it should
        self._streak += 1
        self._by_instance |= not isinstance(error, NodeFailed | OutOfMemory | RunTimeout)
        self.codes.add(error.code)
        return self._streak >= self._threshold

    def pause(self) -> float:
        """Seconds until the next look at the instance: none for what a client may have caused, else ever more."""
        if not self._by_instance:
            return 0.0
        self._opened += 1
        return float(min(LONGEST_PAUSE, self._first_pause * 2 ** min(self._opened - 1, 16)))

    def found_well(self) -> None:
        """Our own prompt succeeded: tasks may come again."""
        self._streak = self._threshold - 1 if self._by_instance else 0
        if not self._by_instance:
            self.codes.clear()

    def found_unwell(self) -> None:
        """Our own prompt failed too: whatever the reason, no client caused it."""
        self._by_instance = True


class Growth:
    """How much more of the machine's memory is taken than when it was least, as the instance tells it."""

    def __init__(self, limit: float) -> None:
        self._limit = limit  # share of all memory; 0: no limit
        self._least: int | None = None

    def beyond(self, stats: Mapping[str, Any]) -> str:
        """What to say of growth beyond the limit; empty when all is well, or the figures are no figures."""
        system = stats.get("system")
        total, free = (system.get("ram_total"), system.get("ram_free")) if isinstance(system, Mapping) else (None, None)
        if not isinstance(total, int) or not isinstance(free, int) or total <= 0:
            return ""
        used = total - free
        self._least = used if self._least is None else min(self._least, used)
        grown = used - self._least
        if not self._limit or grown <= self._limit * total:
            return ""
        return f"its machine uses {grown / GIB:.0f} GiB more memory than at first: ComfyUI should be restarted"
