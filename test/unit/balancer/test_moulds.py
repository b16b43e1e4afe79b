"""Bodies with holes: what fits a mould means what a parser would find."""

import json
from collections.abc import Mapping
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from comfy_balancer.moulds import LARGEST, MOST_HOLES, Mould, Node, cut

ODD_TEXTS = ['"', '\\"', '}, "2": {', '{"class_type": "A"', "日本", "", '", "x": 0', "}}"]


class Reader(msgspec.Struct):
    prompt: dict[str, msgspec.Raw]


def read(body: bytes) -> dict[str, msgspec.Raw] | None:
    try:
        return msgspec.json.decode(body, type=Reader).prompt
    except msgspec.MsgspecError:
        return None


def node_of(raw: bytes) -> Node | None:
    """Every object is of one kind."""
    try:
        node = msgspec.json.decode(raw)
    except (msgspec.MsgspecError, UnicodeError):
        return None
    return (1, msgspec.Raw(msgspec.json.encode(node))) if isinstance(node, dict) else None


def mould_of(body: bytes, *holes: int) -> Mould | None:
    nodes: Mapping[str, msgspec.Raw] = read(body) or {}
    found = [node_of(bytes(raw)) for raw in nodes.values()]
    assert None not in found
    known: list[Node] = [node for node in found if node]
    return cut(body, {node_id: bytes(raw) for node_id, raw in nodes.items()}, known, holes, read)


def stored(body: bytes) -> bytes:
    """The graph as it is stored when the body is read by the parser."""
    return msgspec.json.encode({node_id: msgspec.json.decode(raw) for node_id, raw in (read(body) or {}).items()})


def body_of(graph: dict[str, Any], **fields: Any) -> bytes:
    return json.dumps({**fields, "prompt": graph}).encode()


GRAPH = {str(number): {"class_type": "A", "seed": number} for number in range(1, 6)}


@pytest.mark.parametrize("holes", [(), (0,), (4,), (1, 2), (0, 1, 2, 3, 4)])
def test_a_body_fits_its_own_mould(holes: tuple[int, ...]) -> None:
    body = body_of(GRAPH, labels={"a": "b"})
    mould = mould_of(body, *holes)
    assert mould is not None
    assert mould.fill(body, node_of) == stored(body)


def test_another_node_in_a_hole_fits() -> None:
    mould = mould_of(body_of(GRAPH), 1)
    other = body_of({**GRAPH, "2": {"class_type": "A", "seed": 9, "text": "longer"}})
    assert mould is not None
    assert mould.fill(other, node_of) == stored(other)


def test_another_node_elsewhere_and_other_fields_do_not() -> None:
    mould = mould_of(body_of(GRAPH), 1)
    assert mould is not None
    for other in (
        body_of({**GRAPH, "3": {"class_type": "A", "seed": 9}}),
        body_of(GRAPH, priority=3),
        body_of({**GRAPH, "6": GRAPH["1"]}),
        body_of(GRAPH) + b" ",
        body_of(GRAPH)[:-1],
        body_of({**GRAPH, "2": 5}),  # not of the kind
        b"",
    ):
        assert mould.fill(other, node_of) is None


@pytest.mark.parametrize(
    "body",
    [
        b'{"prompt": {"1": {"a": 1}, "2": {"b": 1}, "1": {"a": 1}}}',
        b'{"prompt": {"1": {"a": 1}, "2": {"b": 1}, "1": {"c": 1}}}',
        b'{"prompt": {"1": {"a": 1}}, "prompt": {"1": {"a": 1}}}',
        b'{"other": {"1": {"a": 1}}, "prompt": {"1": {"a": 1}}}',
    ],
)
def test_where_a_parser_sees_no_hole_there_is_none(body: bytes) -> None:
    assert mould_of(body, 0) is None


def test_what_is_too_large_or_changes_everywhere_has_no_mould() -> None:
    many = {str(number): {"class_type": "A"} for number in range(MOST_HOLES + 1)}
    assert mould_of(body_of(many), *range(MOST_HOLES)) is not None
    assert mould_of(body_of(many), *range(MOST_HOLES + 1)) is None
    assert mould_of(body_of({"1": {"text": "x" * LARGEST}}), 0) is None


TEXTS = st.text(max_size=12) | st.sampled_from(ODD_TEXTS)
NODES = st.dictionaries(TEXTS, st.one_of(st.integers(), TEXTS, st.lists(st.integers(), max_size=2)), max_size=3)
GRAPHS = st.dictionaries(TEXTS, NODES, min_size=1, max_size=5)


@given(graph=GRAPHS, data=st.data(), spaces=st.booleans())
def test_what_fits_means_what_a_parser_finds(graph: dict[str, Any], data: st.DataObject, spaces: bool) -> None:
    def encode(nodes: dict[str, Any]) -> bytes:
        return json.dumps({"prompt": nodes}, separators=None if spaces else (",", ":")).encode()

    holes = data.draw(st.sets(st.integers(0, len(graph) - 1)))
    mould = mould_of(encode(graph), *holes)
    assert mould is not None or len(graph) > 1  # nodes that are alike may stand in each other's keys
    ids = list(graph)
    other = {node_id: data.draw(NODES) if ids.index(node_id) in holes else node for node_id, node in graph.items()}
    body = encode(other)
    if mould and (filled := mould.fill(body, node_of)) is not None:
        assert filled == stored(body)
    if mould and not holes:
        assert mould.fill(body, node_of) == stored(body)


@given(graph=GRAPHS, changes=st.lists(st.tuples(st.integers(0, 400), st.binary(max_size=3)), min_size=1, max_size=3))
def test_a_garbled_body_that_fits_is_one_that_a_parser_reads_the_same(
    graph: dict[str, Any], changes: list[tuple[int, bytes]]
) -> None:
    body = body_of(graph)
    mould = mould_of(body, 0)
    for at, piece in changes:
        body = body[:at] + piece + body[at + len(piece) :]
    if mould and (filled := mould.fill(body, node_of)) is not None:
        assert filled == stored(body)
