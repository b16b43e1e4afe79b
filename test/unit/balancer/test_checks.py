"""The pure checks of a prompt: structure, circles, and file names that leave their folder (row S6)."""

from typing import Any

import pytest

from comfy_balancer.checks import check_offered, check_outputs, check_paths, check_structure, names_file, path_trick
from comfy_shared.needs import Offer, needs_of

TRICKS = [
    "../x.png", "..", "../../etc/passwd", "a/../../b", "a/..", "./../x", "a//../b", " ../x", "../ x", "a/ .. /b",
    ".. /x", "../x [input]", "...", "a/.../b", "....//x",
    "/etc/passwd", "//server/share", "/", " /etc/passwd",
    "\\etc\\passwd", "..\\x", "a\\b.png", "\\\\server\\share\\x", "a/..\\..\\b", "C:\\x", "C:/x", "c:x", "Z:/a.png",
    "a.png:stream", "a.png::$DATA", "file:///etc/passwd", "file:x", "FILE:/x", "http://evil.example/a.png",
    "https://evil.example", "ftp://x", "s3://bucket/x", "data:image/png;base64,AAAA", "jar:file:x", "a.png [output]",
    "a.png [temp]", "a.png [input]", "a.png[output]", "a.png [OUTPUT]", "a.png [ Output ]", "a.png\t[temp]", "[temp]",
    "a\x00.png", "\x00", "a\n.png", "a\r.png", "\x1b[0m", "a\u200b.png", "\u202egnp.a", "\ufeff../x", "a\u2028b",
    "\uff0e\uff0e/x", "\uff0e\uff0e\uff0fx", "\u2025/x", "a\uff3cb", "..\u2215x", "..\u2044x", "a\u2216b", "%2e%2e/x",
    "%2E%2E%2Fx", "a%5cb", "a%00.png", "~/x", "~root/x", "a/~/b", "$HOME/x", "${HOME}/x", "$(id)", "a/$HOME",
    "x" * 1025,
    "a/../../../../../../etc/shadow", ".../...//", "..\u200b/x", "a/\u2024\u2024/x", "\ufe52\ufe52/x", "a/\u2026/x",
    "\uff3boutput\uff3d", "a.png [temp ]", "c\uff1a/x", "\ufe55\\x", "..%2fx", "%2F..", "\u29f8etc",
    "/dev/stdin", "/proc/self/environ", "\\\\?\\C:\\x", "//?/C:/x", "\\\\.\\pipe\\x", "gopher://x", "a/b/../../..",
    "a/ ../b",
    "$env:TEMP/x", "a/${IFS}/b", "~", "a\u0085.png", "a\u2029b", "\u2066a.png", "a\ud800.png", "../" * 300,
]  # fmt: skip
HONEST = [
    "ComfyUI", "picture.png", "a/b/c.png", "2026/november/x", "v1.5", "a..b.png", "wait...", "x.tar.gz", ".hidden",
    "%date:yyyy-MM-dd%", "%Empty Latent Image.width%_x", "50%off", "ein Bild é.png", "日本語.png", "a b (1).png",
    "price_5$", "a-[1].png", "output", "[final] x", "", "a/./b", "x~1",
]  # fmt: skip


@pytest.mark.parametrize("trick", TRICKS)
def test_a_trick_is_named_with_its_input(trick: str) -> None:
    prompt = {"7": {"class_type": "SaveImage", "inputs": {"filename_prefix": trick}}}
    (problem,) = check_paths(prompt, [])
    assert problem.field == "prompt.7.inputs.filename_prefix"
    assert len(problem.message) < 80, "the message does not repeat what was sent"


def test_the_corpus_is_large_enough() -> None:
    assert len(set(TRICKS)) >= 60


@pytest.mark.parametrize("name", HONEST)
def test_an_honest_name_passes(name: str) -> None:
    assert path_trick(name) is None


@pytest.mark.parametrize(
    "name",
    [
        "filename_prefix", "filename",
        "file", "path", "image", "video", "audio", "model_file", "image_path", "save_dir",
        "output_path", "url", "image_url", "directory", "folder", "lora_name", "ckpt_name",
        "clip_name1", "file_path", "Path",
    ],
)  # fmt: skip
def test_an_input_of_this_name_is_taken_for_a_file(name: str) -> None:
    assert names_file(name)
    prompt = {"1": {"class_type": "X", "inputs": {name: "../x"}}}
    assert [problem.field for problem in check_paths(prompt, [])] == [f"prompt.1.inputs.{name}"]


@pytest.mark.parametrize("name", ["text", "prompt", "title", "image_prompt", "profile", "value", "string", "negative"])
def test_ordinary_text_is_left_alone(name: str) -> None:
    prompt = {
        "6": {"class_type": "CLIPTextEncode", "inputs": {name: "a cat .. on C:\\ drive, see file:///x [output] ~/"}}
    }
    assert check_paths(prompt, []) == []


def test_tricks_are_found_inside_lists_and_objects() -> None:
    for value in (["a.png", "../x"], {"a": {"b": ["../x"]}}, [["../x"]], ["a", 0, "../x"]):
        prompt = {"1": {"class_type": "LoadImages", "inputs": {"images": value}}}
        assert [problem.field for problem in check_paths(prompt, [])] == ["prompt.1.inputs.images"]


def test_an_input_that_the_object_info_calls_an_upload_is_checked_whatever_its_name() -> None:
    offer = Offer({"X": {"input": {"required": {"thing": [["a.png"], {"image_upload": True}]}}}})
    prompt = {"1": {"class_type": "X", "inputs": {"thing": "../x"}}}
    assert [problem.field for problem in check_paths(prompt, [offer])] == ["prompt.1.inputs.thing"]
    assert check_paths(prompt, []) == []


def test_the_instances_own_name_of_a_model_is_no_trick() -> None:
    offer = Offer({"L": {"input": {"required": {"ckpt_name": [["sd\\a.safetensors"], {}]}}}})
    prompt = {"1": {"class_type": "L", "inputs": {"ckpt_name": "sd\\a.safetensors"}}}
    assert check_paths(prompt, [offer]) == []
    assert check_paths(prompt, [Offer({})]) != []


def node(**inputs: Any) -> dict[str, Any]:
    return {"class_type": "N", "inputs": inputs}


@pytest.mark.parametrize(
    ("prompt", "field"),
    [
        ([], "prompt"),
        ({}, "prompt"),
        (None, "prompt"),
        ({"nodes": [], "links": []}, "prompt"),
        ({"1": 3}, "prompt.1"),
        ({"": node()}, "prompt."),
        ({"x" * 65: node()}, "prompt." + "x" * 64),
        ({"a\nb": node()}, "prompt.a\\nb"),
        ({"1": {"inputs": {}}}, "prompt.1.class_type"),
        ({"1": {"class_type": 5, "inputs": {}}}, "prompt.1.class_type"),
        ({"1": {"class_type": "x" * 257, "inputs": {}}}, "prompt.1.class_type"),
        ({"1": {"class_type": "N", "inputs": []}}, "prompt.1.inputs"),
        ({"1": node(**{f"i{n}": 0 for n in range(1001)})}, "prompt.1.inputs"),
        ({"1": node(a=["2", 0])}, "prompt.1.inputs.a"),
        ({"1": node(), "2": node(a=["1", -1])}, "prompt.2.inputs.a"),
        ({"1": node(), "2": node(a=["1", 0.5])}, "prompt.2.inputs.a"),
        ({"1": node(a=2**64)}, "prompt.1.inputs.a"),
        ({"1": node(a=[[{"b": -(2**63) - 1}]])}, "prompt.1.inputs.a"),
        ({"1": {**node(), "_meta": {"x": 2**64}}}, "prompt.1._meta"),
        ({"1": node(a=["1", 0])}, "prompt.1"),
        ({"1": node(a=["2", 0]), "2": node(a=["3", 0]), "3": node(a=["1", 0])}, "prompt.1"),
    ],
)
def test_a_broken_graph_is_named_where_it_breaks(prompt: object, field: str) -> None:
    assert field in [problem.field for problem in check_structure(prompt, node_limit=100)]


def test_all_problems_are_told_at_once_up_to_a_bound() -> None:
    assert len(check_structure({"1": node(a=["x", 0], b=["y", 0]), "2": 3}, node_limit=100)) == 3
    assert len(check_structure({str(number): 3 for number in range(90)}, node_limit=100)) == 50


def test_a_sound_graph_passes() -> None:
    prompt = {"a:1": node(v=2**64 - 1, w=-(2**63)), "b": node(x=["a:1", 0], y=["a:1", 1], pair=[512, 512])}
    assert check_structure(prompt, node_limit=2) == []


def test_the_depth_is_bounded_without_recursion() -> None:
    def nested(depth: int) -> Any:
        value: Any = 1
        for _ in range(depth):
            value = [value]
        return value

    assert check_structure({"1": node(a=nested(60))}, node_limit=9) == []
    for depth in (61, 100_000):
        assert [problem.field for problem in check_structure({"1": node(a=nested(depth))}, node_limit=9)] == [
            "prompt.1.inputs.a"
        ]


def test_a_long_chain_is_no_circle_and_costs_no_stack() -> None:
    prompt = {"0": node()} | {str(number): node(a=[str(number - 1), 0]) for number in range(1, 20_000)}
    assert check_structure(prompt, node_limit=20_000) == []


OFFER = Offer(
    {
        "Load": {"input": {"required": {"ckpt_name": [["a.ckpt"], {}]}}},
        "Save": {"input": {}, "output_node": True},
    },
)


def test_a_graph_without_an_output_is_refused_when_its_classes_are_known() -> None:
    load = {"1": {"class_type": "Load", "inputs": {}}}
    assert [problem.field for problem in check_outputs(load, [OFFER])] == ["prompt"]
    assert check_outputs(load, []) == []
    assert check_outputs(load | {"2": {"class_type": "Save", "inputs": {}}}, [OFFER]) == []
    assert check_outputs(load | {"2": {"class_type": "New", "inputs": {}}}, [OFFER]) == [], "the class is told instead"


def test_what_no_agent_offers_is_named() -> None:
    prompt = {
        "1": {"class_type": "Load", "inputs": {"ckpt_name": "b.ckpt"}},
        "2": {"class_type": "Sav", "inputs": {}},
    }
    problems = check_offered(prompt, needs_of(prompt, [OFFER]), [OFFER])
    assert [problem.field for problem in problems] == ["prompt.1.inputs.ckpt_name", "prompt.2.class_type"]
    assert [problem.nearest for problem in problems] == [["a.ckpt"], ["Save"]]
    assert check_offered(prompt, needs_of(prompt, []), []) == []


def test_only_some_of_many_unknown_nodes_are_explained() -> None:
    prompt = {str(number): {"class_type": f"X{number}", "inputs": {}} for number in range(1000)}
    assert len(check_offered(prompt, needs_of(prompt, [OFFER]), [OFFER])) == 16
