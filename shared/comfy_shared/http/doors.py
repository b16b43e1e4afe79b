"""In which shape a refusal is told: each door (a part of the address space with a contract of its own) has its own.

REST speaks problem documents; a client of another contract looks for its error where that contract puts it, also when
the log-in, a limit or the last resort refuses before the door itself is asked. `add_edge` is given a `Shapes`, the
outermost middleware notes the request's shape in its scope, and whoever refuses tells it by `refusal`.

    SHAPES = {"/v1": openai_shape, "/api/v2": envelope, "/prompt": plain}

A prefix covers itself and everything below it; of several that fit, the longest decides. A door with error handlers of
its own is a `handlers.Door`, mounted.
"""

from collections.abc import Callable, Mapping
from typing import cast

from starlette.types import Scope

from comfy_shared.http.problems import MEDIA_TYPE, problem_body

Shape = Callable[[int, str, str, str], tuple[bytes, str]]  # (status, code, detail, request id) → (body, media type)
Shapes = Mapping[str, Shape]  # path prefix, without a slash at its end → shape


def problem_shape(status: int, code: str, detail: str, request_id: str) -> tuple[bytes, str]:
    """Problem details: what every path has that belongs to no other door."""
    return problem_body(status, code, detail, request_id=request_id), MEDIA_TYPE


def find_shape(shapes: Shapes, path: str) -> Shape:
    """The shape of a path."""
    while path:
        if path in shapes:
            return shapes[path]
        path = path.rpartition("/")[0]
    return problem_shape


def shape_of(scope: Scope) -> Shape:
    """The shape that was noted for this request."""
    return cast("Shape", scope.get("state", {}).get("shape", problem_shape))


def refusal(scope: Scope, status: int, code: str, detail: str) -> tuple[bytes, str]:
    """Body and media type of a refusal of this request."""
    return shape_of(scope)(status, code, detail, str(scope.get("state", {}).get("request_id", "")))
