"""File names that come through a link (row S6)."""

import time
from typing import Any

import pytest

from comfy_balancer.linked_names import check_linked_names
from comfy_shared.needs import Offer
from test.unit.balancer.test_checks import HONEST, TRICKS

OFFER = Offer(
    {
        "PrimitiveString": {"input": {"required": {"value": ["STRING", {}]}}},
        "StringConcatenate": {"input": {"required": {"string_a": ["STRING", {}], "string_b": ["STRING", {}]}}},
        "LoadImage": {"input": {"required": {"image": [["a.png"], {"image_upload": True}]}}},
        "SaveImage": {"input": {"required": {"images": ["IMAGE"], "filename_prefix": ["STRING", {}]}}},
        "CLIPTextEncode": {"input": {"required": {"text": ["STRING", {}]}}},
        "Loader": {"input": {"required": {"ckpt_name": ["COMBO", {"options": ["a"]}]}}},
    }
)


def graph(text: str, class_type: str = "SaveImage", name: str = "filename_prefix") -> dict[str, Any]:
    """The text goes through a second node into the input."""
    return {
        "1": {"class_type": "PrimitiveString", "inputs": {"value": text}},
        "2": {"class_type": "StringConcatenate", "inputs": {"string_a": ["1", 0], "string_b": "x"}},
        "3": {"class_type": class_type, "inputs": {name: ["2", 0]}},
    }


@pytest.mark.parametrize("trick", TRICKS)
@pytest.mark.parametrize("offers", [[OFFER], []])
def test_no_trick_comes_through_a_link(trick: str, offers: list[Offer]) -> None:
    (problem,) = check_linked_names(graph(trick), offers)
    assert problem.field == "prompt.3.inputs.filename_prefix"


@pytest.mark.parametrize("name", HONEST)
def test_an_honest_name_does(name: str) -> None:
    assert check_linked_names(graph(name), [OFFER]) == []


def test_an_upload_is_never_linked() -> None:
    (problem,) = check_linked_names(graph("a.png", "LoadImage", "image"), [OFFER])
    assert "sha256" in problem.message


def test_a_choice_is_checked_like_a_text() -> None:
    assert len(check_linked_names(graph("../x", "Loader", "ckpt_name"), [OFFER])) == 1


@pytest.mark.parametrize("offers", [[OFFER], []])
def test_links_that_are_pictures_or_texts_are_left_alone(offers: list[Offer]) -> None:
    text = "a cat .. on C:\\ drive"
    assert check_linked_names(graph(text, "SaveImage", "images"), offers) == []
    assert check_linked_names(graph(text, "CLIPTextEncode", "text"), offers) == []


def test_a_large_graph_of_links_costs_little() -> None:
    prompt: dict[str, Any] = {"0": {"class_type": "PrimitiveString", "inputs": {"value": "../x"}}}
    for number in range(1, 5000):
        links = {f"path_{index}": [str(max(0, number - 1 - index)), 0] for index in range(20)}
        prompt[str(number)] = {"class_type": "X", "inputs": links}
    started = time.process_time()
    assert len(check_linked_names(prompt, [])) == 50
    assert time.process_time() - started < 2
