"""Which node classes a role may name (row S5)."""

import json
from pathlib import Path
from typing import Any

import pytest

from comfy_balancer.node_policy import CORE, RISKY, RUNS_CODE, NodePolicy
from comfy_shared.needs import Offer

USER = NodePolicy("user", ",".join(CORE), ",".join(RISKY))
ADMIN = NodePolicy("admin", "*", ",".join(RUNS_CODE))


def offer(**modules: str | None) -> Offer:
    return Offer({name: {"python_module": module} if module else {} for name, module in modules.items()})


def prompt(*classes: str) -> dict[str, Any]:
    return {str(number): {"class_type": name, "inputs": {}} for number, name in enumerate(classes, 1)}


HERE = offer(
    KSampler="nodes", Canny="comfy_extras.nodes_canny", Mine="custom_nodes.mine", Paid="comfy_api_nodes.nodes_x",
    LoadLatent="nodes", RegexMatch="comfy_extras.nodes_string", Untold=None, nodes="custom_nodes.tricky",
    Sneaky="nodes_but_not", Extra="comfy_extras",
)  # fmt: skip


@pytest.mark.parametrize("name", ["KSampler", "Canny"])
def test_a_user_may_name_what_comes_with_comfyui(name: str) -> None:
    assert USER.check(prompt(name), [HERE]) == []


@pytest.mark.parametrize("name", ["Mine", "Paid", "LoadLatent", "RegexMatch", "Untold", "nodes", "Sneaky", "Extra"])
def test_and_nothing_else(name: str) -> None:
    (problem,) = USER.check(prompt("KSampler", name), [HERE])
    assert problem.field == "prompt.2.class_type"
    assert repr(name) in problem.message
    assert "role user" in problem.message


@pytest.mark.parametrize(
    "name",
    [
        "CheckpointLoader", "DiffusersLoader", "HypernetworkLoader", "LoadTrainingDataset", "LoadImageOutput",
        "LoadImageSetFromFolderNode", "LoadImageTextSetFromFolderNode", "LoadImageDataSetFromFolder", "Load3D",
        "Load3DAnimation", "WebcamCapture", "TrainLoraNode", "SaveLoRANode", "CheckpointSave", "RegexReplace",
    ],
)  # fmt: skip
def test_risky_core_nodes_are_denied_to_users_only(name: str) -> None:
    assert len(USER.check(prompt(name), [offer(**{name: "comfy_extras.nodes_x"})])) == 1
    if name != "LoadTrainingDataset":
        assert ADMIN.check(prompt(name), [offer(**{name: "comfy_extras.nodes_x"})]) == []


def test_nobody_sends_code() -> None:
    for name in ("LoadTrainingDataset", "ExecPythonNode", "EasyPythonScript", "ShellCommand"):
        for policy in (USER, ADMIN):
            assert len(policy.check(prompt(name), [offer(**{name: "custom_nodes.x"})])) == 1


def test_a_class_must_be_allowed_on_every_agent_that_has_it() -> None:
    """Custom nodes of one agent may carry the name of a core node."""
    assert len(USER.check(prompt("KSampler"), [HERE, offer(KSampler="custom_nodes.impostor")])) == 1
    assert USER.check(prompt("KSampler"), [HERE, offer(Other="custom_nodes.x")]) == []


def test_an_unknown_class_is_judged_only_when_the_task_is_to_wait() -> None:
    assert USER.check(prompt("New"), [HERE]) == []
    assert len(USER.check(prompt("New"), [HERE], hold=True)) == 1
    assert len(USER.check(prompt("KSampler"), [])) == 1
    assert ADMIN.check(prompt("New"), [HERE], hold=True) == []


def test_patterns_are_about_names_or_modules_and_who_denies_wins() -> None:
    policy = NodePolicy("user", " Mine , module:nodes", "K*")
    assert policy.check(prompt("Mine", "LoadLatent"), [HERE]) == []
    assert len(policy.check(prompt("KSampler", "Canny", "mine"), [offer(mine="x"), HERE])) == 3
    assert len(NodePolicy("user", "*", "module:custom_nodes*").check(prompt("Mine", "KSampler"), [HERE])) == 1
    assert len(NodePolicy("user", "", "").check(prompt("KSampler"), [HERE])) == 1


def test_problems_are_bounded() -> None:
    assert len(USER.check(prompt(*["Mine"] * 4000), [HERE])) == 50


def test_the_shipped_graphs_of_raw_prompts_pass_for_users() -> None:
    """What the simulator shows is what ComfyUI 0.3.64 shows of these classes."""
    info = json.loads((Path(__file__).parents[2] / "simulator" / "object_info.json").read_text())
    for path in (Path(__file__).parents[3] / "workflows").glob("*-api.json"):
        assert USER.check(json.loads(path.read_text()), [Offer(info)]) == [], path.name
