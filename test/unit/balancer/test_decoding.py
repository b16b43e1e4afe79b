"""Bodies become Structs; what does not fit is named by its path."""

import pytest

from comfy_balancer.batch_schemas import BatchRequest
from comfy_balancer.decoding import decode_body
from comfy_balancer.schemas import TaskRequest
from comfy_shared.errors import InvalidTask
from comfy_shared.http.problems import MalformedBody


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (b'{"priority": "high"}', "priority"),
        (b'{"priority": true}', "priority"),
        (b'{"priority": -1}', "priority"),
        (b'{"timeout": 0}', "timeout"),
        (b'{"labels": {"a": 1}}', "labels"),
        (b'{"parameters": []}', "parameters"),
        (b'{"pirority": 1}', "pirority"),
        (b"[]", "body"),
    ],
)
def test_a_field_that_does_not_fit_is_named(body: bytes, field: str) -> None:
    with pytest.raises(InvalidTask) as refused:
        decode_body(body, TaskRequest, values_limit=1000)
    assert [problem.field for problem in refused.value.problems] == [field]


def test_a_body_that_is_nested_too_deeply_is_refused() -> None:
    """Deeper than any interpreter's own limit: 3.11 to 3.13 differ."""
    with pytest.raises(InvalidTask) as refused:
        decode_body(b'{"parameters": ' + b'{"a":' * 50_000 + b"1" + b"}" * 50_001, TaskRequest, values_limit=10**6)
    assert refused.value.problems[0].field == "body"


def test_a_path_leads_into_a_batch() -> None:
    for body, field in (
        (b'{"tasks": [{}, {"priority": 11}]}', "tasks.1.priority"),
        (b'{"tasks": [{}, {"x": 11}]}', "tasks.1.x"),
        (b"{}", "tasks"),
    ):
        with pytest.raises(InvalidTask) as refused:
            decode_body(body, BatchRequest, values_limit=1000)
        assert refused.value.problems[0].field == field


def test_the_part_of_a_form_stands_before_the_path() -> None:
    with pytest.raises(InvalidTask) as refused:
        decode_body(b'{"priority": 11}', TaskRequest, values_limit=1000, prefix="task")
    assert refused.value.problems[0].field == "task.priority"


def test_an_unknown_field_is_answered_with_the_nearest() -> None:
    with pytest.raises(InvalidTask) as refused:
        decode_body(b'{"workfow": "x"}', TaskRequest, values_limit=1000)
    assert refused.value.problems[0].nearest == ["workflow"]


@pytest.mark.parametrize("body", [b"", b"{", b"nope", b"{} {}", b'{"workflow": "\xff"}', b'{"timeout": NaN}'])
def test_what_is_no_json_is_malformed(body: bytes) -> None:
    with pytest.raises(MalformedBody):
        decode_body(body, TaskRequest, values_limit=1000)


def test_of_a_key_that_stands_twice_the_last_counts() -> None:
    assert decode_body(b'{"priority": 1, "priority": 2}', TaskRequest, values_limit=1000).priority == 2


def test_a_body_of_too_many_values_is_not_even_parsed() -> None:
    """Row S9."""
    for body in (b'{"parameters": {"a": [' + b"1," * 1000, b'{"a":' * 1001, b"[" * 2000):
        with pytest.raises(InvalidTask) as refused:
            decode_body(body, TaskRequest, values_limit=1000)
        assert refused.value.problems[0].limits == {"maximum": 1000}
    text = "a" * 5000
    assert decode_body(f'{{"workflow": "{text}"}}'.encode(), TaskRequest, values_limit=1000).workflow == text
