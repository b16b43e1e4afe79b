"""Moments as text."""

from datetime import UTC, datetime
from functools import lru_cache


def iso(milliseconds: int) -> str:
    """Milliseconds since 1970 as ISO 8601 in UTC, with milliseconds."""
    second, rest = divmod(milliseconds, 1000)
    return f"{_second(second)}.{rest:03}Z"


@lru_cache(maxsize=256)  # what is told is mostly of now, or of one list
def _second(at: int) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat().removesuffix("+00:00")
