"""Every domain error has one HTTP status, and its document shows only what it should."""

import msgspec
import pytest

from comfy_shared.errors import (
    ComfyError,
    Conflict,
    Damaged,
    FieldProblem,
    IdempotencyConflict,
    InvalidTask,
    LeaseLost,
    NotFound,
    QueueFull,
    TooLarge,
    Unavailable,
)
from comfy_shared.http.problems import LONGEST_MESSAGE, MOST_PROBLEMS, Problem, StorageFull, problem_body, respond


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (InvalidTask((FieldProblem(field="a", message="b"),)), 422),
        (NotFound(), 404),
        (Conflict(), 409),
        (IdempotencyConflict(), 409),
        (QueueFull(), 429),
        (TooLarge(), 413),
        (StorageFull(), 507),
        (Unavailable(), 503),
        (Damaged(), 503),
    ],
)
def test_an_error_has_its_status(error: ComfyError, status: int) -> None:
    answer = respond(error, "r1")
    document = msgspec.json.decode(answer.body, type=Problem)
    assert answer.status_code == document.status == status
    assert document.request_id == "r1"
    assert document.type == f"urn:comfy:problem:{document.code}"
    assert ("retry-after" in answer.headers) == (status in (429, 503))


def test_an_error_without_a_line_in_the_table_is_a_bug() -> None:
    with pytest.raises(LeaseLost):
        respond(LeaseLost("boom"), "r1")


def test_a_document_stays_small_whatever_was_sent() -> None:
    problems = tuple(FieldProblem(field="f" * 10**6, message="m" * 10**6, nearest=["n" * 10**6]) for _ in range(99))
    document = msgspec.json.decode(problem_body(422, "invalid", "d" * 10**6, problems=problems), type=Problem)
    assert len(document.detail) == LONGEST_MESSAGE + 1
    assert len(document.errors) == MOST_PROBLEMS


def test_a_lone_surrogate_can_be_told() -> None:
    assert b"?" in problem_body(422, "invalid", "\ud800")
