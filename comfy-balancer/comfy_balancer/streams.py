"""How many event streams are open in this process, by owner: one owner cannot use up what all need."""

from collections import Counter
from collections.abc import AsyncIterator


class Streams:
    """Counts open streams."""

    def __init__(self, limit: int) -> None:
        self._limit = limit  # of one owner
        self._open: Counter[str] = Counter()

    def full(self, owner: str) -> bool:
        """Whether the owner has as many open as it may."""
        return self._open[owner] >= self._limit

    async def counted(self, owner: str, frames: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """The same frames; counts while they are read."""
        self._open[owner] += 1
        try:
            async for frame in frames:
                yield frame
        finally:
            self._open[owner] -= 1
            if not self._open[owner]:
                del self._open[owner]
