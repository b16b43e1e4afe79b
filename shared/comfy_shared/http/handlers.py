"""What every app of ours has at its edge: the middlewares in their order, and refusals as problem documents."""

import sys
from collections.abc import Callable
from http import HTTPStatus

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.types import Scope

from comfy_shared.errors import ComfyError, FieldProblem
from comfy_shared.http.middleware import BasicAuth, Body, BodyRule, HeaderLimit, Origin, RequestContext, no_rule
from comfy_shared.http.problems import problem_response, respond
from comfy_shared.settings import SharedSettings

STARTUP_FAILURE = 3  # the exit code at which uvicorn does not start a worker again


def refuse_unsafe(settings: SharedSettings, program: str) -> None:
    """Ends the process with one line when it must not serve with this log-in."""
    weakness = settings.password_weakness()
    if settings.production and weakness:
        sys.stderr.write(f"{program}: refusing to start with COMFY_ENV=production: {weakness}.\n")
        raise SystemExit(STARTUP_FAILURE)


def add_edge(
    app: FastAPI,
    settings: SharedSettings,
    *,
    json_limit: int,
    form_limit: int,
    form_paths: frozenset[str],
    rule_of: Callable[[Scope], BodyRule | None] = no_rule,
) -> None:
    """Puts the edge around an app. Limits are in bytes; `form_paths` take files; `rule_of` tells what paths of another
    protocol take."""
    app.add_exception_handler(ComfyError, _on_domain_error)
    app.add_exception_handler(RequestValidationError, _on_misfit)
    app.add_exception_handler(HTTPException, _on_http_error)
    # The last that is added is the first that is passed.
    app.add_middleware(Body, json_limit=json_limit, form_limit=form_limit, form_paths=form_paths, rule_of=rule_of)
    app.add_middleware(Origin)
    app.add_middleware(BasicAuth, username=settings.api_username, password=settings.api_password.get_secret_value())
    app.add_middleware(HeaderLimit)
    app.add_middleware(RequestContext)


def _request_id(request: Request) -> str:
    return str(getattr(request.state, "request_id", ""))


def _on_domain_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ComfyError)
    return respond(error, _request_id(request))


def _on_misfit(request: Request, error: Exception) -> Response:
    """Query, path and header parameters that FastAPI refused."""
    assert isinstance(error, RequestValidationError)
    problems = tuple(
        FieldProblem(field=".".join(str(part) for part in item["loc"][1:]), message=str(item["msg"]))
        for item in error.errors()
    )
    detail = "; ".join(f"{problem.field}: {problem.message}" for problem in problems[:3])
    return problem_response(422, "invalid", detail, request_id=_request_id(request), problems=problems)


def _on_http_error(request: Request, error: Exception) -> Response:
    """What the router itself refuses: an unknown path, a method that a path does not have."""
    assert isinstance(error, HTTPException)
    status = error.status_code
    codes = {
        404: ("not-found", "There is nothing at this address."),
        405: ("method-not-allowed", "Not by this method."),
    }
    code, detail = codes.get(status, (HTTPStatus(status).name.lower().replace("_", "-"), HTTPStatus(status).phrase))
    return problem_response(status, code, detail, request_id=_request_id(request), headers=error.headers)
