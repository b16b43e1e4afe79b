"""Conditional and partial answers (RFC 9110): which bytes a Range asks for, whether a tag fits. Pure functions."""

import re

from comfy_shared.http.problems import RangeNotSatisfiable

_RANGE = re.compile(r"\s*bytes\s*=\s*(\d{0,19})\s*-\s*(\d{0,19})\s*", re.IGNORECASE | re.ASCII)


def parse_range(header: str | None, size: int) -> tuple[int, int] | None:
    """(first, after the last) of the bytes asked for; None: all of them. Several ranges at once are answered with all.

    Raises:
        RangeNotSatisfiable: it is malformed, or lies outside.
    """
    if header is None or "," in header:
        return None
    match = _RANGE.fullmatch(header)
    if not match or match.groups() == ("", ""):
        raise RangeNotSatisfiable("Range: must be bytes=FIRST-LAST, bytes=FIRST- or bytes=-COUNT", size)
    first, last = match.groups()
    if not first:
        start, end = max(0, size - int(last)), size
    else:
        start, end = int(first), min(size, int(last) + 1 if last else size)
        if last and int(last) < int(first):
            raise RangeNotSatisfiable("Range: the last byte stands before the first", size)
    if start >= size or start >= end:
        raise RangeNotSatisfiable(f"Range: the file has {size} bytes", size)
    return start, end


def tag_fits(header: str | None, tag: str) -> bool:
    """Whether an If-None-Match names the tag."""
    if header is None:
        return False
    return any(item.strip().removeprefix("W/") in ("*", tag) for item in header.split(","))
