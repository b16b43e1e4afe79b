"""Graphs that are like one that passed all checks: what may differ, what may not, and that none passes wrongly."""

import copy
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from comfy_balancer.drafts import Surroundings, draft
from comfy_balancer.node_policy import NodePolicy
from comfy_balancer.recognition import MOST_CUTS, MOST_NEW, Nodes, RawRequest, Recognised, Recognizer, read_raw
from comfy_balancer.schemas import TaskRequest
from comfy_balancer.settings import BalancerSettings
from comfy_shared.errors import InvalidTask
from comfy_shared.needs import Offer, needs_of

INFO: dict[str, Any] = {
    "Load": {"input": {"required": {"ckpt_name": [["a.safetensors", "b.safetensors"]]}}, "output": ["MODEL"]},
    "Sample": {
        "input": {
            "required": {
                "model": ["MODEL"],
                "seed": ["INT", {"min": 0, "max": 2**64 - 1}],
                "cfg": ["FLOAT", {"min": 0.0, "max": 100.0}],
                "sampler": [["euler", "ddim"]],
                "text": ["STRING", {"multiline": True}],
                "tiled": ["BOOLEAN", {}],
            }
        },
        "output": ["IMAGE"],
    },
    "SaveImage": {
        "input": {"required": {"images": ["IMAGE"], "filename_prefix": ["STRING", {}]}},
        "output": [],
        "output_node": True,
    },
    "LoadImage": {"input": {"required": {"image": [["x.png"], {"image_upload": True}]}}, "output": ["IMAGE"]},
}
GRAPH: dict[str, Any] = {
    "1": {"class_type": "Load", "inputs": {"ckpt_name": "a.safetensors"}},
    "2": {
        "class_type": "Sample",
        "inputs": {"model": ["1", 0], "seed": 7, "cfg": 8, "sampler": "euler", "text": "a cat", "tiled": False},
        "_meta": {"title": "KSampler"},
    },
    "3": {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": "cat"}},
}
OFFERS = [Offer(INFO)]
AROUND = Surroundings(
    settings=BalancerSettings(_env_file=None), offers=OFFERS, nodes=NodePolicy("user", "*", "Bad*"), workflows={}
)


def nodes(graph: dict[str, Any]) -> Nodes:
    raw = read_raw(msgspec.json.encode({"prompt": graph}))
    assert raw is not None
    return raw.prompt or {}


def recognise(recognizer: Recognizer, graph: dict[str, Any], offers: list[Offer] = OFFERS) -> Recognised | None:
    return recognise_body(recognizer, msgspec.json.encode({"prompt": graph}), offers)


def recognise_body(recognizer: Recognizer, body: bytes, offers: list[Offer] = OFFERS) -> Recognised | None:
    """As the service does it; what is known at once is what reading the whole body comes to."""
    at_once = recognizer.at_once(body, offers)
    raw = read_raw(body)
    known = recognizer.recognise(body, raw, offers) if raw else None
    assert at_once is None or at_once == known
    return known


def changed(node: str, name: str, value: Any) -> dict[str, Any]:
    graph = copy.deepcopy(GRAPH)
    graph[node]["inputs"][name] = value
    return graph


def passes(graph: dict[str, Any]) -> bool:
    """All checks of a submit."""
    try:
        draft(TaskRequest(prompt=graph), AROUND)
    except InvalidTask:
        return False
    return True


@pytest.fixture
def recognizer() -> Recognizer:
    made = Recognizer()
    assert passes(GRAPH)
    made.remember(nodes(GRAPH), OFFERS)
    return made


@pytest.mark.parametrize(
    ("node", "name", "value"),
    [
        ("2", "seed", 8),
        ("2", "seed", 2**64 - 1),
        ("2", "cfg", 7.5),
        ("2", "text", "../a dog, 日本語"),
        ("2", "tiled", True),
        ("3", "filename_prefix", "%date:yyyy%/dog"),
    ],
)
def test_another_plain_value_is_recognised(recognizer: Recognizer, node: str, name: str, value: Any) -> None:
    graph = changed(node, name, value)
    expected = Recognised(request=RawRequest(), prompt=msgspec.json.encode(graph), needs=needs_of(GRAPH, OFFERS))
    assert recognise(recognizer, graph) == expected
    assert passes(graph)


@pytest.mark.parametrize(
    ("node", "name", "value"),
    [
        ("1", "ckpt_name", "b.safetensors"),
        ("1", "ckpt_name", "c.safetensors"),
        ("2", "model", ["3", 0]),
        ("2", "model", ["1", 1]),
        ("2", "model", ["1", True]),
        ("2", "seed", -1),
        ("2", "seed", 7.0),
        ("2", "seed", True),
        ("2", "seed", "7"),
        ("2", "seed", None),
        ("2", "seed", [7]),
        ("2", "seed", {"__value__": 7}),
        ("2", "cfg", 100.5),
        ("2", "sampler", "ddim"),
        ("2", "unknown", 1),
        ("2", "text", ["1", 0]),
        ("2", "tiled", 0),
        ("3", "filename_prefix", "../cat"),
        ("3", "filename_prefix", "/etc/cat"),
    ],
)
def test_another_choice_link_or_kind_of_value_is_not(recognizer: Recognizer, node: str, name: str, value: Any) -> None:
    assert recognise(recognizer, changed(node, name, value)) is None


def test_other_nodes_ids_and_orders_are_not(recognizer: Recognizer) -> None:
    for graph in (
        {**GRAPH, "4": GRAPH["3"]},
        {"1": GRAPH["1"], "2": GRAPH["2"]},
        {"9": GRAPH["1"], "2": GRAPH["2"], "3": GRAPH["3"]},
        {"2": GRAPH["2"], "1": GRAPH["1"], "3": GRAPH["3"]},
        {**GRAPH, "3": {**GRAPH["3"], "class_type": "Sample"}},
        {**GRAPH, "3": {**GRAPH["3"], "more": 1}},
        {**GRAPH, "3": {**GRAPH["3"], "_meta": {"title": {"deep": 1}}}},
        {**GRAPH, "3": "no node"},
    ):
        assert recognise(recognizer, graph) is None


def test_what_was_checked_against_other_offers_is_not(recognizer: Recognizer) -> None:
    others = [Offer(INFO)]
    assert recognise(recognizer, GRAPH, others) is None
    recognizer.remember(nodes(GRAPH), others)
    assert recognise(recognizer, GRAPH, others) is not None
    assert recognise(recognizer, GRAPH) is None


def test_a_value_is_plain_only_when_every_agent_takes_it() -> None:
    narrow = {**INFO, "Sample": copy.deepcopy(INFO["Sample"])}
    narrow["Sample"]["input"]["required"]["seed"] = ["INT", {"min": 0, "max": 10}]
    offers = [*OFFERS, Offer(narrow)]
    made = Recognizer()
    made.remember(nodes(GRAPH), offers)
    assert recognise(made, changed("2", "seed", 10), offers) is not None
    assert recognise(made, changed("2", "seed", 11), offers) is None


def test_graphs_that_take_files_or_names_over_links_are_checked_each_time() -> None:
    for graph in (
        {**GRAPH, "4": {"class_type": "LoadImage", "inputs": {"image": "a" * 64}}},
        changed("3", "filename_prefix", ["2", 0]),
    ):
        made = Recognizer()
        made.remember(nodes(graph), OFFERS)
        assert recognise(made, graph) is None


def test_a_key_that_stands_twice_means_what_it_meant_to_the_checks(recognizer: Recognizer) -> None:
    """The last one, in the stored bytes too."""
    body = msgspec.json.encode({"prompt": GRAPH}).replace(b'"seed":7', b'"seed":-1,"seed":9')
    known = recognise_body(recognizer, body)
    assert known is not None
    assert known.prompt == msgspec.json.encode(changed("2", "seed", 9))


def test_another_seed_is_recognised_at_once_once_it_was_seen_to_change(recognizer: Recognizer) -> None:
    bodies = [msgspec.json.encode({"prompt": changed("2", "seed", seed), "priority": 3}) for seed in range(4)]
    assert recognizer.at_once(bodies[0], OFFERS) is None
    assert recognise_body(recognizer, bodies[0])
    assert recognise_body(recognizer, bodies[1])
    known = recognizer.at_once(bodies[2], OFFERS)
    assert known is not None
    assert (known.request.priority, known.prompt) == (3, msgspec.json.encode(changed("2", "seed", 2)))
    assert recognizer.at_once(bodies[3].replace(b'"seed":3', b'"seed":-3'), OFFERS) is None
    assert recognizer.at_once(bodies[3].replace(b'"euler"', b'"ddim"'), OFFERS) is None
    assert recognizer.at_once(bodies[3].replace(b'"priority":3', b'"priority":9'), OFFERS) is None
    assert recognizer.at_once(bodies[3], [Offer(INFO)]) is None


def test_bodies_that_differ_each_time_besides_their_nodes_are_not_cut_up_for_ever(recognizer: Recognizer) -> None:
    bodies = [
        msgspec.json.encode({"prompt": GRAPH, "labels": {"number": str(number)}}) for number in range(MOST_CUTS + 2)
    ]
    for body in bodies[:-1]:
        assert recognise_body(recognizer, body)
    assert recognizer.at_once(bodies[MOST_CUTS - 1], OFFERS) is not None
    assert recognizer.at_once(bodies[MOST_CUTS], OFFERS) is None
    assert recognise_body(recognizer, bodies[-1])


def test_a_graph_of_new_nodes_only_is_not_even_read() -> None:
    """Hostile bodies cost no more than they did."""
    graph = {str(number): GRAPH["1"] for number in range(MOST_NEW * 2)}
    made = Recognizer()
    made.remember(nodes(graph), OFFERS)
    graph = {name: {**node, "_meta": {"title": name}} for name, node in graph.items()}
    assert recognise(made, graph) is None


@pytest.mark.parametrize(
    "body",
    [
        b"", b"[]", b"{", b'{"prompt":{"1":{', b'{"prompt":{"1":' + b"[" * 5000 + b"]" * 5000 + b"}}", b"\xff",
        b'{"workflow":"smoke","prompt":{"1":{}}}', b'{"prompt":{"1":{}},"require":{"a":"b"}}', b'{"prompt":{}}',
        b'{"prompt":{"1":{}},"parameters":{"a":1}}', b'{"prompt":{"1":{}},"unknown":1}', b"x" * 2_000_000,
    ],
)  # fmt: skip
def test_another_body_is_left_to_the_checks(body: bytes) -> None:
    assert recognise_body(Recognizer(), body) is None


VALUES: st.SearchStrategy[Any] = st.one_of(
    st.integers(-(2**65), 2**65), st.floats(allow_nan=False), st.booleans(), st.none(), st.text(max_size=20),
    st.sampled_from(["a.safetensors", "b.safetensors", "euler", "ddim", "../x", "C:x", "a" * 64, "https://x/y"]),
    st.lists(st.sampled_from(["1", "2", "3", "9", 0, 1, 0.0, True]), max_size=3),
    st.dictionaries(st.sampled_from(["__value__", "x"]), st.integers(), max_size=1),
)  # fmt: skip
CHANGES = st.lists(
    st.tuples(
        st.sampled_from(["1", "2", "3"]),
        st.sampled_from(["ckpt_name", "model", "seed", "cfg", "sampler", "text", "tiled", "images", "filename_prefix"]),
        VALUES,
    ),
    max_size=3,
)
CLASSES = st.sampled_from([*INFO, "Bad", "Unknown"])


@given(histories=st.lists(st.tuples(CHANGES, st.none() | CLASSES), min_size=1, max_size=6))
def test_what_is_recognised_would_have_passed_all_checks(histories: list[tuple[list[Any], str | None]]) -> None:
    """Whatever passed before it."""
    made = Recognizer()
    made.remember(nodes(GRAPH), OFFERS)
    for changes, class_type in histories:
        graph = copy.deepcopy(GRAPH)
        for node, name, value in changes:
            graph[node]["inputs"][name] = value
        if class_type:
            graph["2"]["class_type"] = class_type
        try:
            sent = nodes(graph)
        except (OverflowError, msgspec.MsgspecError):
            continue  # no JSON of it
        known = recognise(made, graph)
        if known is not None:
            checked = draft(TaskRequest(prompt=msgspec.json.decode(msgspec.json.encode(graph))), AROUND)
            assert (known.prompt, known.needs) == (checked.prompt, checked.needs)
        elif passes(msgspec.json.decode(msgspec.json.encode(graph))):
            made.remember(sent, OFFERS)
