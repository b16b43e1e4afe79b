"""Records as they come from Redis, and the packing of bytes."""

from typing import Any

import msgspec
import pytest

from comfy_shared.errors import Damaged, InvalidTask
from comfy_shared.errors import FieldProblem as Problem
from comfy_shared.models import (
    COMPRESS_FROM,
    EventType,
    InputFile,
    Needs,
    Output,
    Progress,
    Status,
    Task,
    TaskError,
    decode,
    pack,
    unpack,
)

FIELDS: dict[bytes, bytes] = {
    b"id": b"t1",
    b"owner": "änn".encode(),
    b"status": b"running",
    b"priority": b"5",
    b"lane": b"l",
    b"attempt": b"2",
    b"max_attempts": b"3",
    b"created_at": b"1700000000000",
    b"timeout": b"0.10000000000000001",
    b"prompt": pack(b'{"1":{}}'),
    b"order": b"1125899906842625",
    b"unknown-field-of-a-newer-version": b"\xff",
}


def record(**changes: bytes | None) -> Task:
    fields = dict(FIELDS)
    for name, value in changes.items():
        if value is None:
            del fields[name.encode()]
        else:
            fields[name.encode()] = value
    return Task.from_hash(fields)


class TestTask:
    def test_a_record_is_read_with_its_defaults(self) -> None:
        task = record()
        assert (task.id, task.owner, task.status, task.timeout) == ("t1", "änn", Status.RUNNING, 0.1)
        assert (task.prompt, task.position, task.progress, task.outputs) == (b'{"1":{}}', None, None, ())

    def test_every_structured_field_is_read(self) -> None:
        values: dict[str, Any] = {
            "parameters": {"seed": 2**64 - 1},
            "labels": {"team": "blue"},
            "inputs": (InputFile(node="1", input="image", sha256="a", extension=".png", size=1),),
            "progress": Progress(fraction=0.5),
            "outputs": (Output(name="a", node="9", kind="images", content_type="x", size=1, sha256="b", key="k"),),
            "error": TaskError(code="timeout", message="m"),
        }
        task = record(**{name: msgspec.json.encode(value) for name, value in values.items()})
        for name, value in values.items():
            assert getattr(task, name) == value

    @pytest.mark.parametrize("name", ["id", "owner", "status", "priority", "lane", "attempt", "created_at", "timeout"])
    def test_a_missing_field_is_damage(self, name: str) -> None:
        with pytest.raises(Damaged):
            record(**{name: None})

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("status", b"sleeping"),
            ("status", b"\xff"),
            ("attempt", b"two"),
            ("attempt", b"9" * 5000),
            ("timeout", b""),
            ("owner", b"\xff"),
            ("parameters", b"[]"),
            ("labels", b'{"a":1}'),
            ("progress", b"{"),
            ("outputs", b'[{"name":1}]'),
            ("error", b"\x00"),
            ("parameters", b'{"a":' + b"[" * 100_000),
        ],
        ids=lambda value: repr(value)[:20],
    )
    def test_a_broken_field_is_damage(self, name: str, value: bytes) -> None:
        # Deeply nested JSON came out as RecursionError.
        with pytest.raises(Damaged):
            record(**{name: value})

    def test_a_name_that_is_no_text_is_damage(self) -> None:
        with pytest.raises(Damaged):
            Task.from_hash(FIELDS | {b"\xff": b"x"})

    def test_a_broken_prompt_is_found_when_it_is_read(self) -> None:
        task = record(prompt=b"?")
        with pytest.raises(Damaged):
            _ = task.prompt


class TestWords:
    def test_the_final_statuses_and_events_are_the_three_ends(self) -> None:
        ends = {"completed", "failed", "canceled"}
        assert {status.value for status in Status if status.final} == ends
        assert {kind.value for kind in EventType if kind.final} == ends


class TestPack:
    @pytest.mark.parametrize("size", [0, 1, COMPRESS_FROM - 1, COMPRESS_FROM, 100_000])
    def test_bytes_come_back(self, size: int) -> None:
        data = bytes(number % 7 for number in range(size))
        assert unpack(pack(data)) == data

    def test_a_long_text_gets_shorter_and_a_short_one_stays_readable(self) -> None:
        assert len(pack(b"a" * 10_000)) < 100
        assert pack(b"short") == b"jshort"

    @pytest.mark.parametrize("data", [b"", b"?", b"z", b"znot compressed", b"\x00"])
    def test_other_bytes_are_damage(self, data: bytes) -> None:
        with pytest.raises(Damaged):
            unpack(data)


class TestDecode:
    def test_what_we_wrote_is_read(self) -> None:
        needs = Needs(classes=("A",), choices=(("A", "x", "y"),))
        assert decode(msgspec.json.encode(needs), Needs) == needs

    @pytest.mark.parametrize("data", [b"", b"{", b"\xff", b"[]", b'{"classes":[1]}', b"[" * 100_000])
    def test_other_bytes_are_damage(self, data: bytes) -> None:
        with pytest.raises(Damaged):
            decode(data, Needs)


def test_an_invalid_task_names_its_first_problems() -> None:
    problems = tuple(Problem(field=f"f{number}", message="is wrong") for number in range(5))
    error = InvalidTask(problems)
    assert error.message == "f0: is wrong; f1: is wrong; f2: is wrong"
    assert error.problems == problems


def test_the_default_message_of_an_error_is_its_docstring() -> None:
    assert Damaged().message == "A stored record is not what we wrote."
