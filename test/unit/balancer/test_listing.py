"""The cursor of a list."""

import pytest

from comfy_balancer.listing import decode_cursor, encode_cursor
from comfy_shared.errors import InvalidTask


def test_a_cursor_is_read_back() -> None:
    assert decode_cursor(encode_cursor(1795414897410, "01m83n8xxt1me7canaqndb59s4")) == (
        1795414897410,
        "01m83n8xxt1me7canaqndb59s4",
    )


@pytest.mark.parametrize("cursor", ["", "x", "====", "é", "AAAA", "MTIz", "LTEuYQ", "a b", "MS4\n"])
def test_any_other_text_is_refused(cursor: str) -> None:
    with pytest.raises(InvalidTask) as refused:
        decode_cursor(cursor)
    assert refused.value.problems[0].field == "cursor"
