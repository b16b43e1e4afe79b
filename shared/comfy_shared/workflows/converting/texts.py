"""Texts in widgets: how JavaScript turns values into them, dynamic prompts, and the names of saved files."""

import re
from collections.abc import Callable
from typing import Any

import msgspec

LONGEST = 1_000  # characters of a file name in which values are put, and of such a value

_COMMENT = re.compile(r"/[*/]")
_LINE_END = re.compile("[\n\r\u2028\u2029]")
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
    text = _without_comments(text)
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


def _without_comments(text: str) -> str:
    """Without /* … */ and // …; one pass, whatever the text."""
    parts: list[str] = []
    place = 0
    while opening := _COMMENT.search(text, place):
        start, end = opening.start(), -1
        if opening[0] == "//":
            line_end = _LINE_END.search(text, start)
            end = line_end.start() if line_end else len(text)
        elif (closing := text.find("*/", opening.end())) >= 0:
            end = closing + 2
        elif "//" not in text[start:]:
            break
        parts.append(text[place : start if end >= 0 else start + 1])
        place = end if end >= 0 else start + 1
    parts.append(text[place:])
    return "".join(parts)


def with_values(text: str, look_up: Callable[[str, str], Any]) -> str:
    """A file name's %Node.widget% replaced by what that widget holds; `look_up` gives UNSET for what is not there.

    %date:…% and %width% stay: the first would freeze the day of the conversion, the second is ComfyUI's own.
    """

    def replaced(match: re.Match[str]) -> str:
        parts = match[1].split(".")
        if len(parts) != 2:
            return match[0]
        value = look_up(parts[0], parts[1])
        shown = "" if value is None else script_text(value)
        return match[0] if value is msgspec.UNSET or len(shown) > LONGEST else _UNSAFE.sub("_", shown)

    return text if len(text) > LONGEST else _MACRO.sub(replaced, text)
