"""What a prompt needs, and what an instance offers."""

from typing import Any

import pytest

from comfy_shared.models import Needs, Prompt
from comfy_shared.needs import Offer, lane_of, missing, nearest, needs_of
from comfy_shared.registry import pack_offer, unpack_offer

LOADER = "CheckpointLoaderSimple"


def info(*files: str, extra: dict[str, Any] | None = None) -> dict[str, Any]:
    classes: dict[str, Any] = {
        LOADER: {"input": {"required": {"ckpt_name": [list(files), {"tooltip": "x"}]}}},
        "KSampler": {"input": {"required": {"sampler_name": [["euler", "dpm"]], "steps": ["INT", {"min": 1}]}}},
        "LoadImage": {"input": {"required": {"image": [["a.png"], {"image_upload": True}]}}},
        "SaveImage": {"input": {"required": {"images": ["IMAGE"]}}, "output_node": True},
        "LoraLoader": {"input": {"optional": {"lora_name": ["COMBO", {"options": ["x.safetensors"]}]}}},
    }
    return classes | (extra or {})


A, B = Offer(info("a.safetensors")), Offer(info("b.safetensors"))


def prompt(file: str = "a.safetensors", more: dict[str, Any] | None = None) -> Prompt:
    nodes: dict[str, Any] = {
        "4": {"class_type": LOADER, "inputs": {"ckpt_name": file}},
        "9": {"class_type": "SaveImage", "inputs": {"images": ["4", 0]}},
    }
    return nodes | (more or {})


class TestOffer:
    def test_choices_come_from_both_ways_of_writing_a_list(self) -> None:
        assert A.choices(LOADER, "ckpt_name") == frozenset({"a.safetensors"})
        assert A.choices("LoraLoader", "lora_name") == frozenset({"x.safetensors"})
        assert A.choices(LOADER, "ckpt_name") == frozenset({"a.safetensors"}), "the same the second time"

    @pytest.mark.parametrize(
        ("class_type", "name"),
        [("KSampler", "steps"), ("SaveImage", "images"), ("LoadImage", "image"), (LOADER, "x"), ("Nothing", "x")],
    )
    def test_other_inputs_have_no_list(self, class_type: str, name: str) -> None:
        """Nor have uploads: their list changes with every upload."""
        assert A.choices(class_type, name) is None

    def test_output_classes_are_known(self) -> None:
        assert A.is_output("SaveImage")
        assert not A.is_output(LOADER)
        assert not A.is_output("Nothing")

    @pytest.mark.parametrize(
        "entry",
        [
            {},
            {"input": {}},
            {"input": None},
            {"input": []},
            {"input": "x"},
            {"input": {"required": None}},
            {"input": {"required": {"a": None}}},
            {"input": {"required": {"a": []}}},
            {"input": {"required": {"a": [None]}}},
            {"input": {"required": {"a": [["x", 1, None], None]}}},
            {"input": {"required": {"a": ["COMBO"]}}},
            {"input": {"required": {"a": ["COMBO", {"options": 7}]}}},
        ],
        ids=str,
    )
    def test_odd_object_info_is_survived(self, entry: Any) -> None:
        # A custom node writes it. "input": null broke the check of every prompt with that class.
        offer = Offer(info("a.safetensors", extra={"Odd": entry}))
        graph = prompt(more={"1": {"class_type": "Odd", "inputs": {"a": "b.safetensors"}}})
        needs = needs_of(graph, [offer])
        missing(graph, needs, [offer])
        assert Offer(unpack_offer(pack_offer(offer.object_info).packed)).knows("Odd")
        assert offer.choices("Odd", "a") in (None, frozenset({"x"}))


class TestNeeds:
    def test_classes_and_model_files_are_needed_once_and_sorted(self) -> None:
        graph = prompt(
            more={
                "5": {"class_type": LOADER, "inputs": {"ckpt_name": "a.safetensors"}},
                "3": {"class_type": "KSampler", "inputs": {"sampler_name": "euler", "steps": 20}},
            }
        )
        needs = needs_of(graph, [A])
        assert needs.classes == (LOADER, "KSampler", "SaveImage")
        assert needs.choices == ((LOADER, "ckpt_name", "a.safetensors"),)

    def test_a_file_nobody_has_is_still_a_need(self) -> None:
        assert needs_of(prompt("Z.SafeTensors"), [A]).choices == ((LOADER, "ckpt_name", "Z.SafeTensors"),)

    def test_without_offers_only_classes_are_known(self) -> None:
        assert needs_of(prompt(), []) == Needs(classes=(LOADER, "SaveImage"))

    def test_equal_needs_are_one_lane_whatever_else_differs(self) -> None:
        other = {"8": prompt()["9"], "1": prompt()["4"]}
        assert lane_of(needs_of(prompt(), [A])) == lane_of(needs_of(other, [B, A]))
        assert lane_of(needs_of(prompt(), [A])) != lane_of(needs_of(prompt("b.safetensors"), [A]))

    def test_an_offer_meets_what_it_has(self) -> None:
        needs = needs_of(prompt(), [A, B])
        assert A.meets(needs)
        assert not B.meets(needs)
        assert not A.meets(Needs(classes=("Nothing",)))
        assert not A.meets(Needs(classes=(), choices=(("Nothing", "x", "y"),)))


class TestMissing:
    def problems(self, graph: Prompt, *offers: Offer) -> list[tuple[str, str, list[str]]]:
        found = missing(graph, needs_of(graph, offers), offers)
        return [(problem.field, problem.message, problem.nearest) for problem in found]

    def test_nothing_is_missing_when_one_offer_has_all_or_none_is_known(self) -> None:
        assert self.problems(prompt(), B, A) == []
        assert self.problems(prompt()) == []

    def test_a_missing_class_is_named_with_its_like(self) -> None:
        graph = prompt(more={"7": {"class_type": "KSamplr", "inputs": {}}})
        assert self.problems(graph, A) == [
            ("prompt.7.class_type", "no agent has the node class 'KSamplr'", ["KSampler"])
        ]

    def test_a_missing_file_is_named_with_its_like(self) -> None:
        assert self.problems(prompt("aa.safetensors"), A) == [
            ("prompt.4.inputs.ckpt_name", "no agent has the file 'aa.safetensors'", ["a.safetensors"])
        ]

    def test_every_problem_is_named(self) -> None:
        graph = prompt("zzz.ckpt", {"7": {"class_type": "Nope", "inputs": {}}})
        assert [field for field, _, _ in self.problems(graph, A)] == [
            "prompt.4.inputs.ckpt_name",
            "prompt.7.class_type",
        ]

    def test_parts_that_no_single_agent_has_together_are_told(self) -> None:
        graph = prompt(more={"5": {"class_type": LOADER, "inputs": {"ckpt_name": "b.safetensors"}}})
        assert self.problems(graph, A, B) == [
            ("prompt", "each node class and model file exists, but no single agent has all of them", [])
        ]

    def test_an_endless_name_is_compared_in_part(self) -> None:
        assert nearest("x" * 10_000_000, ["xx"]) == []
