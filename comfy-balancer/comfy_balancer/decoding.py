"""Body bytes → frozen Structs. What does not fit becomes field problems with the path that the client wrote.

A graph is parsed once, here. It is encoded again before it is stored, so a key that stands twice in the body means
the same to the checks and to ComfyUI.
"""

import re
from typing import Any, TypeVar

import msgspec

from comfy_balancer.batch_schemas import BatchRequest
from comfy_balancer.schemas import TaskRequest
from comfy_shared.errors import InvalidTask
from comfy_shared.http.problems import MalformedBody, invalid
from comfy_shared.needs import nearest

T = TypeVar("T")

_PLACE = re.compile(r" - at `(key in )?\$(.*)`$")
_UNKNOWN = re.compile(r"Object contains unknown field `(.*)`$", re.DOTALL)
_MISSING = re.compile(r"Object missing required field `(.*)`$")
_FIELDS = sorted({*TaskRequest.__struct_fields__, *BatchRequest.__struct_fields__})


def decode_body(body: bytes, type_: type[T], *, values_limit: int, prefix: str = "") -> T:
    """Reads a JSON body.

    Parsing holds up everybody else: a body of a few MiB may hold millions of values. So they are counted first, which
    costs next to nothing; commas and brackets within texts count too, and no honest body comes near.

    Raises:
        MalformedBody: it is no JSON.
        InvalidTask: a field does not fit, or there are more than `values_limit` values.
    """
    if len(body) > values_limit and sum(body.count(mark) for mark in b"{[,") > values_limit:
        raise invalid(prefix or "body", f"holds more than {values_limit} values", limits={"maximum": values_limit})
    try:
        return msgspec.json.decode(body, type=type_)
    except msgspec.ValidationError as error:
        raise _problem(str(error), prefix) from None
    except RecursionError:
        raise invalid(prefix or "body", "is nested too deeply") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        text = str(error) if isinstance(error, msgspec.DecodeError) else "it is not UTF-8"
        raise MalformedBody(f"The body is not valid JSON: {text}") from None


def _problem(text: str, prefix: str) -> InvalidTask:
    place = ""
    if found := _PLACE.search(text):
        place = re.sub(r"\[(\d+)\]", r".\1", found.group(2)).replace("[...]", "").strip(".")
        text = text[: found.start()]
    more: dict[str, Any] = {}
    if unknown := _UNKNOWN.fullmatch(text):
        place = f"{place}.{unknown.group(1)}" if place else unknown.group(1)
        text, more = "is not a known field", {"nearest": nearest(unknown.group(1), _FIELDS)}
    elif missing := _MISSING.fullmatch(text):
        place = f"{place}.{missing.group(1)}" if place else missing.group(1)
        text = "is required"
    return invalid(".".join(part for part in (prefix, place) if part) or "body", text, **more)
