"""The one table error → HTTP status, and how an error is told: problem details (RFC 9457).

Domain code raises the errors of `comfy_shared.errors`; only here do they become numbers. What no line of the table
knows is a bug: 500, with nothing of it in the answer.
"""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, UnsetType
from starlette.responses import Response

from comfy_shared.errors import (
    ComfyError,
    Conflict,
    Damaged,
    FieldProblem,
    Forbidden,
    IdempotencyConflict,
    InstanceLost,
    InvalidTask,
    NotFound,
    QueueFull,
    RunError,
    TooLarge,
    Unavailable,
)

MEDIA_TYPE = "application/problem+json"
RETRY_AFTER = "2"  # seconds
MOST_PROBLEMS, LONGEST_MESSAGE, LONGEST_FIELD = 50, 500, 200


class StorageFull(Unavailable):
    """The file store is full."""


class RangeNotSatisfiable(ComfyError):
    """No such bytes."""

    def __init__(self, message: str, size: int) -> None:
        super().__init__(message)
        self.size = size  # bytes of the whole


class MalformedBody(ComfyError):
    """The body cannot be read."""


class WrongMediaType(ComfyError):
    """A body of this type is not taken here."""


class NothingMore(ComfyError):
    """The story has ended and was read to its end."""


# The first line that fits counts: a subclass stands before its base.
TABLE: tuple[tuple[type[ComfyError], int, str], ...] = (
    (InvalidTask, 422, "invalid"),
    (NotFound, 404, "not-found"),
    (IdempotencyConflict, 409, "idempotency-conflict"),
    (Conflict, 409, "conflict"),
    (Forbidden, 403, "forbidden"),
    (QueueFull, 429, "queue-full"),
    (TooLarge, 413, "too-large"),
    (StorageFull, 507, "storage-full"),
    (Unavailable, 503, "unavailable"),
    (Damaged, 503, "damaged"),
    (InstanceLost, 503, "instance-away"),
    (RunError, 502, "instance-wrong"),
    (RangeNotSatisfiable, 416, "range-not-satisfiable"),
    (MalformedBody, 400, "malformed"),
    (WrongMediaType, 415, "wrong-media-type"),
)
TITLES = {413: "Content Too Large", 422: "Unprocessable Content"}


class FieldError(msgspec.Struct, frozen=True, kw_only=True):
    """One field that does not fit."""

    field: Annotated[str, Meta(description="Where, as a dotted path of the request.", examples=["parameters.steps"])]
    message: Annotated[str, Meta(description="What is wrong, for a person.", examples=["must be at most 150"])]
    nearest: Annotated[list[str], Meta(description="Known names that look like what was sent.")] = []
    limits: Annotated[dict[str, Any], Meta(description="The limits: minimum, maximum, choices.")] = {}
    workflow: Annotated[str, Meta(description="Name of the workflow.", examples=["smoke"])] | UnsetType = UNSET
    parameter: Annotated[str, Meta(description="Name of its parameter.", examples=["steps"])] | UnsetType = UNSET
    node: Annotated[str, Meta(description="Id of the node; of several: 3, 7.", examples=["3"])] | UnsetType = UNSET


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """Why a request was refused (RFC 9457)."""

    type: Annotated[str, Meta(description="Stable URN of the kind.", examples=["urn:comfy:problem:invalid"])]
    title: Annotated[str, Meta(description="The status in words.", examples=["Unprocessable Content"])]
    status: Annotated[int, Meta(description="The HTTP status.", examples=[422])]
    detail: Annotated[str, Meta(description="What happened, for a person.", examples=["steps: must be at most 150"])]
    code: Annotated[str, Meta(description="Stable word of the kind, for programs.", examples=["invalid"])]
    request_id: Annotated[str, Meta(description="Finds this request in the logs.", examples=["01hv3n8xxt1me7can"])] = ""
    errors: Annotated[list[FieldError], Meta(description="The fields at fault, if any.")] = []


def problem_body(
    status: int,
    code: str,
    detail: str,
    *,
    request_id: str = "",
    problems: tuple[FieldProblem, ...] = (),
) -> bytes:
    """The document; what a client sent comes back only shortened."""
    errors = [
        FieldError(
            field=_short(problem.field, LONGEST_FIELD),
            message=_short(problem.message, LONGEST_MESSAGE),
            nearest=[_short(name, LONGEST_FIELD) for name in problem.nearest],
            limits=problem.limits,
            workflow=_short(problem.workflow, LONGEST_FIELD) or UNSET,
            parameter=_short(problem.parameter, LONGEST_FIELD) or UNSET,
            node=_short(problem.node, LONGEST_FIELD) or UNSET,
        )
        for problem in problems[:MOST_PROBLEMS]
    ]
    document = Problem(
        type=f"urn:comfy:problem:{code}",
        title=TITLES.get(status) or HTTPStatus(status).phrase,
        status=status,
        detail=_short(detail, LONGEST_MESSAGE),
        code=code,
        request_id=request_id,
        errors=errors,
    )
    return msgspec.json.encode(document)


def _short(text: str, most: int) -> str:
    text = text.encode("utf-8", "replace").decode()  # a lone surrogate cannot be sent
    return text if len(text) <= most else text[:most] + "…"


def problem_response(
    status: int,
    code: str,
    detail: str,
    *,
    request_id: str = "",
    problems: tuple[FieldProblem, ...] = (),
    headers: Mapping[str, str] | None = None,
) -> Response:
    body = problem_body(status, code, detail, request_id=request_id, problems=problems)
    return Response(body, status, headers=dict(headers or {}), media_type=MEDIA_TYPE)


def status_and_code(error: ComfyError) -> tuple[int, str]:
    """The table's line for an error. Raises it again when the table does not know it."""
    found = next(((status, code) for kind, status, code in TABLE if isinstance(error, kind)), None)
    if found is None:
        raise error
    return found


def respond(error: ComfyError, request_id: str) -> Response:
    """The answer to a domain error. Raises it again when the table does not know it."""
    if isinstance(error, NothingMore):
        return Response(status_code=204)
    status, code = status_and_code(error)
    headers = {"Retry-After": RETRY_AFTER} if status in (429, 503) else {}
    if isinstance(error, RangeNotSatisfiable):
        headers["Content-Range"] = f"bytes */{error.size}"
    problems = error.problems if isinstance(error, InvalidTask) else ()
    return problem_response(status, code, error.message, request_id=request_id, problems=problems, headers=headers)


def invalid(field: str, message: str, **more: Any) -> InvalidTask:
    """One field that does not fit."""
    return InvalidTask((FieldProblem(field=field, message=message, **more),))
