"""Errors as OpenAI's clients look for them: `{"error": {"message", "type", "param", "code"}}`.

The client picks its exception by the status: 400 BadRequest, 401 Authentication, 403 PermissionDenied, 404 NotFound,
429 RateLimit, from 500 on InternalServer. It repeats 409, 429 and what is above 500 by itself, unless told not to:
a task that failed would only fail again.
"""

from typing import Any

import msgspec
from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from comfy_shared.errors import ComfyError, InvalidTask, NotFound, Refused
from comfy_shared.http.problems import RETRY_AFTER, status_and_code
from comfy_shared.models import Status, Task

LONGEST_MESSAGE = 1000
TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
CODES = {"unauthorized": "invalid_api_key", "too-many-guesses": "rate_limit_exceeded", "queue-full": "queue_full"}
ONCE = {"x-should-retry": "false"}


class NoSuchModel(NotFound):
    """There is no such model."""


class RenderFailed(ComfyError):
    """The picture could not be made."""

    def __init__(self, message: str, code: str, status: int = 500) -> None:
        super().__init__(message)
        self.code = code
        self.status = status


def shape(status: int, code: str, detail: str, _request_id: str) -> tuple[bytes, str]:
    """A refusal of the edge in OpenAI's shape."""
    return error_body(status, detail, CODES.get(code, code.replace("-", "_"))), "application/json"


def error_body(status: int, message: str, code: str | None, param: str | None = None) -> bytes:
    message = message.encode("utf-8", "replace").decode()
    kind = TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")
    param = param and param[:200].encode("utf-8", "replace").decode()
    error = {"message": message[:LONGEST_MESSAGE], "type": kind, "param": param, "code": code}
    return msgspec.json.encode({"error": error})


def told(error: ComfyError) -> tuple[int, bytes]:
    """Status and body of a domain error. Raises it again when the table of HTTP codes does not know it."""
    if isinstance(error, RenderFailed):
        return error.status, error_body(error.status, error.message, error.code)
    if isinstance(error, NoSuchModel):
        return 404, error_body(404, error.message, "model_not_found", "model")
    status, code = status_and_code(error)
    param = error.problems[0].field if isinstance(error, InvalidTask) and error.problems else None
    if status == 422:  # OpenAI's word for a field that does not fit
        status, code = 400, "invalid_value"
    return status, error_body(status, error.message, CODES.get(code, code.replace("-", "_")), param)


def on_domain_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, ComfyError)
    status, body = told(error)
    headers = {"Retry-After": RETRY_AFTER} if status in (429, 503) else {}
    if isinstance(error, RenderFailed) or (isinstance(error, Refused) and status == 409):
        headers |= ONCE
    return Response(body, status, headers=headers, media_type="application/json")


def on_http_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    status = error.status_code
    message = {404: "There is nothing at this address.", 405: "Not by this method."}.get(status, error.detail)
    body = error_body(status, message, "not_found" if status == 404 else None)
    return Response(body, status, headers=error.headers, media_type="application/json")


def on_misfit(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first: dict[str, Any] = error.errors()[0]
    field = ".".join(str(part) for part in first["loc"][1:])
    body = error_body(400, f"{field}: {first['msg']}", "invalid_value", field)
    return Response(body, 400, media_type="application/json")


def failure(task: Task) -> RenderFailed:
    """Why a task that ended has no pictures."""
    if task.status is Status.CANCELED:
        return RenderFailed("The task was canceled.", "canceled", 409)
    if task.error is None:
        return RenderFailed("The task made no picture.", "no_picture")
    where = f" (node {task.error.node}, {task.error.node_class})" if task.error.node else ""
    return RenderFailed(f"{task.error.message}{where}", task.error.code)
