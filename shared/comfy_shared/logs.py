"""Every log record, ours and the libraries', as one JSON line on stdout and at Logdy.

Ours come from `structlog.get_logger(__name__)`: a constant sentence, then fields. They do not pass stdlib logging,
whose records cost more than the line; those of uvicorn and other libraries come from a handler on its root logger:

    fields, or a record's → `loglines`: cleaned, secrets masked, encoded, cut to 60 KiB → stdout, `logdy`

A field cannot pass for one that we set ourselves (timestamp, level, service, logger, message, exception), and logging
raises nothing. Each process configures its own: `configure(service="balancer", ...)`, and `close()` at the end.
"""

import contextlib
import logging
import os
import sys
import time
import traceback
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import structlog

from comfy_shared.logdy import LogdySender
from comfy_shared.loglines import LEADING, OURS, Cleaner, fit, simple_line
from comfy_shared.moments import iso

bound = structlog.contextvars.bound_contextvars  # with bound(task_id=..., attempt=...): every line inside carries these

ACCESS = "uvicorn.access"  # its logger of answers
_CHATTY = ("httpx", "httpcore", "mcp")  # a line per call at INFO: of use only when debugging

_RECORD_ATTRIBUTES = frozenset(logging.makeLogRecord({}).__dict__) | {
    "message", "asctime", "taskName",
    "color_message",  # uvicorn's second form of the message, with terminal colours
    "websocket",  # websockets' connection object
}  # fmt: skip


_LEVELS = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
    "exception": logging.ERROR,
    "critical": logging.CRITICAL,
}


def _if_written(_: Any, method: str, fields: structlog.typing.EventDict) -> structlog.typing.EventDict:
    if _current is None or _LEVELS[method] < _current.level:
        raise structlog.DropEvent
    return fields


def _as_they_are(_: Any, __: str, fields: structlog.typing.EventDict) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return (fields,), {}


class _Logger:
    """What structlog hands the fields of a line to."""

    def __init__(self, name: str = "") -> None:
        self._name = name

    def debug(self, fields: dict[str, Any]) -> None:
        _write("DEBUG", self._name, fields)

    def info(self, fields: dict[str, Any]) -> None:
        _write("INFO", self._name, fields)

    def warning(self, fields: dict[str, Any]) -> None:
        _write("WARNING", self._name, fields)

    def error(self, fields: dict[str, Any]) -> None:
        _write("ERROR", self._name, fields)

    exception = error  # its fields have `exc_info`

    def critical(self, fields: dict[str, Any]) -> None:
        _write("CRITICAL", self._name, fields)


def _write(level: str, name: str, fields: dict[str, Any]) -> None:
    if _current is not None:
        _current.write(time.time(), level, name, fields)


# One list for every `configure`: a logger keeps that of its first call, and structlog's capture_logs changes it.
_PROCESSORS: list[structlog.typing.Processor] = [_if_written, structlog.contextvars.merge_contextvars, _as_they_are]
_current: "_Handler | None" = None  # where lines of ours go


class LogSystem:
    """What `configure` set up."""

    def __init__(self, handler: "_Handler") -> None:
        self._handler = handler

    def close(self) -> None:
        """Sends what Logdy has not got yet, for at most a second, and stops logging. Closing twice is harmless."""
        global _current
        if _current is self._handler:
            _current = None
        logging.getLogger(ACCESS).propagate = self._handler.tells_requests
        logging.getLogger().removeHandler(self._handler)
        self._handler.close()


def configure(
    *,
    service: str,
    level: str = "INFO",
    logdy_host: str | None = None,
    logdy_port: int = 8475,
    static: Mapping[str, str] = MappingProxyType({}),
) -> LogSystem:
    """Routes every logger of this process through our lines; a second call replaces the first.

    Args:
        service: which tier writes, on every line.
        level: DEBUG, INFO, WARNING, ERROR or CRITICAL.
        logdy_host: where Logdy is; without it, lines go to stdout only.
        static: fields of every line, such as the agent.

    Raises:
        ValueError: there is no such level.
    """
    global _current
    number = logging.getLevelNamesMapping().get(level.upper())
    if number is None:
        raise ValueError(f"unknown log level {level!r}")
    root = logging.getLogger()
    for old in [handler for handler in root.handlers if isinstance(handler, _Handler)]:
        LogSystem(old).close()
    lines = Lines(service, static)
    sender = LogdySender(logdy_host, logdy_port, lines.dropped) if logdy_host else None
    handler = _Handler(lines, sender, number)
    root.addHandler(handler)
    _current = handler
    root.setLevel(number)
    handler.tells_requests = _take_over_uvicorn()
    _leave_out_what_no_line_tells()
    for name in _CHATTY:
        logging.getLogger(name).setLevel(logging.NOTSET if number <= logging.DEBUG else logging.WARNING)
    _take_our_own()
    return LogSystem(handler)


def _take_our_own() -> None:
    structlog.configure(
        processors=_PROCESSORS,
        wrapper_class=structlog.make_filtering_bound_logger(logging.NOTSET),  # `_if_written` knows the level
        logger_factory=_Logger,
        cache_logger_on_first_use=True,
    )


def _take_over_uvicorn() -> bool:
    """Its loggers have handlers of their own. Of each answer our edge tells more than it can; whether it is to tell of
    answers at all: not when the logger was switched off on purpose (--no-access-log)."""
    for name in ("uvicorn", "uvicorn.error"):
        logger = logging.getLogger(name)
        if logger.handlers:
            logger.handlers.clear()
            logger.propagate = True
    access = logging.getLogger(ACCESS)
    on = bool(access.handlers) or access.propagate
    access.handlers.clear()
    access.propagate = False
    return on


def tells_requests() -> bool:
    """Whether each answer to a request is to have its line."""
    return _current is not None and _current.tells_requests


def _leave_out_what_no_line_tells() -> None:
    """Where a record comes from: finding it out costs as much as the line (the logging module's own switches)."""
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    logging._srcfile = None


class _Handler(logging.Handler):
    """Writes each line to stdout and hands it to the sender."""

    def __init__(self, lines: "Lines", sender: LogdySender | None, level: int) -> None:
        super().__init__(level)
        self.tells_requests = False
        self._lines = lines
        self._sender = sender

    def emit(self, record: logging.LogRecord) -> None:
        self._put(self._lines.line(record))

    def write(self, at: float, level: str, name: str, fields: dict[str, Any]) -> None:
        """Writes a line of ours: `at` in seconds since 1970."""
        self._put(self._lines.line_of(at, level, name, fields))

    def _put(self, line: bytes) -> None:
        try:
            _write_stdout(line)
            if self._sender is not None:
                self._sender.put(line)
        except Exception:  # such as no thread to be had in a forked child
            if logging.raiseExceptions:
                traceback.print_exc()

    def close(self) -> None:
        super().close()
        if self._sender is not None:
            self._sender.close()


def _write_stdout(line: bytes) -> None:
    """Stdout may be closed, replaced, or a pipe that nobody reads any more; none of that concerns the caller."""
    try:
        sys.stdout.buffer.write(line)
        sys.stdout.buffer.flush()
    except BrokenPipeError:
        # Nothing repairs a broken pipe, and what stays in Python's buffer would turn the process's exit code into 120.
        with contextlib.suppress(OSError, ValueError):
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, sys.stdout.fileno())
            os.close(null)
    except (OSError, ValueError, AttributeError):
        pass


class Lines:
    """Makes lines out of records."""

    def __init__(self, service: str, static: Mapping[str, str] = MappingProxyType({})) -> None:
        self._service = service
        self._static = dict(static)

    def line(self, record: logging.LogRecord) -> bytes:
        """`line_of` a library's record."""
        try:
            fields = _fields(record)
        except Exception as error:
            return self._failed(record.created, record.name, error)
        if record.exc_info:
            fields.setdefault("exc_info", record.exc_info)
        return self.line_of(record.created, record.levelname, record.name, fields)

    def line_of(self, at: float, level: str, name: str, fields: Mapping[str, Any]) -> bytes:
        """One JSON object and a newline, at most 60 KiB. Never raises."""
        try:
            return self._line(self._head(at, level, name), {**self._static, **fields})
        except Exception as error:
            return self._failed(at, name, error)

    def _failed(self, at: float, name: object, error: Exception) -> bytes:
        """A log call must not break what it tells about."""
        problem = {"message": "A log record could not be written", "action": "logs.failed"}
        return fit({**self._head(at, "ERROR", str(name)[:100]), **problem, "error": type(error).__name__})

    def dropped(self, count: int) -> bytes:
        """The line that tells Logdy's readers what they miss."""
        head = self._head(time.time(), "WARNING", __name__)
        return fit({**head, "message": "Log lines were dropped", "action": "logs.dropped", "count": count})

    def _head(self, created: float, level: str, logger: str) -> dict[str, Any]:
        return {"timestamp": iso(int(created * 1000)), "level": level, "service": self._service, "logger": logger}

    def _line(self, line: dict[str, Any], fields: dict[str, Any]) -> bytes:
        if simple := simple_line(line, fields):
            return simple
        cleaner = Cleaner()
        exception = _exception_text(fields.pop("exc_info", None))
        line["logger"] = cleaner.text(line["logger"])
        line["message"] = cleaner.value(fields.pop("event", ""))
        for name in LEADING:
            if name in fields:
                line[name] = cleaner.value(fields.pop(name))
        for name, value in fields.items():
            name = cleaner.key(name)
            line[f"{name}_" if name in OURS else name] = cleaner.field(name, value)
        if exception:
            line["exception"] = cleaner.text(exception)
        if cleaner.cut:
            line["truncated"] = True
        return fit(line)


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    """The fields of a record of uvicorn's, or of anybody's."""
    fields = structlog.contextvars.get_contextvars()
    fields |= {name: value for name, value in record.__dict__.items() if name not in _RECORD_ATTRIBUTES}
    return fields | (_uvicorn_fields(record) or _message(record))


def _message(record: logging.LogRecord) -> dict[str, Any]:
    try:
        return {"event": record.getMessage()}
    except Exception:  # arguments that do not fit the format are the library's bug, not a reason to lose its words
        return {"event": record.msg, "arguments": record.args}


def _uvicorn_fields(record: logging.LogRecord) -> dict[str, Any] | None:
    """What uvicorn says about one websocket, without the query string: it may hold secrets."""
    args = record.args
    if not isinstance(args, tuple):
        return None
    if record.name == "uvicorn.error" and len(args) >= 2 and '"WebSocket %s"' in str(record.msg):
        status = args[2] if len(args) > 2 else 101 if "[accepted]" in str(record.msg) else 403
        named = {"event": "WebSocket answered", "action": "websocket.answered", "client": args[0]}
        return {**named, "path": _path(args[1]), "status": status}
    return None


def _path(target: object) -> str:
    return str(target).partition("?")[0]


def _exception_text(exc_info: object) -> str:
    if not exc_info:
        return ""
    error = (
        exc_info[1]
        if isinstance(exc_info, tuple)
        else exc_info
        if isinstance(exc_info, BaseException)
        else sys.exc_info()[1]
    )
    return "".join(traceback.format_exception(error)) if isinstance(error, BaseException) else ""
