"""What may stand in a log line: cleaned values, encoded as JSON, at most 60 KiB. Pure.

`Cleaner` turns whatever is in a field into plain, bounded values without secrets; `fit` makes one line of them. Only
the JSON encoder makes lines: whatever a client managed to get into a field, one event is one line of valid UTF-8.
Nothing here may raise: a value that cannot be printed is named by its type.
"""

import bisect
import re
from collections.abc import Iterable, Mapping, Sequence, Set
from datetime import date
from functools import lru_cache
from itertools import islice
from pathlib import PurePath
from typing import Any
from uuid import UUID

import msgspec

MAX_LINE = 61_440  # bytes, newline included; Logdy hangs up silently from 65,536
OURS = frozenset({"timestamp", "level", "service", "logger", "message", "exception", "truncated"})
LEADING = ("action", "task_id", "attempt", "agent")  # stand before the other fields

_MASK = "***"
_LONGEST_TEXT = 2 * MAX_LINE  # characters looked at; more never fits
_LONGEST_REPR = 1_000
_LONGEST_KEY = 100
_LONGEST_SIMPLE = 4_000  # bytes
_DEEPEST = 5
_MOST_ITEMS = 100  # of one container
_MOST_VALUES = 2_000  # of one record, all containers together

# Legal in JSON, but some readers take them for a line end, a terminal command or a change of direction.
_INVISIBLE = re.compile("[\x7f-\x9f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069]")

_SECRET_WORDS = ("password", "passwd", "secret", "token", "api_key", "api-key", "apikey", "authorization", "cookie")
_SECRET_MARKS = (*_SECRET_WORDS, "basic ", "bearer ")
_URL_LOGIN = re.compile(r"://[^\s/?#\"'<>]*@")
_COOKIES = re.compile(r"(?i)(cookie[\"']?\s{0,4}[:=]\s{0,4}[\"']?)[^\r\n\"']+")
_SECRET_PAIR = re.compile(
    r"(?i)((?:password|passwd|secret|token|api[_-]?key|authorization)[\w-]{0,40}[\"']?\s{0,4}[:=]\s{0,4}(?:b?[\"'])?)"
    r"(?:(?:basic|bearer|digest|token)\s{1,4})?[^\s\"'&,;})\]]+",
)
_BEARER = re.compile(r"((?i:\bbearer)\s{1,4})[\w.~+/=-]{6,}")
_BASIC = re.compile(r"((?i:\bbasic)\s{1,4})(?=[a-z]*[A-Z0-9+/=])[\w+/=-]{6,}")  # not "basic authentication"

_SIMPLE = frozenset({str, int, float, bool, type(None)})
_NAMES = frozenset({str})
_TAKEN = OURS | {"exc_info"}
_MARKS = tuple(mark.encode() for mark in ("://", "\x7f", *_SECRET_MARKS))

_ENCODER = msgspec.json.Encoder()


def simple_line(head: Mapping[str, Any], fields: Mapping[str, Any]) -> bytes | None:
    """The line of fields that need no cleaning, which is nearly every line; None when one of them may need it.

    It is short, of plain values and ASCII, and nothing in it looks like a secret or a URL.
    """
    if not _SIMPLE.issuperset(map(type, fields.values())) or not _TAKEN.isdisjoint(fields):
        return None
    if not _NAMES.issuperset(map(type, fields)) or max(map(len, fields), default=0) >= _LONGEST_KEY:
        return None
    line = {**head, "message": fields.get("event", "")}
    for name in LEADING:
        if name in fields:
            line[name] = fields[name]
    line.update(fields)
    line.pop("event", None)
    try:
        data = _ENCODER.encode(line)
    except (OverflowError, ValueError):  # such as a lone surrogate
        return None
    lowered = data.lower()
    for mark in _MARKS:
        if mark in lowered:
            return None
    return data + b"\n" if len(data) < _LONGEST_SIMPLE and data.isascii() else None


class Cleaner:
    """Turns one record's values into plain, bounded ones without secrets; `cut` tells whether anything is missing."""

    def __init__(self) -> None:
        self.cut = False
        self._left = _MOST_VALUES

    def field(self, key: str, value: object, depth: int = 0) -> Any:
        """The value of a key, masked when the key's name says that it is a secret."""
        return _MASK if value is not None and names_secret(key) else self.value(value, depth)

    def key(self, value: object) -> str:
        return value if type(value) is str and value.isascii() and len(value) < _LONGEST_KEY else self._odd_key(value)

    def text(self, value: str) -> str:
        if len(value) > _LONGEST_TEXT:
            value, self.cut = value[:_LONGEST_TEXT], True
        if not value.isascii():
            value = value.encode("utf-8", "backslashreplace").decode()  # lone surrogates have no UTF-8
        return mask(value)

    def value(self, value: object, depth: int = 0) -> Any:
        kind = type(value)
        if kind is str:
            return self.text(value)  # type: ignore[arg-type]
        if value is None or kind is bool or kind is float:
            return value
        try:
            return self._other(value, depth)
        except Exception:  # its own code may do anything
            return f"<{self.key(kind.__name__)}: cannot be printed>"

    def _other(self, value: object, depth: int) -> Any:
        match value:
            case int():
                return int(value) if value.bit_length() <= 256 else f"<integer of {value.bit_length()} bits>"
            case float():
                return float(value)
            case str():
                return self.text(str.__str__(value))
            case bytes() | bytearray():
                self.cut = self.cut or len(value) > _LONGEST_TEXT
                return self.text(value[:_LONGEST_TEXT].decode("utf-8", "backslashreplace"))
            case Mapping() | Sequence() | Set():
                return self._container(value, depth)
            case UUID() | PurePath() | date():
                return self.text(str(value))
            case _:
                text = repr(value)
                self.cut = self.cut or len(text) > _LONGEST_REPR
                return self.text(text[:_LONGEST_REPR])

    def _container(self, value: Mapping[Any, Any] | Sequence[Any] | Set[Any], depth: int) -> Any:
        if depth >= _DEEPEST:
            self.cut = True
            return "…"
        if isinstance(value, Mapping):
            pairs = ((self.key(key), item) for key, item in self._bounded(value.items()))
            return {key: self.field(key, item, depth + 1) for key, item in pairs}
        items = list(self._bounded(value))
        if len(items) == 2 and isinstance(items[0], str | bytes):  # a header as a pair
            name = self.key(items[0])
            return (
                [name, self.field(name, items[1], depth + 1)]
                if names_secret(name)
                else [self.value(item, depth + 1) for item in items]
            )
        return [self.value(item, depth + 1) for item in items]

    def _bounded(self, items: Iterable[Any]) -> Iterable[Any]:
        iterator = iter(items)
        for item in islice(iterator, _MOST_ITEMS):
            if self._left <= 0:
                self.cut = True
                return
            self._left -= 1
            yield item
        if next(iterator, iterator) is not iterator:
            self.cut = True

    def _odd_key(self, value: object) -> str:
        text = self.value(value)
        return text[:_LONGEST_KEY] if isinstance(text, str) else str(text)[:_LONGEST_KEY]


@lru_cache(maxsize=1024)
def names_secret(key: str) -> bool:
    """Whether a key of this name holds a secret."""
    lowered = key.lower()
    return any(word in lowered for word in _SECRET_WORDS)


def mask(text: str) -> str:
    """The text without log-ins in URLs, authorization values, cookies, and what stands behind a secret's name."""
    if "://" in text:
        text = _URL_LOGIN.sub(f"://{_MASK}@", text)
    lowered = text.lower()
    if any(mark in lowered for mark in _SECRET_MARKS):
        text = _COOKIES.sub(rf"\1{_MASK}", text)
        text = _SECRET_PAIR.sub(rf"\1{_MASK}", text)
        text = _BEARER.sub(rf"\1{_MASK}", text)
        text = _BASIC.sub(rf"\1{_MASK}", text)
    return text


def fit(line: Mapping[str, Any]) -> bytes:
    """Cleaned fields as one line; what is too long loses the ends of its longest texts, then its last fields."""
    data = _encode(line)
    if len(data) < MAX_LINE:
        return data + b"\n"
    line = {**line, "truncated": True}
    shortest = 64

    def too_long(length: int) -> bool:
        return len(_encode(_shortened(line, length))) >= MAX_LINE

    fitting = bisect.bisect_left(range(shortest, MAX_LINE), True, key=too_long)
    if fitting:
        return _encode(_shortened(line, shortest + fitting - 1)) + b"\n"
    kept = {name: line[name] for name in (*OURS, *LEADING) if isinstance(line.get(name), str | int)}
    return _encode(_shortened({name: kept[name] for name in line if name in kept}, shortest)) + b"\n"


def _shortened(value: Any, length: int) -> Any:
    if isinstance(value, str):
        return value if len(value) <= length else value[:length] + "…"
    if isinstance(value, dict):
        return {key: _shortened(item, length) for key, item in value.items()}
    if isinstance(value, list):
        return [_shortened(item, length) for item in value]
    return value


def _encode(line: Mapping[str, Any]) -> bytes:
    data = _ENCODER.encode(line)
    if data.isascii() and b"\x7f" not in data:
        return data
    return _INVISIBLE.sub(lambda found: f"\\u{ord(found[0]):04x}", data.decode()).encode()
