"""Which agent can run a prompt, and how that is told. Values only."""

from typing import Any

import pytest

from comfy_balancer.checks import MOST_EXPLAINED, check_choices
from comfy_balancer.eligibility import MOST_AGENTS, Member, check_needs, different, hindrances, lacks, read_needs
from comfy_shared.models import Needs, Prompt
from comfy_shared.needs import Offer, can_run, lane_of, needs_of
from comfy_shared.registry import Agent, Vitals
from test.support.builders import agent_record


def offer(*files: str, **inputs: Any) -> Offer:
    """A loader with these files, and a class `N` with these inputs."""
    return Offer(
        {
            "Load": {"input": {"required": {"ckpt_name": [list(files), {}]}}, "output_node": True},
            "N": {"input": {"required": inputs}},
        }
    )


def member(name: str, has: Offer | None, *, alive: bool = True, draining: bool = False, **record: Any) -> Member:
    agent = Agent(
        record=agent_record(name, **record), vitals=Vitals(), alive=alive, draining=draining, seen_at=0, digest=""
    )
    return Member(agent=agent, offer=has)


def load(*files: str) -> Prompt:
    return {str(i): {"class_type": "Load", "inputs": {"ckpt_name": name}} for i, name in enumerate(files)}


def node(**inputs: Any) -> Prompt:
    return {"7": {"class_type": "N", "inputs": inputs}}


class TestChoices:
    def fields(self, prompt: Prompt, *offers: Offer) -> list[str]:
        return [problem.field for problem in check_choices(prompt, needs_of(prompt, offers), offers)]

    @pytest.mark.parametrize(
        ("entry", "fine", "wrong"),
        [
            ([["euler", "dpm"], {}], ["euler", "dpm"], ["eulerx", "", "Euler", 1, True]),
            (["COMBO", {"options": ["euler"]}], ["euler"], ["x"]),
            ([[1, 2, 4], {}], [1, 2.0, True], [3, "1", 0.5]),
            ([[], {}], [], ["anything", 0]),
        ],
        ids=str,
    )
    def test_a_value_must_be_from_the_list(self, entry: list[Any], fine: list[Any], wrong: list[Any]) -> None:
        """Numbers are compared as ComfyUI compares them."""
        for value in fine:
            assert self.fields(node(a=value), offer(a=entry)) == []
        for value in wrong:
            assert self.fields(node(a=value), offer(a=entry)) == ["prompt.7.inputs.a"]

    @pytest.mark.parametrize(
        ("entry", "value"),
        [
            (["STRING", {}], "x"),
            (["COMBO", {}], "x"),
            ([["a.png"], {"image_upload": True}], "b.png"),
            ([["a"], {"multiselect": True}], ["a", "b", "c"]),
            ([["a"], {}], ["1", 0]),
            ([["a"], {}], None),
            ([["a"], {}], {"__value__": ["a"]}),
            ([["a.ckpt"], {}], "b.ckpt"),
            (None, "x"),
        ],
        ids=str,
    )
    def test_uploads_links_files_and_inputs_without_a_list_are_left_alone(self, entry: Any, value: Any) -> None:
        """A model file is a need and told as one."""
        assert self.fields(node(a=value), offer(a=entry)) == []

    def test_a_class_that_nobody_knows_has_no_lists(self) -> None:
        assert self.fields(node(a="x"), Offer({})) == []
        assert self.fields(node(a="x")) == []

    def test_what_one_agent_takes_is_fine(self) -> None:
        strict, other, free = offer(a=[["x"], {}]), offer(a=[["y"], {}]), offer(a=["STRING"])
        assert self.fields(node(a="y"), strict, other) == []
        assert self.fields(node(a="z"), strict, other) == ["prompt.7.inputs.a"]
        assert self.fields(node(a="z"), strict, free) == []
        assert self.fields(node(a="z"), strict, Offer({})) == ["prompt.7.inputs.a"], "who lacks the class says nothing"

    def test_the_nearest_of_all_agents_are_told(self) -> None:
        offers = [offer(a=[["euler"], {}]), offer(a=[["euler_b"], {}])]
        prompt = node(a="eulerx")
        (problem,) = check_choices(prompt, needs_of(prompt, offers), offers)
        assert (problem.nearest, problem.limits) == (["euler", "euler_b"], {"choices": ["euler", "euler_b"]})

    def test_long_lists_and_values_are_not_repeated(self) -> None:
        has = offer(a=[[str(number) for number in range(100)], {}])
        prompt = node(a="x" * 10_000)
        (problem,) = check_choices(prompt, needs_of(prompt, [has]), [has])
        assert (problem.limits, len(problem.message) < 300) == ({}, True)

    def test_only_some_of_many_are_explained(self) -> None:
        prompt = {str(number): {"class_type": "N", "inputs": {"a": "x"}} for number in range(100)}
        assert len(self.fields(prompt, offer(a=[["y"], {}]))) == MOST_EXPLAINED


class TestNeeds:
    def test_labels_are_part_of_the_lane_whatever_their_order(self) -> None:
        prompt = load("a.ckpt")
        plain = needs_of(prompt, [])
        one, other = ({"pool": "x", "room": "1"}, {"room": "1", "pool": "x"})
        assert needs_of(prompt, [], one) == needs_of(prompt, [], other)
        assert lane_of(needs_of(prompt, [], one)) != lane_of(plain)
        assert lane_of(needs_of(prompt, [], {"pool": "y"})) != lane_of(needs_of(prompt, [], {"pool": "x"}))

    def test_an_agent_can_run_what_it_offers_and_is_labeled_for(self) -> None:
        has, needs = offer("a.ckpt"), needs_of(load("a.ckpt"), [offer("a.ckpt")], {"pool": "x"})
        assert can_run(has, {"pool": "x", "room": "1"}, needs)
        assert not can_run(has, {"pool": "y"}, needs)
        assert not can_run(has, {}, needs)
        assert not can_run(offer("b.ckpt"), {"pool": "x"}, needs)

    def test_a_file_that_no_agent_lists_is_a_need_when_the_class_is_known(self) -> None:
        """Also when the only list is empty: then no agent without the file takes a held task."""
        for has in (offer("b.ckpt"), offer()):
            assert needs_of(load("a.ckpt"), [has]).choices == (("Load", "ckpt_name", "a.ckpt"),)
        assert needs_of(load("a.ckpt"), [Offer({})]) == Needs(classes=("Load",)), "of an unknown class only the class"

    @pytest.mark.parametrize("raw", [None, b"", b"{", b"[]", b'{"classes": 3}', b'{"classes": ["\xff"]}', 3, {}])
    def test_needs_that_cannot_be_read_are_not_known(self, raw: object) -> None:
        assert read_needs(raw) is None

    def test_needs_of_before_labels_are_read(self) -> None:
        assert read_needs(b'{"classes":["A"],"choices":[]}') == Needs(classes=("A",))


class TestCheck:
    def problems(self, prompt: Prompt, *members: Member, hold: bool = False, **require: str) -> list[str]:
        offers = different(members)
        found = check_needs(prompt, needs_of(prompt, offers, require), offers, members, hold=hold)
        return [problem.field for problem in found]

    def test_nothing_is_wrong_while_nothing_is_known(self) -> None:
        assert self.problems(load("a.ckpt"), pool="x") == []
        assert self.problems(load("a.ckpt"), member("m", None)) == []
        assert self.problems(load("a.ckpt"), member("m", None, labels={"pool": "x"}), pool="x") == []

    def test_an_agent_without_its_instance_says_nothing_of_files(self) -> None:
        """The only agent with the label restarts its ComfyUI: what it will offer is not known."""
        members = [member("m", None, labels={"pool": "x"}), member("n", offer("b.ckpt"))]
        assert self.problems(load("a.ckpt"), *members, pool="x") == []
        assert self.problems(load("a.ckpt"), *members) == ["prompt.0.inputs.ckpt_name"]

    def test_label_and_files_must_come_together(self) -> None:
        members = [member("m", offer("a.ckpt")), member("n", offer("b.ckpt"), labels={"pool": "x"})]
        assert self.problems(load("b.ckpt"), *members, pool="x") == []
        assert self.problems(load("a.ckpt"), *members, pool="x") == ["prompt.0.inputs.ckpt_name"]
        assert self.problems(load("a.ckpt"), *members, pool="x", hold=True) == []

    def test_agents_that_drain_or_are_gone_count_at_a_submit(self) -> None:
        """They come back; all agents may restart at once."""
        assert self.problems(load("a.ckpt"), member("m", offer("a.ckpt"), alive=False, draining=True)) == []

    def test_equal_agents_have_one_offer(self) -> None:
        shared = offer("a.ckpt")
        assert different([member("m", shared), member("n", shared), member("o", None)]) == [shared]

    def test_of_many_agents_some_are_named(self) -> None:
        members = [member(f"a{number}", offer("a.ckpt")) for number in range(40)] + [member("b", offer("b.ckpt"))]
        prompt, offers = load("a.ckpt", "b.ckpt"), different(members)
        (problem,) = check_needs(prompt, needs_of(prompt, offers), offers, members, hold=False)
        assert problem.limits["agents"]["b.ckpt"] == ["b"]
        assert len(problem.limits["agents"]["a.ckpt"]) == MOST_AGENTS


class TestHindrances:
    def test_every_reason_is_told(self) -> None:
        needs = Needs(classes=("Load",), choices=(("Load", "ckpt_name", "a.ckpt"),), labels=(("pool", "x"),))
        poor = member("m", offer("b.ckpt"), alive=False, draining=True)
        assert hindrances(poor, needs) == [
            "lacks the label pool=x",
            "lacks the file 'a.ckpt'",
            "is not alive: its heartbeat lapsed",
            "drains: it claims no more",
        ]
        assert hindrances(member("m", offer("a.ckpt"), labels={"pool": "x"}), needs) == []

    def test_needs_that_are_not_known_are_tried(self) -> None:
        """As the agent does."""
        assert hindrances(member("m", offer()), None) == []

    def test_of_many_things_that_it_lacks_the_first_are_told(self) -> None:
        needs = Needs(classes=tuple(f"C{number}" for number in range(10)))
        assert lacks(member("m", offer()), needs)[3:] == ["lacks the node class 'C3'", "lacks 6 more"]
