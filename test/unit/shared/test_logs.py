"""Log lines: their shape, that nothing breaks them, that no secret gets out, and what the Logdy page needs of them."""

import json
import logging
import logging.config
import shutil
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from datetime import datetime
from enum import IntEnum, StrEnum
from pathlib import Path
from typing import Any

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st
from starlette.types import Message, Receive, Scope, Send
from uvicorn.config import LOGGING_CONFIG

from comfy_shared.http.middleware import RequestContext
from comfy_shared.logdy import BATCH, Limits, Outbox
from comfy_shared.loglines import MAX_LINE, Cleaner, fit, mask
from comfy_shared.logs import Lines, bound, configure

LOGDY = Path(__file__).parents[3] / "logdy"

ReadLines = Callable[[], list[dict[str, Any]]]


@pytest.fixture
def written(capsys: pytest.CaptureFixture[str]) -> Iterator[ReadLines]:
    """Logging as a tier sets it up; returns what was written since the last call."""
    system = configure(service="balancer", level="INFO", static={"version": "1.2.3"})
    yield lambda: [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    system.close()


def record(message: object, *args: object, name: str = "a.library", level: int = logging.INFO) -> logging.LogRecord:
    return logging.LogRecord(name, level, __file__, 1, message, args, None)


def line_of(**fields: object) -> bytes:
    """The line of one of our own events."""
    return Lines("balancer").line_of(1_795_000_000.5, "INFO", "comfy", {"event": "Something happened", **fields})


def fields_of(**fields: object) -> dict[str, Any]:
    line = line_of(**fields)
    assert line.endswith(b"\n")
    assert len(line) <= MAX_LINE
    assert len(line.decode().splitlines()) == 1, "one event is one line for every reader"
    return strict_json(line)


def strict_json(line: bytes) -> dict[str, Any]:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    fields = json.loads(line, parse_constant=refuse)
    assert isinstance(fields, dict)
    return fields


# --- shape


def test_a_line_has_its_fields_in_order(written: ReadLines) -> None:
    """Ours first, then what ties the line to a task, then the rest."""
    with bound(agent="gpu-1", attempt=2, task_id="01J"):
        structlog.get_logger("comfy.queue").info("Task claimed", waited=1.5, action="task.claimed")
    (line,) = written()
    ours = ["timestamp", "level", "service", "logger", "message", "action", "task_id", "attempt", "agent"]
    assert list(line) == [*ours, "version", "waited"]
    assert line["timestamp"].endswith("Z")
    assert len(line["timestamp"]) == len("2026-11-23T06:00:00.123Z")
    assert datetime.fromisoformat(line["timestamp"]).tzinfo is not None
    assert (line["level"], line["service"], line["logger"]) == ("INFO", "balancer", "comfy.queue")
    assert (line["message"], line["action"], line["version"]) == ("Task claimed", "task.claimed", "1.2.3")


def test_bound_fields_end_with_their_block(written: ReadLines) -> None:
    log = structlog.get_logger("x")
    with bound(task_id="01J"):
        log.info("Inside")
    log.info("Outside")
    inside, outside = written()
    assert inside["task_id"] == "01J"
    assert "task_id" not in outside


def test_an_exception_is_one_text_on_the_line(written: ReadLines) -> None:
    """Type, message and traceback, from `exception` and from `exc_info` of any logger."""
    try:
        raise RuntimeError("GPU on fire\nreally")
    except RuntimeError as error:
        structlog.get_logger("x").exception("Prompt failed")
        structlog.get_logger("x").warning("Prompt failed", exc_info=error)
        logging.getLogger("library").exception("Prompt failed")
    lines = written()
    assert len(lines) == 3
    for line in lines:
        assert "Traceback (most recent call last)" in line["exception"]
        assert "RuntimeError: GPU on fire\nreally" in line["exception"]


def test_records_of_libraries_are_the_same_lines(written: ReadLines) -> None:
    """With bound fields and their own extras."""
    with bound(task_id="01J"):
        logging.getLogger("some.library").warning(
            "%d of %d", 1, 2, extra={"action": "library.counted", "colour": "red"}
        )
    (line,) = written()
    assert (line["logger"], line["level"], line["message"]) == ("some.library", "WARNING", "1 of 2")
    assert (line["task_id"], line["action"], line["colour"]) == ("01J", "library.counted", "red")


def test_a_record_whose_arguments_do_not_fit_keeps_its_words() -> None:
    line = strict_json(Lines("balancer").line(record("%d tasks", "many")))
    assert (line["message"], line["arguments"]) == ("%d tasks", ["many"])


def test_levels_below_the_configured_one_are_not_written(written: ReadLines) -> None:
    structlog.get_logger("x").debug("Quiet")
    logging.getLogger("library").debug("Quiet")
    logging.getLogger("httpx").info("HTTP Request: GET http://127.0.0.1:8188/queue")
    structlog.get_logger("x").info("Loud")
    assert [line["message"] for line in written()] == ["Loud"]


def test_an_unknown_level_is_refused() -> None:
    with pytest.raises(ValueError, match="LOUD"):
        configure(service="balancer", level="LOUD")


def test_configuring_twice_writes_once(written: ReadLines) -> None:
    second = configure(service="agent")
    structlog.get_logger("x").info("Once")
    assert [line["service"] for line in written()] == ["agent"]
    second.close()
    second.close()


# --- uvicorn


@pytest.fixture
def uvicorn_set_up() -> Iterator[None]:
    """uvicorn's own logging, as its command line sets it up before it loads the app."""
    logging.config.dictConfig(LOGGING_CONFIG)
    yield
    for name in LOGGING_CONFIG["loggers"]:
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True


async def answer(path: str = "/api/v1/tasks", status: int = 200) -> None:
    """One request through the edge, below uvicorn, which would tell of it too."""
    logging.getLogger("uvicorn.access").info('%s - "%s %s HTTP/%s" %d', "c", "GET", f"{path}?token=hidden", "1.1", 200)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": status, "headers": []})

    async def ignore(message: Message) -> None:
        pass

    async def receive() -> Message:
        raise AssertionError("nobody reads the body")

    scope = {"type": "http", "method": "GET", "path": path, "query_string": b"token=hidden", "headers": []}
    await RequestContext(app, {})({**scope, "client": ("10.0.0.1", 5000)}, receive, ignore)


@pytest.mark.usefixtures("uvicorn_set_up")
async def test_an_answer_is_told_once_and_without_the_query_string(written: ReadLines) -> None:
    """Although uvicorn's own logging set-up came first."""
    await answer(status=404)
    (line,) = written()
    assert line["message"] == "HTTP request answered"
    assert [line[name] for name in ("client", "method", "path", "status")] == [
        "10.0.0.1:5000", "GET", "/api/v1/tasks", 404,
    ]  # fmt: skip
    assert len(line["request_id"]) == 26
    assert "hidden" not in json.dumps(line)


@pytest.mark.usefixtures("uvicorn_set_up")
async def test_answers_that_were_switched_off_are_not_told(capsys: pytest.CaptureFixture[str]) -> None:
    """What --no-access-log does to uvicorn's logger."""
    access = logging.getLogger("uvicorn.access")
    access.handlers.clear()
    access.propagate = False
    system = configure(service="balancer")
    await answer()
    system.close()
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("form", "rest", "status"),
    [("[accepted]", (), 101), ("403", (), 403), ("%d", (401,), 401)],
)
def test_websocket_records_are_fields_without_the_query_string(form: str, rest: tuple[int, ...], status: int) -> None:
    made = record(f'%s - "WebSocket %s" {form}', "10.0.0.1:5000", "/ws?clientId=hidden", *rest, name="uvicorn.error")
    line = strict_json(Lines("balancer").line(made))
    assert (line["path"], line["status"]) == ("/ws", status)
    assert "hidden" not in json.dumps(line)


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
async def test_health_checks_are_debug(capsys: pytest.CaptureFixture[str], path: str) -> None:
    for level, count in (("INFO", 0), ("DEBUG", 1)):
        system = configure(service="balancer", level=level)
        await answer(path)
        lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        system.close()
        assert [line["level"] for line in lines] == ["DEBUG"] * count


# --- nothing breaks a line


class Hostile:
    def __repr__(self) -> str:
        raise RuntimeError("no")


class Color(StrEnum):
    RED = "red"


class Number(IntEnum):
    ONE = 1


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ('a\nb\r\x00"}\n{"level": "ERROR"}', 'a\nb\r\x00"}\n{"level": "ERROR"}'),
        ("a\u2028b\u2029c\x85d\x1b[31m\x9b31m\x7f\u202e", "a\u2028b\u2029c\x85d\x1b[31m\x9b31m\x7f\u202e"),
        ("lone \ud800 surrogate", "lone \\ud800 surrogate"),
        ("grüße 🎨", "grüße 🎨"),
        (b"\xff\x00text", "\\xff\x00text"),
        (float("nan"), None),
        (float("inf"), None),
        (2**64 - 1, 2**64 - 1),
        (1 << 16_609, "<integer of 16610 bits>"),
        (Hostile(), "<Hostile: cannot be printed>"),
        (Color.RED, "red"),
        (Number.ONE, 1),
        (uuid.UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        ({1: "a", None: (1, 2, 3), "\ud800": {"x"}}, {"1": "a", "None": [1, 2, 3], "\\ud800": ["x"]}),
        (None, None),
        (True, True),
    ],
    ids=lambda value: type(value).__name__,
)
def test_any_value_stays_one_line_of_json(value: object, shown: object) -> None:
    """Line ends, control characters, surrogates, bytes, NaN and foreign objects."""
    assert fields_of(value=value)["value"] == shown


def test_fields_that_readers_take_for_line_ends_or_commands_are_escaped() -> None:
    line = line_of(value="\x7f\x9b\x85\u2028\u2029\u202e\n\x1b")
    assert line[:-1].decode().isprintable()


def test_a_field_cannot_pass_for_ours() -> None:
    """A client's field named like one of ours gets another name."""
    line = fields_of(level="CRITICAL", timestamp="1999", service="evil", logger="evil", message="evil", truncated=True)
    assert (line["level"], line["service"], line["message"]) == ("INFO", "balancer", "Something happened")
    assert (line["level_"], line["message_"], line["truncated_"]) == ("CRITICAL", "evil", True)
    assert "truncated" not in line


def test_endless_and_deep_values_are_cut() -> None:
    loop: dict[str, object] = {}
    loop["again"] = loop
    wide = [[[[0] * 200] * 200] * 200] * 200
    line = fields_of(loop=loop, wide=wide)
    assert line["truncated"] is True
    assert "…" in json.dumps(line["loop"], ensure_ascii=False)


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.integers(), inner) | st.tuples(inner, inner),
    max_leaves=8,
)


@given(st.dictionaries(st.text(), anything))
def test_every_event_is_one_line(fields: dict[str, object]) -> None:
    fields_of(**{name: value for name, value in fields.items() if name not in {"event", "exc_info"}})


@given(st.text(st.characters(codec=None, categories=["Cc", "Cf", "Cs", "Zl", "Zp", "So"]), max_size=50))
def test_every_text_is_one_line(text: str) -> None:
    fields_of(value=text)


# --- at most 60 KiB


@pytest.mark.parametrize("unit", ["x", "ü", "🎨", "\x00", '"', "\u2028", "\ud800"])
def test_a_line_that_is_too_long_is_cut(unit: str) -> None:
    """To nearly the whole length, still JSON, never inside a character."""
    line = line_of(task_id="01J", value=unit * 100_000)
    assert MAX_LINE - 100 < len(line) <= MAX_LINE
    fields = strict_json(line)
    assert fields["truncated"] is True
    assert fields["task_id"] == "01J"
    assert fields["value"].endswith("…")


def test_the_longest_text_is_cut_first() -> None:
    fields = fields_of(short="s" * 5_000, long="l" * 90_000, nested={"longer": ["m" * 95_000]})
    assert fields["short"] == "s" * 5_000
    assert abs(len(fields["long"]) - len(fields["nested"]["longer"][0])) <= 1
    assert fields["truncated"] is True


def test_a_line_just_short_enough_is_left_alone() -> None:
    room = MAX_LINE - len(line_of(value=""))
    assert "truncated" not in strict_json(line_of(value="x" * room))
    assert strict_json(line_of(value="x" * (room + 1)))["truncated"] is True


def test_more_fields_than_fit_leave_those_that_matter() -> None:
    fields = fields_of(task_id="01J", **{f"field_{number}": number for number in range(10_000)})
    assert (fields["task_id"], fields["message"], fields["truncated"]) == ("01J", "Something happened", True)
    assert "field_1" not in fields


# --- secrets

SECRET = "s3cr3t-Value"


@pytest.mark.parametrize(
    "fields",
    [
        {"password": SECRET},
        {"API_KEY": SECRET},
        {"redis_password": SECRET},
        {"access-token": SECRET},
        {"headers": {"Authorization": f"Basic {SECRET}", "Set-Cookie": f"session={SECRET}"}},
        {"headers": [(b"authorization", f"Bearer {SECRET}".encode()), (b"accept", b"*/*")]},
        {"nested": [{"deeper": {"client_secret": SECRET}}]},
        {"url": f"redis://user:{SECRET}@redis:6379/0"},
        {"url": f"redis://:p@{SECRET}@redis:6379/0"},
        {"url": f"https://{SECRET}@host/path"},
        {"url": f"https://host/path?a=1&token={SECRET}&b=2"},
        {"text": f"sent Authorization: Basic {SECRET} to it"},
        {"text": f"Bearer {SECRET}"},
        {"text": f"curl -H 'Cookie: a=1; session={SECRET}'"},
        {"text": f"{{'password': '{SECRET}', 'x': 1}}"},
        {"text": "Basic Y29tZnk6czNjcjN0LVZhbHVl"},
        {"object": type("Config", (), {"__repr__": lambda self: f"Config(password='{SECRET}')"})()},
        {"event": f"Cannot reach redis://:{SECRET}@redis:6379"},
    ],
)
def test_secrets_are_masked(fields: dict[str, object]) -> None:
    line = line_of(**fields).decode()
    assert SECRET not in line
    assert "Y29tZnk6" not in line
    assert "***" in line


def test_secrets_in_a_traceback_are_masked() -> None:
    made = line_of(exc_info=ConnectionError(f"cannot reach redis://:{SECRET}@redis:6379/0"))
    assert SECRET.encode() not in made
    assert b"ConnectionError: cannot reach redis://***@redis:6379/0" in made


@pytest.mark.parametrize(
    "text",
    ["a basic authentication scheme", "http://host:8188/view?filename=a@b.png", "seed=5, steps: 20", "mail a@b.c"],
)
def test_ordinary_text_is_not_masked(text: str) -> None:
    assert mask(text) == text


@pytest.mark.parametrize(
    "text", ["://" * 40_000, "token" * 24_000, "a-" * 60_000 + "token", "cookie:" * 17_000, "bearer " * 17_000]
)
def test_masking_takes_time_in_proportion_to_the_text(text: str) -> None:
    """A regular expression that backtracks would run into the time limit of the test."""
    for _ in range(20):
        Cleaner().text(text)


# --- stdout and processes


@pytest.mark.parametrize("stdout", ["closed", "broken"])
def test_logging_outlives_stdout(stdout: str) -> None:
    """And the process still ends with exit code 0."""
    program = (
        "import os, sys, structlog\n"
        "from comfy_shared.logs import configure\n"
        f"if {stdout == 'closed'}: sys.stdout.close()\n"
        "system = configure(service='x')\n"
        "sys.stdin.read(1)\n"
        "for _ in range(1000): structlog.get_logger().info('Still here')\n"
        "system.close(); sys.stderr.write('alive')\n"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None
    child.stdout.close()
    child.stdout = None
    _, errors = child.communicate("x", timeout=20)
    assert (errors, child.returncode) == ("alive", 0)


# --- the outbox


def outbox(**limits: Any) -> Outbox:
    return Outbox(Limits(**limits), lambda count: f"dropped {count}\n".encode())


def test_the_outbox_gives_lines_in_order() -> None:
    box = outbox()
    for number in range(3):
        box.put(f"{number}\n".encode())
    assert box.batch() == b"0\n1\n2\n"
    box.sent(6)
    assert not box
    assert box.batch() == b""


def test_a_line_that_was_not_sent_whole_is_sent_again_whole() -> None:
    box = outbox()
    for line in (b"first\n", b"second\n", b"third\n"):
        box.put(line)
    box.batch()
    box.sent(len(b"first\nsec"))
    assert box.batch() == b"ond\nthird\n"
    box.rewind()
    assert box.batch() == b"second\nthird\n"


def test_a_full_outbox_drops_the_oldest_and_says_how_many() -> None:
    box = outbox(lines=3)
    for number in range(10):
        box.put(f"{number}\n".encode())
    assert box.batch() == b"dropped 7\n7\n8\n9\n"


def test_the_outbox_is_bounded_in_bytes() -> None:
    box = outbox(size=100)
    for _ in range(10):
        box.put(b"x" * 39 + b"\n")
    assert box.size == 80
    assert box.batch().startswith(b"dropped 8\n")


def test_a_batch_is_bounded() -> None:
    box = outbox()
    for _ in range(100):
        box.put(b"x" * 10_000)
    assert BATCH <= len(box.batch()) < BATCH + 10_000


@given(st.lists(st.integers(0, 30), max_size=60))
def test_whatever_the_connection_does_every_line_arrives_whole(steps: list[int]) -> None:
    """0 breaks the connection; other numbers are bytes taken. What a connection got ends in at most one cut line."""
    box = outbox()
    expected = [f"line {number}\n".encode() for number in range(20)]
    for line in expected:
        box.put(line)
    connections = [bytearray()]
    for count in [*steps, 10_000]:
        if count:
            data = box.batch()[:count]
            connections[-1] += data
            box.sent(len(data))
        else:
            box.rewind()
            connections.append(bytearray())
    whole = [line for got in connections for line in bytes(got).splitlines(keepends=True) if line.endswith(b"\n")]
    assert whole == expected


# --- the page in Logdy


def page() -> dict[str, Any]:
    config = json.loads((LOGDY / "logdy.config.json").read_text())
    assert isinstance(config, dict)
    return config


def handlers() -> dict[str, str]:
    config = page()
    listed = [*config["columns"], *config["settings"]["middlewares"]]
    return {entry["name"]: entry["handlerTsCode"] for entry in listed}


def page_line() -> bytes:
    """A line as a tier writes it."""
    return line_of(action="task.failed", task_id="01J", attempt=1, agent="gpu-1")


def test_the_page_has_our_columns() -> None:
    columns = page()["columns"]
    shown = [column["name"] for column in columns if not column["hidden"]]
    assert shown == ["time", "level", "service", "agent", "task", "action", "message"]
    assert [column["name"] for column in columns if column["hidden"]] == ["raw"]
    assert [column["name"] for column in columns if column["faceted"]] == [
        "level",
        "service",
        "agent",
        "task",
        "action",
    ]
    assert [column["idx"] for column in columns] == list(range(8))
    assert len({column["id"] for column in columns}) == 8


@pytest.mark.parametrize("name", list(handlers()))
def test_a_handler_of_the_page_catches_its_errors(name: str) -> None:
    """A column that throws shows "error"; a middleware that throws drops many lines."""
    body = handlers()[name].partition("=> {\n")[2]
    assert body.lstrip().startswith("try {")
    assert "} catch" in body


@pytest.mark.parametrize("column", page()["columns"], ids=lambda column: column["name"])
def test_a_column_reads_a_field_that_lines_have(column: dict[str, Any]) -> None:
    fields = {"time": "timestamp", "task": "task_id", "raw": None}
    field = fields.get(column["name"], column["name"])
    if field:
        assert f"j.{field}" in column["handlerTsCode"]
        assert field in strict_json(page_line())


NODE = shutil.which("node")

RUN_HANDLERS = r"""
const { handlers, lines } = JSON.parse(require('fs').readFileSync(0, 'utf8'));
const plain = code => code
    .replace(/\(line: Message\): [\w| ]+ =>/, 'line =>')
    .replace(/(const|let) (\w+): any/g, '$1 $2');
const answers = lines.map(line => {
    const answer = {};
    for (const [name, code] of Object.entries(handlers))
        answer[name] = eval(plain(code))(structuredClone(line)) ?? null;
    return answer;
});
console.log(JSON.stringify(answers));
"""


@pytest.mark.skipif(NODE is None, reason="runs the page's handlers in node")
def test_the_handlers_of_the_page_show_a_line() -> None:
    """Our line, and what no handler expects: text, a number, null, a broken time."""
    content = page_line().decode()
    failed = {**json.loads(content), "level": "ERROR"}
    lines = [
        {"ts": 1_700_000_000_000, "is_json": True, "json_content": failed, "content": content},
        {"ts": 1_700_000_000_000, "is_json": False, "json_content": None, "content": "plain"},
        {"ts": None, "is_json": True, "json_content": 5, "content": "5"},
        {
            "ts": "x",
            "is_json": True,
            "json_content": {"timestamp": {}, "message": None, "task_id": [1]},
            "content": "x",
        },
        {},
    ]
    done = subprocess.run(
        [str(NODE), "-e", RUN_HANDLERS],
        input=json.dumps({"handlers": handlers(), "lines": lines}),
        capture_output=True,
        text=True,
        timeout=20,
        check=True,
    )
    ours, plain, *_ = answers = json.loads(done.stdout)
    texts = {name: answer["text"] for name, answer in ours.items() if "text" in answer}
    assert texts["time"] == failed["timestamp"].replace("T", " ").removesuffix("Z")
    assert {name: texts[name] for name in ("level", "service", "agent", "task", "action", "message")} == {
        "level": "ERROR",
        "service": "balancer",
        "agent": "gpu-1",
        "task": "01J",
        "action": "task.failed",
        "message": "Something happened",
    }
    middleware = page()["settings"]["middlewares"][0]["name"]
    assert ours[middleware]["correlation_id"] == "01J"
    assert "background" in ours[middleware]["style"]
    assert plain["message"]["text"] == "plain"
    assert all(answer[middleware] is not None for answer in answers), "the middleware lets every line through"


def test_fit_alone_marks_what_it_cut() -> None:
    assert strict_json(fit({"message": "x" * 70_000}))["truncated"] is True
