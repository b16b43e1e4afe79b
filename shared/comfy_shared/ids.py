"""Ids that sort by time: 26 characters, a ULID in lower case (https://github.com/ulid/spec)."""

import os
import time

ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"  # of 5 bits each
_PAIRS = [one + other for one in ALPHABET for other in ALPHABET]


def new_id() -> str:
    """48 bits of milliseconds since 1970, then 80 bits of chance."""
    return encode(time.time_ns() // 1_000_000 << 80 | int.from_bytes(os.urandom(10)))


def encode(value: int) -> str:
    """128 bits as an id."""
    return "".join([_PAIRS[value >> place & 1023] for place in range(120, -1, -10)])
