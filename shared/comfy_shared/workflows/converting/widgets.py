"""The widgets of a node: what they hold after loading, and what of it is sent. As the frontend's own, quirks included.

A widget that is `kept` takes a place in widgets_values; one that is `sent` appears in the prompt. The two differ: the
control beside a seed is kept and not sent, the player of an audio node is sent and not kept.
"""

import json
import math
import re
from decimal import ROUND_HALF_UP, Decimal
from enum import StrEnum
from typing import Any

import msgspec

from comfy_shared.workflows.converting.texts import plain_text, without_choices

NOTHING = msgspec.UNSET  # JavaScript's undefined: a combo without choices that was never set
LEAST, MOST = 1e-9, 1e12  # steps and values beyond are not rounded
_ANNOTATED = re.compile(r"\[(input|output|temp)\]", re.IGNORECASE)


class Kind(StrEnum):
    """How a widget treats the value it is given."""

    PLAIN = "plain"  # keeps it
    TEXT = "text"  # a text area: whatever it is given becomes a text
    FILE = "file"  # names an uploaded file
    BLANK = "blank"  # drawn by the frontend: always an empty text


class WidgetSpec(msgspec.Struct, frozen=True, kw_only=True):
    """What a class says of one of its widgets."""

    name: str
    type: str = "STRING"
    kind: Kind = Kind.PLAIN
    options: dict[str, Any] = {}
    default: Any = NOTHING
    kept: bool = True
    sent: bool = True
    branches: dict[str, "tuple[WidgetSpec, ...]"] = {}  # a dynamic combo's: by its value, the widgets that follow it


class Widget:
    """A widget of a node."""

    def __init__(self, spec: WidgetSpec) -> None:
        self.spec = spec
        self._value: Any = spec.default
        if spec.kind is Kind.TEXT:
            self._value = plain_text(spec.default)

    def copy_as(self, name: str) -> "Widget":
        """The same widget under another name, as a subgraph shows it."""
        copy = Widget(msgspec.structs.replace(self.spec, name=name))
        copy._value = self._value
        return copy

    @property
    def value(self) -> Any:
        """What it holds."""
        match self.spec.kind:
            case Kind.BLANK:
                return ""
            case Kind.FILE:
                return self._file()
            case _:
                return self._value

    @value.setter
    def value(self, value: Any) -> None:
        self._value = plain_text(value) if self.spec.kind is Kind.TEXT else value

    def _file(self) -> Any:
        options = self.spec.options
        folder = options.get("image_folder", "input")
        value = self._value or ("undefined" if self.spec.default is NOTHING else plain_text(self.spec.default))
        if isinstance(value, list):
            paths = [_annotated(item, folder) for item in value]
            return paths if options.get("allow_batch") else paths[0]
        return _annotated(value, folder)

    @property
    def sent(self) -> Any:
        """What goes into the prompt: {a|b} resolved where the class asks for it."""
        value = self.value
        return without_choices(value) if self.spec.options.get("dynamicPrompts") and isinstance(value, str) else value

    def enter(self, value: Any) -> None:
        """Sets it as a person or a primitive node does: numbers are rounded to what the class allows."""
        self.value = rounded(self.spec, value)


def _annotated(item: Any, folder: object) -> str:
    """A file's path with the folder it is in, unless that is the input folder."""
    note = "" if folder == "input" else f" [{plain_text(folder)}]"
    if isinstance(item, dict):
        subfolder, name, place = (plain_text(item.get(key)) for key in ("subfolder", "filename", "type"))
        path = f"{subfolder}/{name}" if subfolder else name
        return path + note if place and not _ANNOTATED.search(place) else path
    path = item if isinstance(item, str) else ""
    return path if _ANNOTATED.search(path) else path + note


def rounded(spec: WidgetSpec, value: Any) -> Any:
    """A number rounded to the widget's step; a float is brought within its limits too. All else unchanged."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < MOST:
        return value
    if spec.type == "INT":
        return _rounded_integer(spec.options, value)
    return _rounded_float(spec.options, value) if spec.type == "FLOAT" else value


def _rounded_integer(options: dict[str, Any], value: float) -> int | float:
    step = number(options, "step", 1) or 1
    if step == 1:
        return value if isinstance(value, int) else math.floor(value + 0.5)
    if not LEAST < step < MOST:
        return value
    offset = math.fmod(number(options, "min", 0), step)
    result = math.floor((value - offset) / step + 0.5) * step + offset
    return int(result) if float(result).is_integer() else result


def _rounded_float(options: dict[str, Any], value: float) -> float:
    step = number(options, "step", 0.5)
    if not LEAST < step < MOST:
        return value
    precision = max(0, -math.floor(math.log10(step)))
    to = number(options, "round", 0) or (10.0**-precision if precision else 0)
    if not LEAST < to < MOST:
        return value
    result = Decimal(math.floor(value / to + 0.5) * to).quantize(Decimal(1).scaleb(-precision), ROUND_HALF_UP)
    return min(max(float(result), number(options, "min", 0)), number(options, "max", 2048))


def number(options: dict[str, Any], key: str, default: float) -> float:
    """A finite number among the options."""
    value = options.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e300:
        return default
    return value


def unknown_widget(value: Any) -> Widget:
    """The widget that stands for a value of a class that is not known."""
    if not isinstance(value, str | int | float):
        value = json.dumps(value, separators=(",", ":"), ensure_ascii=False)
    kind = Kind.TEXT if isinstance(value, str) and len(value) > 20 else Kind.PLAIN
    widget = Widget(WidgetSpec(name="UNKNOWN", kind=kind))
    widget.value = value
    return widget
