"""Bodies of this door, read and checked by its rules: fields that it does not know are left alone."""

import re
from collections.abc import Mapping
from typing import Any

import msgspec

from comfy_balancer.comfy_v2.errors import Refusal, invalid_request
from comfy_balancer.decoding import decode_body
from comfy_shared.errors import InvalidTask
from comfy_shared.http.problems import MalformedBody
from comfy_shared.models import PRIORITY_HIGHEST, PRIORITY_LOWEST, PRIORITY_NORMAL
from comfy_shared.partner import FIELD

LONGEST_METADATA = 1024  # bytes of metadata that is one text
MOST_LABELS = 16
LABEL_NAME = re.compile(r"[A-Za-z0-9_.-]{1,40}")
LONGEST_LABEL = 256  # bytes of a label's value
LONGEST_KEY = 4096  # characters of a key for partner nodes
HIGHEST_PRIORITY = 1_000_000  # and lowest, below zero
_ODD = re.compile(r"[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


class Submission(msgspec.Struct, frozen=True, kw_only=True):
    """What a client submits."""

    workflow: dict[str, Any]
    labels: dict[str, str] = {}  # metadata that is a map
    note: str | None = None  # metadata that is one text
    priority: int | None = None  # as given; higher goes first
    partner_key: str | None = None  # with which its nodes log in at Comfy's partners


def read_object(body: bytes, *, values_limit: int) -> dict[str, Any]:
    """A body that is a JSON object."""
    try:
        return decode_body(body, dict[str, Any], values_limit=values_limit)
    except InvalidTask as error:
        raise invalid_request(f"The body must be a JSON object: {error.message}", 400) from None
    except MalformedBody:
        raise invalid_request("Body must be JSON.", 400) from None


def read_submission(body: Mapping[str, Any]) -> Submission:
    """The fields of a submit. Raises Refusal."""
    if body.get("webhook_url") is not None or body.get("inputs") is not None:
        raise Refusal(422, "invalid_workflow", "'webhook_url' and 'inputs' are reserved and not accepted.")
    workflow = body.get("workflow")
    if not isinstance(workflow, dict):
        raise Refusal(422, "invalid_workflow", "Missing 'workflow' (API-format graph).")
    if isinstance(workflow.get("nodes"), list):
        message = "This is a UI-export graph. Export the workflow in API format instead."
        raise Refusal(422, "workflow_format_ui", message)
    labels, note = _metadata(body.get("metadata"))
    priority = _priority(body.get("priority"))
    partner_key = _partner_key(body.get("extra_data"))
    return Submission(workflow=workflow, labels=labels, note=note, priority=priority, partner_key=partner_key)


def _metadata(value: object) -> tuple[dict[str, str], str | None]:
    if value is None:
        return {}, None
    if isinstance(value, str):
        if len(value.encode()) > LONGEST_METADATA:
            raise invalid_request(f"'metadata' exceeds {LONGEST_METADATA} UTF-8 bytes.")
        return {}, value
    if not isinstance(value, dict):
        raise invalid_request("'metadata' must be a string, or an object of string labels.")
    if len(value) > MOST_LABELS:
        raise Refusal(422, "metadata_invalid", f"'metadata' has {len(value)} labels; the limit is {MOST_LABELS}.")
    for name, label in value.items():
        if problem := label_problem(name, label):
            raise Refusal(422, "metadata_invalid", problem)
    return value, None


def label_problem(name: str, value: object) -> str | None:
    """What is wrong with a label, or None."""
    if not LABEL_NAME.fullmatch(name):
        return f"The label name {name[:64]!r} must be 1 to 40 of A-Z a-z 0-9 _ - ."
    if not isinstance(value, str) or len(value.encode()) > LONGEST_LABEL or _ODD.search(value):
        return f"The label {name!r} must be a text of at most {LONGEST_LABEL} bytes without control characters."
    return None


def _priority(value: object) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int):
        raise invalid_request("'priority' must be an integer.")
    if not -HIGHEST_PRIORITY <= value <= HIGHEST_PRIORITY:
        raise invalid_request(f"'priority' must be between {-HIGHEST_PRIORITY} and {HIGHEST_PRIORITY}.")
    return value


def level_of(priority: int | None, *, highest: int) -> int:
    """Our level for a priority of the contract: 0 is normal, each step is a level, to the `highest` of the role."""
    return min(max(PRIORITY_NORMAL + (priority or 0), PRIORITY_LOWEST), min(highest, PRIORITY_HIGHEST))


def _partner_key(value: object) -> str | None:
    if value is None:
        return None
    if not isinstance(value, dict) or set(value) - {FIELD}:
        raise invalid_request("'extra_data' accepts only the 'api_key_comfy_org' field.", 400)
    key = value.get(FIELD, "")
    if not isinstance(key, str) or len(key) > LONGEST_KEY:
        raise invalid_request(f"'extra_data.{FIELD}' must be a string of at most {LONGEST_KEY} characters.", 400)
    return key or None
