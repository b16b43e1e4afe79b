"""How a refusal is told in this door: `{"error": {"code", "message", "details"}}`, with the codes of the contract.

Domain errors become statuses and codes here and only here; the edge in front of the door (log-in, limits) tells its
refusals through `edge_shape`.
"""

from collections.abc import Mapping
from typing import Any

import msgspec
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from comfy_shared.errors import (
    ComfyError,
    Conflict,
    Damaged,
    Forbidden,
    IdempotencyConflict,
    InvalidTask,
    NotFound,
    QueueFull,
    TooLarge,
    Unavailable,
)
from comfy_shared.http.problems import RETRY_AFTER, MalformedBody, RangeNotSatisfiable, StorageFull, WrongMediaType

MEDIA_TYPE = "application/json"
LONGEST_MESSAGE = 500  # characters; what a client sent comes back only shortened

# The first line that fits counts: a subclass stands before its base.
TABLE: tuple[tuple[type[ComfyError], int, str], ...] = (
    (InvalidTask, 422, "invalid_request"),
    (NotFound, 404, "not_found"),
    (IdempotencyConflict, 422, "idempotency_key_reuse"),
    (Conflict, 409, "conflict"),
    (Forbidden, 403, "forbidden"),
    (QueueFull, 429, "queue_full"),
    (TooLarge, 413, "payload_too_large"),
    (StorageFull, 507, "storage_full"),
    (Unavailable, 503, "upstream_unreachable"),
    (Damaged, 503, "upstream_error"),
    (RangeNotSatisfiable, 416, "range_not_satisfiable"),
    (MalformedBody, 400, "invalid_request"),
    (WrongMediaType, 415, "invalid_request"),
)
EDGE_CODES = {
    "foreign-origin": "forbidden_origin",
    "too-large": "payload_too_large",
    "wrong-media-type": "invalid_request",
    "headers-too-large": "invalid_request",
    "unavailable": "upstream_unreachable",
    "internal": "upstream_error",
}


class Refusal(ComfyError):
    """The request is refused with a code of the contract."""

    def __init__(self, status: int, code: str, message: str, details: Mapping[str, Any] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.details = details


def invalid_request(message: str, status: int = 422) -> Refusal:
    """A field that does not fit."""
    return Refusal(status, "invalid_request", message)


def envelope(code: str, message: str, details: Mapping[str, Any] | None = None) -> bytes:
    """The body of every refusal."""
    message = message.encode("utf-8", "replace").decode()  # a lone surrogate cannot be sent
    if len(message) > LONGEST_MESSAGE:
        message = message[:LONGEST_MESSAGE] + "…"
    return msgspec.json.encode({"error": {"code": code, "message": message, "details": details}})


def edge_shape(_status: int, code: str, detail: str, _request_id: str) -> tuple[bytes, str]:
    """The shape of refusals of the edge, for `add_edge`."""
    return envelope(EDGE_CODES.get(code, code.replace("-", "_")), detail), MEDIA_TYPE


def add_handlers(app: FastAPI) -> None:
    """Has the door's app tell every refusal as an envelope."""
    app.add_exception_handler(ComfyError, _on_domain_error)
    app.add_exception_handler(RequestValidationError, _on_misfit)
    app.add_exception_handler(HTTPException, _on_http_error)


def _on_domain_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, ComfyError)
    if isinstance(error, Refusal):
        status, code, details = error.status, error.code, error.details
    else:
        found = next(((status, code) for kind, status, code in TABLE if isinstance(error, kind)), None)
        if found is None:
            raise error
        (status, code), details = found, None
    headers = {"Retry-After": RETRY_AFTER} if status in (429, 503) else {}
    if isinstance(error, RangeNotSatisfiable):
        headers["Content-Range"] = f"bytes */{error.size}"
    return Response(envelope(code, error.message, details), status, headers=headers, media_type=MEDIA_TYPE)


def _on_misfit(_: Request, error: Exception) -> Response:
    """Query, path and header parameters that FastAPI refused."""
    assert isinstance(error, RequestValidationError)
    parts = [f"{'.'.join(str(part) for part in item['loc'][1:])}: {item['msg']}" for item in error.errors()[:3]]
    return Response(envelope("invalid_request", "; ".join(parts)), 400, media_type=MEDIA_TYPE)


def _on_http_error(_: Request, error: Exception) -> Response:
    """What the router itself refuses: an unknown path, a method that a path does not have."""
    assert isinstance(error, HTTPException)
    codes = {
        404: ("not_found", "There is nothing at this address."),
        405: ("method_not_allowed", "Not by this method."),
    }
    code, message = codes.get(error.status_code, ("invalid_request", str(error.detail)))
    return Response(envelope(code, message), error.status_code, headers=error.headers, media_type=MEDIA_TYPE)
