"""What an OpenAI client sends, as JSON or as a form → one value. Fields that nobody here knows are left for the model.

OpenAI's own clients send `null` for what is not given, and in a form everything is text.
"""

from dataclasses import dataclass, field
from typing import Any

import msgspec
from starlette.datastructures import UploadFile
from starlette.requests import Request

from comfy_balancer.decoding import decode_body
from comfy_balancer.settings import BalancerSettings
from comfy_balancer.uploads import Upload, known_upload, parse_form
from comfy_shared.http.problems import MalformedBody, invalid

MOST_PICTURES = 10  # of one call
MOST_PARTIAL = 3
QUALITIES = frozenset({"auto", "low", "medium", "high", "xhigh", "max", "standard", "hd"})
FORMATS = frozenset({"png", "jpeg", "webp"})
# Taken and without a meaning here.
IGNORED = frozenset({"user", "safety_identifier", "moderation", "input_fidelity", "style", "complexity"})
PICTURE_PARTS = frozenset({"image", "image[]"})


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageRequest:
    """One call."""

    prompt: str
    model: str
    n: int = 1
    size: tuple[int, int] | None = None  # None: the model's own
    quality: str | None = None  # None: the model's own
    response_format: str = "b64_json"
    output_format: str | None = None  # None: as it was made
    compression: int = 100
    stream: bool = False
    partial_images: int = 0
    more: dict[str, Any] = field(default_factory=dict)  # parameters by their own names
    images: tuple[Upload, ...] = ()
    mask: Upload | None = None


def from_json(body: bytes, settings: BalancerSettings) -> ImageRequest:
    """The body of a generation. Raises InvalidTask, MalformedBody."""
    fields = decode_body(body, dict[str, Any], values_limit=settings.values_limit)
    return _request(fields, settings, images=(), mask=None)


async def from_form(request: Request, settings: BalancerSettings) -> ImageRequest:
    """The form of an edit; its pictures are known by their bytes and not stored yet. The files go with the request.

    Raises InvalidTask, MalformedBody, TooLarge.
    """
    kind = request.headers.get("content-type", "").lower()
    if not kind.startswith("multipart/form-data"):
        raise MalformedBody("The pictures of an edit come as a form (multipart/form-data).")
    form = await parse_form(request, settings)
    request.state.form = form
    fields: dict[str, Any] = {}
    images: list[Upload] = []
    mask = None
    for name, part in form.multi_items():
        if isinstance(part, UploadFile):
            if name in PICTURE_PARTS or name.startswith("image["):
                images.append(await known_upload("image", part, settings))
            elif name == "mask" and mask is None:
                mask = await known_upload("mask", part, settings)
            else:
                raise invalid(name, "takes no file; the parts are image, image[] and mask")
        elif name in fields:
            raise invalid(name, "is there twice")
        else:
            fields[name] = _value(name, part)
    if not images:
        raise invalid("image", "is required: a file part")
    return _request(fields, settings, images=tuple(images), mask=mask)


def _value(name: str, text: str) -> Any:
    """A form's text as the type that it stands for; a prompt that is a number stays a text."""
    if name in ("prompt", "model", "size", "quality"):
        return text
    try:
        value = msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError, UnicodeError):
        return text
    return value if isinstance(value, int | float | bool) or value is None else text


def _request(
    fields: dict[str, Any], settings: BalancerSettings, *, images: tuple[Upload, ...], mask: Upload | None
) -> ImageRequest:
    given = {name: value for name, value in fields.items() if value is not None and name not in IGNORED}
    stream = _take(given, "stream", bool, False)
    request = ImageRequest(
        prompt=_take(given, "prompt", str, ""),
        model=_take(given, "model", str, settings.openai_default_model),
        n=_number(given, "n", 1, 1, MOST_PICTURES),
        size=_size(_take(given, "size", str, "auto")),
        quality=_one_of(given, "quality", QUALITIES),
        response_format=_one_of(given, "response_format", frozenset({"url", "b64_json"})) or "b64_json",
        output_format=_one_of(given, "output_format", FORMATS),
        compression=_number(given, "output_compression", 100, 0, 100),
        stream=stream,
        partial_images=_number(given, "partial_images", 0, 0, MOST_PARTIAL),
        images=images,
        mask=mask,
        more=given,
    )
    _check(request)
    return request


def _check(request: ImageRequest) -> None:
    if not request.prompt:
        raise invalid("prompt", "is required")
    if not request.model:
        raise invalid("model", "is required: the name of a workflow")
    background = request.more.pop("background", "auto")
    if background not in ("auto", "opaque"):
        raise invalid("background", "must be auto or opaque", limits={"choices": ["auto", "opaque"]})
    if request.partial_images and not request.stream:
        raise invalid("partial_images", "needs stream")
    if request.stream and request.response_format == "url":
        raise invalid("response_format", "must be b64_json when the answer streams")
    if request.output_format and request.response_format == "url":
        raise invalid("output_format", "needs response_format b64_json: an address leads to the file as it was made")


def _take(given: dict[str, Any], name: str, type_: type[Any], default: Any) -> Any:
    value = given.pop(name, default)
    if type(value) is not type_:
        raise invalid(name, f"must be a {'boolean' if type_ is bool else 'text'}")
    return value


def _number(given: dict[str, Any], name: str, default: int, lowest: int, highest: int) -> int:
    value = given.pop(name, default)
    if type(value) is not int or not lowest <= value <= highest:
        limits = {"minimum": lowest, "maximum": highest}
        raise invalid(name, f"must be a whole number from {lowest} to {highest}", limits=limits)
    return value


def _one_of(given: dict[str, Any], name: str, choices: frozenset[str]) -> str | None:
    value = given.pop(name, None)
    if value is not None and (not isinstance(value, str) or value not in choices):
        known = sorted(choices)
        raise invalid(name, f"must be one of {', '.join(known)}", limits={"choices": known})
    return value


def _size(text: str) -> tuple[int, int] | None:
    if text == "auto":
        return None
    width, cross, height = text.partition("x")
    if not cross or not all(part.isascii() and part.isdecimal() and len(part) <= 5 for part in (width, height)):
        raise invalid("size", "must be WIDTHxHEIGHT, or auto")
    return int(width), int(height)
