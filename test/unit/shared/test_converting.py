"""The editor's graph becomes the prompt that the real frontend makes of it, or the error of conversion comes out."""

import copy
import json
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from comfy_shared.workflows.converting import ConversionError, convert

FIXTURES = Path(__file__).parents[2] / "fixtures" / "conversion"
OWN = sorted(path.stem for path in FIXTURES.glob("*.json") if path.stem != "object_info")
BESIDE = [above / "shared" / "comfyui" for above in Path(__file__).parents[4:]]  # the recordings of the real ComfyUI
RECORDED = next((folder for folder in BESIDE if folder.is_dir()), BESIDE[0])


def read(path: Path) -> Any:
    return json.loads(path.read_text())


OBJECT_INFO = read(FIXTURES / "object_info.json")


@pytest.mark.parametrize("name", OWN)
def test_our_own_graphs_come_out_as_the_real_frontend_made_them(name: str) -> None:
    """Each file holds a small graph that tries one family of rules, and what frontend 1.27.10 made of it."""
    pair = read(FIXTURES / f"{name}.json")
    assert convert(pair["ui"], OBJECT_INFO, keep_unknown=True) == pair["api"]


@pytest.mark.skipif(not RECORDED.is_dir(), reason="the recordings of the real ComfyUI are not on this machine")
def test_all_recorded_pairs_of_the_real_frontend_come_out_equal(capsys: pytest.CaptureFixture[str]) -> None:
    """40 of them hold nodes of classes that their object info lacks; the frontend kept those without class_type."""
    object_info = read(RECORDED / "http" / "object_info.json")
    pairs = {path.name: read(path) for path in sorted((RECORDED / "conversion-pairs").glob("*.json"))}
    unequal = [
        name for name, pair in pairs.items() if convert(pair["ui"], object_info, keep_unknown=True) != pair["api"]
    ]
    with capsys.disabled():
        print(f"\n{len(pairs) - len(unequal)} of {len(pairs)} recorded pairs come out equal")  # noqa: T201
    assert unequal == []
    assert len(pairs) >= 90


def node(node_id: object, class_type: str, **more: Any) -> dict[str, Any]:
    return {"id": node_id, "type": class_type, "inputs": [], "outputs": [], "mode": 0} | more


def graph(*nodes: dict[str, Any], links: list[Any] | None = None, **more: Any) -> dict[str, Any]:
    return {"nodes": list(nodes), "links": links or [], "version": 0.4} | more


def slot(name: str, link: object, kind: str = "IMAGE") -> dict[str, Any]:
    return {"name": name, "type": kind, "link": link}


def test_an_unknown_class_that_would_run_is_an_error_that_names_node_and_class() -> None:
    """Every further one is named too."""
    with pytest.raises(ConversionError) as caught:
        convert(graph(node(7, "Gone"), node(8, "Away")), OBJECT_INFO)
    assert (caught.value.node_id, caught.value.class_type) == ("7", "Gone")
    assert str(caught.value) == "node 7 (Gone): object info has no such class; nor that of node 8 (Away)"


@pytest.mark.parametrize("mode", [2, 4])
def test_an_unknown_class_that_does_not_run_is_no_error(mode: int) -> None:
    """A muted or bypassed node is not in the prompt, so nobody needs to know it."""
    assert convert(graph(node(7, "Gone", mode=mode), node(8, "Const", widgets_values=[3])), OBJECT_INFO) == {
        "8": {"inputs": {"value": 3}, "class_type": "Const", "_meta": {"title": "Const"}}
    }


def test_values_saved_by_name_are_put_by_name() -> None:
    """Some custom nodes save widgets_values as an object."""
    saved = graph(node(1, "Empty", widgets_values={"height": 96, "unrelated": 1}))
    assert convert(saved, OBJECT_INFO)["1"]["inputs"] == {"width": 512, "height": 96, "batch_size": 1}


def combo(**branches: dict[str, Any]) -> list[Any]:
    """An input of the newer kind whose value decides which inputs follow."""
    options = [{"key": key, "inputs": {"required": inputs}} for key, inputs in branches.items()]
    return ["COMFY_DYNAMICCOMBO_V3", {"options": options}]


FACTOR = {"by": ["FLOAT", {"default": 2.0}], "like": ["IMAGE", {}], "then": combo(no={}, crop={"edge": ["INT", {}]})}
HOW = combo(size={"width": ["INT", {"default": 8}]}, factor=FACTOR)
RESIZE = {"image": ["IMAGE", {}], "how": HOW, "last": ["STRING", {"default": "end"}]}
DYNAMIC = {"Resize": {"display_name": "Resize", "output": ["IMAGE"], "input": {"required": RESIZE}}}


def test_the_value_of_a_dynamic_combo_decides_which_widgets_follow_it() -> None:
    """They are named after the combo; combos within combos, and what stands behind them, stay in step."""
    saved = graph(
        node(1, "Resize", widgets_values=["factor", 1.5, "crop", 3, "z"], inputs=[slot("how.like", 5)]),
        node(2, "Resize", widgets_values=["size", 64, "y"]),
        node(3, "Resize"),
        links=[[5, 2, 0, 1, 0, "IMAGE"]],
    )
    prompt = convert(saved, DYNAMIC)
    like = {"how.like": ["2", 0]}
    assert (
        prompt["1"]["inputs"]
        == {"how": "factor", "how.by": 1.5, "how.then": "crop", "how.then.edge": 3, "last": "z"} | like
    )
    assert prompt["2"]["inputs"] == {"how": "size", "how.width": 64, "last": "y"}
    assert prompt["3"]["inputs"] == {"how": "size", "how.width": 8, "last": "end"}


SUBGRAPH = "0d1e2f30-0000-4000-8000-000000000000"
DAMAGED: dict[str, Any] = {
    "not an object": [],
    "no nodes": {"links": []},
    "a prompt": {"1": {"class_type": "Const", "inputs": {}}},
    "a node that is a text": graph("x"),  # type: ignore[arg-type]
    "a node without id": graph({"type": "Const"}),
    "a node without type": graph({"id": 1}),
    "two nodes of one id": graph(node(1, "Const"), node("1", "Const")),
    "a link that is a number": graph(node(1, "Const"), links=[5]),
    "a link to nowhere": graph(node(1, "Save", inputs=[slot("images", 9)])),
    "a link from nowhere": graph(node(1, "Save", inputs=[slot("images", 9)]), links=[[9, 77, 0, 1, 0, "IMAGE"]]),
    "a circle of reroutes": graph(
        node(1, "Reroute", inputs=[slot("", 1)]),
        node(2, "Reroute", inputs=[slot("", 2)]),
        node(3, "Save", inputs=[slot("images", 3)]),
        links=[[1, 2, 0, 1, 0, "*"], [2, 1, 0, 2, 0, "*"], [3, 1, 0, 3, 0, "*"]],
    ),
    "a subgraph in itself": graph(
        node(1, SUBGRAPH), definitions={"subgraphs": [{"id": SUBGRAPH, "nodes": [node(1, SUBGRAPH)], "links": []}]}
    ),
    "deep nesting": graph(node(1, "Const", widgets_values=[json.loads("[" * 500 + "]" * 500)])),
    "a huge id": graph(node(10**400, "Const")),
}  # fmt: skip


@pytest.mark.parametrize("what", sorted(DAMAGED))
def test_a_damaged_graph_is_refused(what: str) -> None:
    """With the one error of conversion, never another."""
    with pytest.raises(ConversionError):
        convert(DAMAGED[what], OBJECT_INFO)


def endless(levels: int) -> dict[str, Any]:
    """Subgraphs that unfold to 10 to the power of `levels` nodes."""
    types = [f"s{level}" for level in range(levels)] + ["Const"]
    definitions = [
        {"id": own, "links": [], "nodes": [node(n, inner) for n in range(10)]} for own, inner in pairwise(types)
    ]
    return graph(node(1, "s0"), definitions={"subgraphs": definitions})


def wide() -> dict[str, Any]:
    """A subgraph whose one input leads to 50,000 links, a thousand times."""
    links = [{"id": n, "origin_id": -10, "origin_slot": 0, "target_id": 1, "target_slot": 0} for n in range(50_000)]
    inputs = [{"name": "a", "type": "INT", "linkIds": list(range(50_000))}]
    definition = {"id": "s", "links": links, "nodes": [node(1, "Const")], "inputs": inputs}
    return graph(*(node(n, "s") for n in range(1000)), definitions={"subgraphs": [definition]})


def entangled() -> dict[str, Any]:
    """4,000 reroutes in a row, and as many nodes that hang at their end."""
    chain = [node(n, "Reroute", inputs=[slot("", n)]) for n in range(4000)]
    users = [node(n, "Save", inputs=[slot("images", n)]) for n in range(4000, 8000)]
    links = [[n, n - 1, 0, n, 0, "*"] for n in range(1, 4000)] + [[n, 3999, 0, n, 0, "*"] for n in range(4000, 8000)]
    return graph(*chain, *users, links=links)


BOMBS = {
    "100,000 nodes": graph(*(node(n, "Const") for n in range(100_000))),
    "subgraphs without end": endless(8),
    "links without end": wide(),
    "reroutes without end": entangled(),
}


@pytest.mark.parametrize("what", sorted(BOMBS))
def test_a_bomb_is_refused_quickly(what: str) -> None:
    """Within seconds on a busy machine; memory follows what was sent."""
    started = time.monotonic()
    with pytest.raises(ConversionError):
        convert(BOMBS[what], OBJECT_INFO)
    assert time.monotonic() - started < 10


@pytest.mark.parametrize("text", ["/*" * 500_000, "{" * 500_000, "{a|" * 300_000, "%" * 500_000, "//" * 500_000])
def test_a_long_text_costs_one_pass(text: str) -> None:
    """Dynamic prompts and file names are read without backtracking."""
    started = time.monotonic()
    convert(graph(node(1, "Encode", widgets_values=[text]), node(2, "SaveImage", widgets_values=[text])), OBJECT_INFO)
    assert time.monotonic() - started < 10


ATOMS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-20, 40),
    st.sampled_from(
        [10**30, -1, 1e308, 2.5, "", "IMAGE", "*", "Reroute", "PrimitiveNode", "workflow>My group", "x", "3"]
    ),
    st.sampled_from([[], {}, [1, 2], [[1, 1, 0, 2, 0, "*"]], {"name": "text"}, {"id": 1, "type": "Const"}]),
)
GRAPHS = [read(FIXTURES / f"{name}.json")["ui"] for name in OWN]


def places(value: Any) -> list[tuple[Any, Any]]:
    """Every place in a JSON value: its container and its key there."""
    found, waiting = [], [value]
    while waiting:
        container = waiting.pop()
        keys = list(container) if isinstance(container, dict) else list(range(len(container)))
        for key in keys:
            found.append((container, key))
            if isinstance(container[key], dict | list):
                waiting.append(container[key])
    return found


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_a_mutated_graph_converts_or_raises_the_error_of_conversion(data: st.DataObject) -> None:
    """Values replaced, removed, doubled and moved at random: nothing else ever comes out, and it ends."""
    mutated = copy.deepcopy(data.draw(st.sampled_from(GRAPHS)))
    for _ in range(data.draw(st.integers(1, 6))):
        found = places(mutated)
        if not found:
            break
        container, key = found[data.draw(st.integers(0, len(found) - 1))]
        match data.draw(st.sampled_from(["replace", "remove", "double", "move"])):
            case "remove":
                del container[key]
            case "double" if isinstance(container, list):
                container.append(copy.deepcopy(container[key]))
            case "move":
                other, place = found[data.draw(st.integers(0, len(found) - 1))]
                container[key] = copy.deepcopy(other[place])
            case _:
                container[key] = copy.deepcopy(data.draw(ATOMS))
    try:
        prompt = convert(mutated, OBJECT_INFO, keep_unknown=data.draw(st.booleans()))
    except ConversionError:
        return
    json.dumps(prompt)


@settings(max_examples=150, deadline=None)
@given(
    saved=st.recursive(
        ATOMS, lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=6), inner), max_leaves=20
    )
)
def test_any_json_converts_or_raises_the_error_of_conversion(saved: object) -> None:
    """As the nodes of a graph, too."""
    for whole in (saved, {"nodes": saved}, {"nodes": [saved], "links": saved, "definitions": {"subgraphs": [saved]}}):
        try:
            convert(whole, OBJECT_INFO)
        except ConversionError:
            continue
