"""What commands read: JSON from a file, from standard input, or from an instance."""

import json
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from comfy_balancer.cli.errors import CommandError

LARGEST = 256 * 2**20  # bytes of a file or an answer
PATIENCE = 30  # seconds for an instance to answer
STANDARD_INPUT = "-"


def read_bytes(name: str) -> bytes:
    """A file's bytes; `-` is standard input.

    Raises:
        CommandError: it cannot be read, or is too large.
    """
    try:
        if name == STANDARD_INPUT:
            data = sys.stdin.buffer.read(LARGEST + 1)
        else:
            with Path(name).open("rb") as file:
                data = file.read(LARGEST + 1)
    except (OSError, ValueError) as error:
        raise CommandError(f"{name}: {getattr(error, 'strerror', None) or error}") from error
    return _bounded(name, data)


def read_object_info(source: str) -> dict[str, Any]:
    """Object info from a file, or from an instance whose address is given (with or without /object_info).

    Raises:
        CommandError: it cannot be read, or is no object info.
    """
    remote = source.startswith(("http://", "https://"))
    found = parse(source, _fetched(source) if remote else read_bytes(source))
    if not isinstance(found, dict) or not all(isinstance(entry, dict) for entry in found.values()):
        raise CommandError(f"{source}: this is not object info: an object of node classes")
    return found


def parse(name: str, data: bytes) -> Any:
    """The JSON in these bytes.

    Raises:
        CommandError: it is none.
    """
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise CommandError(f"{name}: this is not JSON: {error}") from error


def _fetched(address: str) -> bytes:
    plain = address.rstrip("/")
    url = plain if plain.endswith("/object_info") else f"{plain}/object_info"
    try:
        with urllib.request.urlopen(url, timeout=PATIENCE) as answer:
            data: bytes = answer.read(LARGEST + 1)
    except (OSError, ValueError) as error:
        raise CommandError(f"{url}: {getattr(error, 'reason', error)}") from error
    return _bounded(url, data)


def _bounded(name: str, data: bytes) -> bytes:
    if len(data) > LARGEST:
        raise CommandError(f"{name}: has more than {LARGEST} bytes")
    return data
