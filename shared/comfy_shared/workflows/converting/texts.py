"""Texts in widgets: how JavaScript turns values into them, dynamic prompts, and the names of saved files."""

import re
from collections.abc import Callable
from typing import Any

import msgspec

_COMMENT = re.compile(r"/\*.*?\*/|//[^\n\r\u2028\u2029]*", re.DOTALL)
_ESCAPED = re.compile(r"\\([{}|])")
_MACRO = re.compile(r"%([^%]+)%")
_UNSAFE = re.compile(r'[/?<>\\:*|"\x00-\x1f\x7f]')


def plain_text(value: Any) -> str:
    """A value as a text area shows it."""
    if isinstance(value, str):
        return value.replace("\r\n", "\n").replace("\r", "\n")
    return "" if value is None or value is msgspec.UNSET else script_text(value)


def script_text(value: Any) -> str:
    """A value as JavaScript writes it: true, 8 for 8.0, a list joined by commas."""
    match value:
        case str():
            return value
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case list():
            return ",".join("" if item is None else script_text(item) for item in value)
        case dict():
            return "[object Object]"
        case float() if value.is_integer() and abs(value) < 1e21:
            return str(int(value))
        case int() if value.bit_length() > 64:  # never in a saved graph; must not cost a long conversion
            return "Infinity"
        case _:
            return str(value)


def without_choices(text: str) -> str:
    r"""A dynamic prompt with comments removed and each {a|b} replaced by its first choice; `\{` stays a brace.

    The frontend draws one at each run. A workflow has no run yet, and the same graph must give the same prompt.
    """
    text = _COMMENT.sub("", text)
    parts: list[str] = []
    hidden = 0  # how many open braces have passed their first choice
    stack: list[bool] = []  # for each open brace: is its first choice over?
    place = 0
    while place < len(text):
        char = text[place]
        place += 1
        if char == "\\":
            char += text[place : place + 1]
            place += 1
        elif char == "{":
            stack.append(False)
            continue
        elif char == "}" and stack:
            hidden -= stack.pop()
            continue
        elif char == "|" and stack:
            if not stack[-1]:
                stack[-1] = True
                hidden += 1
            continue
        if not hidden:
            parts.append(char)
    return _ESCAPED.sub(r"\1", "".join(parts))


def with_values(text: str, look_up: Callable[[str, str], Any]) -> str:
    """A file name's %Node.widget% replaced by what that widget holds; `look_up` gives UNSET for what is not there.

    %date:…% and %width% stay: the first would freeze the day of the conversion, the second is ComfyUI's own.
    """

    def replaced(match: re.Match[str]) -> str:
        parts = match[1].split(".")
        if len(parts) != 2:
            return match[0]
        value = look_up(parts[0], parts[1])
        return match[0] if value is msgspec.UNSET else _UNSAFE.sub("_", "" if value is None else script_text(value))

    return _MACRO.sub(replaced, text)
