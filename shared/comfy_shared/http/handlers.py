"""What every app of ours has at its edge: the middlewares in their order, and refusals in the shape of their door."""

import sys
from collections.abc import Callable, Container
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware.errors import ServerErrorMiddleware
from starlette.types import ASGIApp, Scope

from comfy_shared.errors import ComfyError, FieldProblem
from comfy_shared.http.doors import Shapes, problem_shape, refusal, shape_of
from comfy_shared.http.login import LogIn
from comfy_shared.http.middleware import Body, BodyRule, HeaderLimit, Origin, RequestContext, no_rule
from comfy_shared.http.problems import NothingMore, problem_response, respond, status_and_code
from comfy_shared.settings import SharedSettings

STARTUP_FAILURE = 3  # the exit code at which uvicorn does not start a worker again


def refuse_unsafe(settings: SharedSettings, program: str) -> None:
    """Ends the process with one line when it must not serve with this log-in."""
    weakness = settings.password_weakness()
    if settings.production and weakness:
        sys.stderr.write(f"{program}: refusing to start with COMFY_ENV=production: {weakness}.\n")
        raise SystemExit(STARTUP_FAILURE)


class Door(FastAPI):
    """A door with exception handlers of its own: `app.mount("/v1", Door(...))`, its shape in the `shapes` of the edge.

    What it does not expect passes through to the edge of the app around it, which logs it and answers in the door's
    shape; Starlette's own last resort would answer with plain text first.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False, **options)

    def build_middleware_stack(self) -> ASGIApp:
        outermost = super().build_middleware_stack()
        assert isinstance(outermost, ServerErrorMiddleware)
        return outermost.app


def add_edge(
    app: FastAPI,
    *,
    json_limit: int,
    form_limit: int,
    form_paths: Container[str],
    shapes: Shapes | None = None,
    rule_of: Callable[[Scope], BodyRule | None] = no_rule,
) -> None:
    """Puts the edge around an app, whose lifespan yields `resources` with the check of the log-in (`log_in`).

    Limits are in bytes; `form_paths` take files; `shapes` are those of its doors; `rule_of` tells what paths of another
    protocol take.
    """
    app.add_exception_handler(ComfyError, on_domain_error)
    app.add_exception_handler(RequestValidationError, _on_misfit)
    app.add_exception_handler(HTTPException, _on_http_error)
    # The last that is added is the first that is passed.
    app.add_middleware(Body, json_limit=json_limit, form_limit=form_limit, form_paths=form_paths, rule_of=rule_of)
    app.add_middleware(Origin)
    app.add_middleware(LogIn)
    app.add_middleware(HeaderLimit)
    app.add_middleware(RequestContext, shapes=shapes or {})


def _request_id(request: Request) -> str:
    return str(getattr(request.state, "request_id", ""))


def _in_shape(request: Request, answer: Response, code: str, detail: str) -> Response:
    """A problem document as its door tells it: below a door that the router refuses before the door is asked."""
    if shape_of(request.scope) is problem_shape:
        return answer
    body, media_type = refusal(request.scope, answer.status_code, code, detail)
    kept = {name: value for name, value in answer.headers.items() if name not in ("content-type", "content-length")}
    return Response(body, answer.status_code, headers=kept, media_type=media_type)


def on_domain_error(request: Request, error: Exception) -> Response:
    """The answer to what our own code refuses."""
    assert isinstance(error, ComfyError)
    answer = respond(error, _request_id(request))
    if isinstance(error, NothingMore):
        return answer
    return _in_shape(request, answer, status_and_code(error)[1], error.message)


def _on_misfit(request: Request, error: Exception) -> Response:
    """Query, path and header parameters that FastAPI refused."""
    assert isinstance(error, RequestValidationError)
    problems = tuple(
        FieldProblem(field=".".join(str(part) for part in item["loc"][1:]), message=str(item["msg"]))
        for item in error.errors()
    )
    detail = "; ".join(f"{problem.field}: {problem.message}" for problem in problems[:3])
    answer = problem_response(422, "invalid", detail, request_id=_request_id(request), problems=problems)
    return _in_shape(request, answer, "invalid", detail)


def _on_http_error(request: Request, error: Exception) -> Response:
    """What the router itself refuses: an unknown path, a method that a path does not have."""
    assert isinstance(error, HTTPException)
    status = error.status_code
    codes = {
        404: ("not-found", "There is nothing at this address."),
        405: ("method-not-allowed", "Not by this method."),
    }
    code, detail = codes.get(status, (HTTPStatus(status).name.lower().replace("_", "-"), HTTPStatus(status).phrase))
    answer = problem_response(status, code, detail, request_id=_request_id(request), headers=error.headers)
    return _in_shape(request, answer, code, detail)
