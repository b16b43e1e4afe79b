"""Which bytes a Range asks for."""

import pytest

from comfy_balancer.ranges import parse_range, tag_fits
from comfy_shared.http.problems import RangeNotSatisfiable


@pytest.mark.parametrize(
    ("header", "part"),
    [
        (None, None),
        ("bytes=0-", (0, 100)),
        ("bytes=0-0", (0, 1)),
        ("bytes=99-", (99, 100)),
        ("bytes=-1", (99, 100)),
        ("bytes=-500", (0, 100)),
        ("bytes=10-500", (10, 100)),
        ("BYTES = 1-2", (1, 3)),
        ("bytes=0-1,5-6", None),
    ],
)
def test_a_range_is_read(header: str | None, part: tuple[int, int] | None) -> None:
    assert parse_range(header, 100) == part


@pytest.mark.parametrize(
    "header",
    [
        "",
        "bytes",
        "bytes=",
        "bytes=-",
        "bytes=-0",
        "bytes=a-b",
        "bytes=5-4",
        "bytes=100-",
        "0-5",
        "bytes=\u0661-\u0662",
    ],
)
def test_a_range_that_is_malformed_or_outside_is_refused(header: str) -> None:
    with pytest.raises(RangeNotSatisfiable) as refused:
        parse_range(header, 100)
    assert refused.value.size == 100


def test_an_empty_file_has_no_range() -> None:
    for header in ("bytes=0-", "bytes=-1"):
        with pytest.raises(RangeNotSatisfiable):
            parse_range(header, 0)


def test_a_tag_is_compared_weakly_in_a_list() -> None:
    assert tag_fits('"a"', '"a"')
    assert tag_fits('"b", W/"a"', '"a"')
    assert tag_fits("*", '"a"')
    assert not tag_fits('"b"', '"a"')
    assert not tag_fits("a", '"a"')
    assert not tag_fits(None, '"a"')
