"""Every log record, ours and the libraries', as one JSON line on stdout and at Logdy.

Ours come from `structlog.get_logger()`: a constant sentence, then fields. They travel through stdlib logging, where the
records of uvicorn and other libraries join them, so one handler on the root logger makes every line:

    record → fields → `loglines`: cleaned, secrets masked, encoded, cut to 60 KiB → stdout, `logdy`

A field cannot pass for one that we set ourselves (timestamp, level, service, logger, message, exception), and logging
raises nothing. Each process configures its own: `configure(service="balancer", ...)`, and `close()` at the end.
"""

import contextlib
import logging
import os
import sys
import traceback
from collections.abc import Mapping
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any

import structlog

from comfy_shared.logdy import LogdySender
from comfy_shared.loglines import LEADING, OURS, Cleaner, fit

bound = structlog.contextvars.bound_contextvars  # with bound(task_id=..., attempt=...): every line inside carries these

HEALTH_PATHS = frozenset({"/healthz", "/readyz"})
_CHATTY = ("httpx", "httpcore", "mcp")  # a line per call at INFO: of use only when debugging

_RECORD_ATTRIBUTES = frozenset(logging.makeLogRecord({}).__dict__) | {
    "message", "asctime", "taskName",
    "color_message",  # uvicorn's second form of the message, with terminal colours
    "websocket",  # websockets' connection object
}  # fmt: skip
# One list for every `configure`: a logger keeps that of its first call, and structlog's capture_logs changes it.
_PROCESSORS: list[structlog.typing.Processor] = [
    structlog.stdlib.filter_by_level,
    structlog.contextvars.merge_contextvars,
    structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
]


class LogSystem:
    """What `configure` set up."""

    def __init__(self, handler: "_Handler") -> None:
        self._handler = handler

    def close(self) -> None:
        """Sends what Logdy has not got yet, for at most a second, and stops logging. Closing twice is harmless."""
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
    root.setLevel(number)
    _take_over_uvicorn()
    for name in _CHATTY:
        logging.getLogger(name).setLevel(logging.NOTSET if number <= logging.DEBUG else logging.WARNING)
    structlog.configure(
        processors=_PROCESSORS,
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    return LogSystem(handler)


def _take_over_uvicorn() -> None:
    """Its loggers have handlers of their own; one that has none was switched off on purpose (--no-access-log)."""
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        logger = logging.getLogger(name)
        if logger.handlers:
            logger.handlers.clear()
            logger.propagate = True


class _Handler(logging.Handler):
    """Writes each line to stdout and hands it to the sender."""

    def __init__(self, lines: "Lines", sender: LogdySender | None, level: int) -> None:
        super().__init__(level)
        self._lines = lines
        self._sender = sender

    def emit(self, record: logging.LogRecord) -> None:
        if _is_health_check(record):
            record.levelno, record.levelname = logging.DEBUG, "DEBUG"
            if record.levelno < self.level:
                return
        try:
            line = self._lines.line(record)
            _write_stdout(line)
            if self._sender is not None:
                self._sender.put(line)
        except Exception:  # such as no thread to be had in a forked child
            self.handleError(record)

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
        """One JSON object and a newline, at most 60 KiB. Never raises."""
        try:
            return self._line(record)
        except Exception as error:  # a log call must not break what it tells about
            problem = {
                "message": "A log record could not be written",
                "action": "logs.failed",
                "error": type(error).__name__,
            }
            return fit({**self._head(record.created, "ERROR", str(record.name)[:100]), **problem})

    def dropped(self, count: int) -> bytes:
        """The line that tells Logdy's readers what they miss."""
        head = self._head(datetime.now(UTC).timestamp(), "WARNING", __name__)
        return fit({**head, "message": "Log lines were dropped", "action": "logs.dropped", "count": count})

    def _head(self, created: float, level: str, logger: str) -> dict[str, Any]:
        timestamp = datetime.fromtimestamp(created, UTC).isoformat(timespec="milliseconds").removesuffix("+00:00") + "Z"
        return {"timestamp": timestamp, "level": level, "service": self._service, "logger": logger}

    def _line(self, record: logging.LogRecord) -> bytes:
        cleaner = Cleaner()
        fields = {**self._static, **_fields(record)}
        exception = _exception_text(fields.pop("exc_info", None) or record.exc_info)
        line = self._head(record.created, record.levelname, cleaner.text(record.name))
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
    """The fields of a record of ours, of uvicorn's, or of anybody's."""
    if isinstance(record.msg, dict) and hasattr(record, "_logger"):
        return dict(record.msg)
    fields = structlog.contextvars.get_contextvars()
    fields |= {name: value for name, value in record.__dict__.items() if name not in _RECORD_ATTRIBUTES}
    return fields | (_uvicorn_fields(record) or _message(record))


def _message(record: logging.LogRecord) -> dict[str, Any]:
    try:
        return {"event": record.getMessage()}
    except Exception:  # arguments that do not fit the format are the library's bug, not a reason to lose its words
        return {"event": record.msg, "arguments": record.args}


def _uvicorn_fields(record: logging.LogRecord) -> dict[str, Any] | None:
    """What uvicorn says about one HTTP answer or websocket, without the query string: it may hold secrets."""
    args = record.args
    if not isinstance(args, tuple):
        return None
    if record.name == "uvicorn.access" and len(args) == 5:
        client, method, target, _, status = args
        named = {"event": "HTTP request answered", "action": "http.answered", "client": client, "method": method}
        return {**named, "path": _path(target), "status": status}
    if record.name == "uvicorn.error" and len(args) >= 2 and '"WebSocket %s"' in str(record.msg):
        status = args[2] if len(args) > 2 else 101 if "[accepted]" in str(record.msg) else 403
        named = {"event": "WebSocket answered", "action": "websocket.answered", "client": args[0]}
        return {**named, "path": _path(args[1]), "status": status}
    return None


def _path(target: object) -> str:
    return str(target).partition("?")[0]


def _is_health_check(record: logging.LogRecord) -> bool:
    args = record.args
    return (
        record.name == "uvicorn.access"
        and isinstance(args, tuple)
        and len(args) == 5
        and isinstance(args[2], str)
        and _path(args[2]) in HEALTH_PATHS
    )


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
