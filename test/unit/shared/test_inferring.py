"""What a graph's parameters are when nobody wrote them, and what is filled in where somebody wrote a part."""

import json
import random
import time
from pathlib import Path
from typing import Any

import pytest

from comfy_shared.workflows import (
    ConversionError,
    Parameter,
    ParameterDraft,
    ParameterType,
    Target,
    WorkflowDraft,
    WorkflowError,
    complete_workflow,
    convert,
    infer_parameters,
    load_workflow,
    make_from_request,
    render,
)
from comfy_shared.workflows.checks import Flaw
from comfy_shared.workflows.inferring import MOST_PARAMETERS

FIXTURES = Path(__file__).parents[2] / "fixtures" / "conversion"
WORKFLOWS = Path(__file__).parents[3] / "workflows"


def known(inputs: dict[str, Any], *output: str, output_node: bool = False) -> dict[str, Any]:
    return {"input": {"required": inputs}, "output": list(output), "output_node": output_node}


VIDEO = ["COMBO", {"options": ["v.mp4"], "video_upload": True}]
OBJECT_INFO: dict[str, Any] = {
    **json.loads((FIXTURES / "object_info.json").read_text()),
    "CheckpointLoaderSimple": known({"ckpt_name": [["a.safetensors", "b.safetensors"]]}, "MODEL", "CLIP", "VAE"),
    "Zero": known({"conditioning": ["CONDITIONING"]}, "CONDITIONING"),
    "ConditioningZeroOut": known({"conditioning": ["CONDITIONING"]}, "CONDITIONING"),
    "LoadVideo": known({"file": VIDEO}, "VIDEO"),
    "SaveVideo": known({"video": ["VIDEO"]}, output_node=True),
    "PrimitiveInt": known({"value": ["INT", {"min": -9, "max": 9, "control_after_generate": True}]}, "INT"),
    "PrimitiveString": known({"value": ["STRING", {"multiline": True}]}, "STRING"),
}
SAMPLING: dict[str, Any] = {"seed": 1, "steps": 2, "cfg": 1.0, "sampler_name": "heun", "denoise": 1.0}


def graph(name: str) -> dict[str, Any]:
    return dict(json.loads((FIXTURES / f"{name}.json").read_text())["ui"])


def node(class_type: str, title: str = "", **inputs: Any) -> dict[str, Any]:
    return {"class_type": class_type, "inputs": inputs} | ({"_meta": {"title": title}} if title else {})


def inferred(prompt: dict[str, Any], editor: dict[str, Any] | None = None) -> dict[str, Parameter]:
    return {each.name: each for each in infer_parameters(prompt, OBJECT_INFO, editor=editor)}


def slots(parameter: Parameter) -> list[tuple[str, str]]:
    return [(target.node_id, target.input_name) for target in parameter.targets]


TEXT_TO_IMAGE = convert(graph("text-to-image"), OBJECT_INFO)


def test_a_plain_graph_gives_the_parameters_that_people_expect() -> None:
    """Names, types, slots, limits and choices, in the order of a form."""
    found = inferred(TEXT_TO_IMAGE)
    assert {name: (each.type.value, *slots(each)[0]) for name, each in found.items()} == {
        "text": ("text", "6", "text"),
        "negative_text": ("text", "7", "text"),
        "width": ("integer", "5", "width"),
        "height": ("integer", "5", "height"),
        "batch_size": ("integer", "5", "batch_size"),
        "steps": ("integer", "3", "steps"),
        "cfg": ("number", "3", "cfg"),
        "sampler": ("choice", "3", "sampler_name"),
        "denoise": ("number", "3", "denoise"),
        "seed": ("seed", "3", "seed"),
        "model": ("model", "4", "ckpt_name"),
    }
    assert found["width"].limits() == {"minimum": 16, "maximum": 2048, "step": 8}
    assert found["cfg"].limits() == {"minimum": 0.0, "maximum": 30.0}
    assert found["sampler"].choices == ("euler", "heun")
    assert found["model"].choices == ("a.safetensors", "b.safetensors")
    assert found["seed"].limits() == {"minimum": 0, "maximum": 2**64 - 1}
    assert [each.order for each in found.values()] == list(range(1, 12))
    assert (found["width"].group, found["steps"].group, found["model"].group) == ("Size", "Sampling", "Model")
    assert all(each.description for name, each in found.items())


def test_the_same_graph_gives_the_same_parameters_whatever_the_order_of_its_keys() -> None:
    entries = list(TEXT_TO_IMAGE.items())
    random.Random(1).shuffle(entries)
    assert infer_parameters(dict(entries), OBJECT_INFO) == infer_parameters(TEXT_TO_IMAGE, OBJECT_INFO)


def wired(more: dict[str, Any]) -> dict[str, Any]:
    """A sampler, and two texts for it; the links between them are the test's own."""
    return {
        "1": node("Encode", text="one", clip=["4", 1]),
        "2": node("Encode", text="two", clip=["4", 1]),
        "4": node("CheckpointLoaderSimple", ckpt_name="b.safetensors"),
        "3": node("Sampler", model=["4", 0], **SAMPLING),
        "8": node("Decode", samples=["3", 0], vae=["4", 2]),
        "9": node("SaveImage", images=["8", 0], filename_prefix="x"),
        **more,
    }


@pytest.mark.parametrize(
    ("positive", "negative", "more"),
    [
        (["1", 0], ["2", 0], {}),
        (["20", 0], ["2", 0], {"20": node("Combine", one=["1", 0], two=["1", 0])}),
        (["1", 0], ["21", 0], {"20": node("Zero", conditioning=["2", 0]), "21": node("Zero", conditioning=["20", 0])}),
    ],
)
def test_wanted_and_unwanted_texts_are_told_apart_by_what_they_are_wired_to(
    positive: list[Any], negative: list[Any], more: dict[str, Any]
) -> None:
    """Directly, or through nodes between."""
    prompt = wired(more)
    prompt["3"]["inputs"] |= {"positive": positive, "negative": negative}
    found = inferred(prompt)
    assert (slots(found["text"]), slots(found["negative_text"])) == ([("1", "text")], [("2", "text")])
    prompt["3"]["inputs"] |= {"positive": negative, "negative": positive}
    found = inferred(prompt)
    assert (slots(found["text"]), slots(found["negative_text"])) == ([("2", "text")], [("1", "text")])


def test_a_text_that_is_zeroed_out_for_the_negative_is_a_wanted_one() -> None:
    prompt = wired({"20": node("ConditioningZeroOut", conditioning=["1", 0])})
    prompt["3"]["inputs"] |= {"positive": ["1", 0], "negative": ["20", 0]}
    found = inferred(prompt)
    assert slots(found["text"]) == [("1", "text")]
    assert "negative_text" not in found


def test_a_text_that_is_only_zeroed_out_is_no_parameter() -> None:
    prompt = wired({"20": node("ConditioningZeroOut", conditioning=["2", 0])})
    prompt["3"]["inputs"] |= {"positive": ["1", 0], "negative": ["20", 0]}
    assert [slots(each) for each in inferred(prompt).values() if each.type is ParameterType.TEXT] == [[("1", "text")]]


def test_a_text_in_a_node_of_its_own_is_found_behind_the_encoder() -> None:
    prompt = wired({"20": node("PrimitiveString", value="far away")})
    prompt["2"]["inputs"]["text"] = ["20", 0]
    prompt["3"]["inputs"] |= {"positive": ["1", 0], "negative": ["2", 0]}
    assert slots(inferred(prompt)["negative_text"]) == [("20", "value")]


def test_files_are_told_apart_by_kind_and_named_by_their_titles() -> None:
    """A picture of which only the mask is used is a mask."""
    prompt = {
        "1": node("LoadImage", "Load Image", image="in.png"),
        "2": node("LoadImage", "Style reference", image="in.png"),
        "3": node("LoadImage", image="in.png"),
        "4": node("Blend", image=["1", 0], other=["2", 0], mask=["3", 1], factor=0.5),
        "5": node("SaveImage", images=["4", 0], filename_prefix="x"),
        "6": node("LoadVideo", file="v.mp4"),
        "7": node("SaveVideo", video=["6", 0]),
        "8": node("LoadAudio", audio="a.wav"),
        "9": node("SaveAudioMP3", audio=["8", 0], filename_prefix="a", quality="V0"),
    }
    found = inferred(prompt)
    assert {name: each.type.value for name, each in found.items() if each.type.is_file} == {
        "image": "image",
        "style_reference": "image",
        "mask": "mask",
        "video": "video",
        "audio": "audio",
    }
    assert "filename_prefix" not in found


def test_nodes_that_lead_to_no_output_have_no_parameters() -> None:
    assert set(inferred(TEXT_TO_IMAGE | {"30": node("Empty", width=8, height=8, batch_size=1)})) == set(
        inferred(TEXT_TO_IMAGE)
    )


def test_a_primitive_nodes_value_is_one_parameter_for_all_its_slots() -> None:
    """Under its title, when a person gave it one."""
    editor = graph("text-to-image")
    primitive = {"id": 50, "type": "PrimitiveNode", "title": "Side length", "outputs": [{"links": [90, 91]}]}
    editor["nodes"].append(primitive | {"widgets_values": [640]})
    five = next(each for each in editor["nodes"] if each["id"] == 5)
    five["inputs"] = [
        {"name": name, "type": "INT", "link": link, "widget": {"name": name}}
        for name, link in (("width", 90), ("height", 91))
    ]
    editor["links"] += [[90, 50, 0, 5, 0, "INT"], [91, 50, 0, 5, 1, "INT"]]
    found = inferred(convert(editor, OBJECT_INFO), editor)
    assert slots(found["side_length"]) == [("5", "width"), ("5", "height")]
    assert {"width", "height"}.isdisjoint(found)


def test_the_value_of_a_primitive_class_is_named_by_its_title_or_by_what_it_feeds() -> None:
    prompt = TEXT_TO_IMAGE | {"60": node("PrimitiveInt", value=4), "61": node("PrimitiveInt", "How many", value=2)}
    prompt = json.loads(json.dumps(prompt))
    prompt["3"]["inputs"]["steps"] = ["60", 0]
    prompt["5"]["inputs"]["batch_size"] = ["61", 0]
    found = inferred(prompt)
    assert slots(found["steps"]) == [("60", "value")]
    assert slots(found["how_many"]) == [("61", "value")]
    assert found["steps"].type is ParameterType.INTEGER


def test_two_of_one_name_are_told_apart() -> None:
    """By a title, else by a number in the order of node ids."""
    prompt = json.loads(json.dumps(TEXT_TO_IMAGE)) | {
        "10": node("Sampler", "Refiner", latent_image=["3", 0], **SAMPLING),
        "11": node("Sampler", latent_image=["10", 0], **SAMPLING),
    }
    prompt["8"]["inputs"]["samples"] = ["11", 0]
    found = inferred(prompt)
    assert {name for name in found if "steps" in name} == {"steps", "refiner_steps", "steps_2"}


def test_a_limit_that_the_graphs_own_value_breaks_is_left_out() -> None:
    """What is inferred never makes a workflow unusable."""
    prompt = json.loads(json.dumps(TEXT_TO_IMAGE))
    prompt["5"]["inputs"] |= {"width": 4099, "height": 8}
    prompt["3"]["inputs"] |= {"sampler_name": "gone", "cfg": 99.0}
    found = inferred(prompt)
    assert found["width"].limits() == {"minimum": 16}
    assert found["height"].limits() == {"maximum": 2048, "step": 8}
    assert found["cfg"].limits() == {"minimum": 0.0}
    assert found["sampler"].choices == ("gone", "euler", "heun")


@pytest.mark.parametrize("name", sorted({path.stem for path in FIXTURES.glob("*.json")} - {"object_info", "unknown"}))
def test_whatever_is_inferred_makes_a_workflow_that_renders(name: str) -> None:
    """Checked as written parameters are, and rendered with nothing given."""
    workflow = complete_workflow(WorkflowDraft(name="x", editor=graph(name)), OBJECT_INFO)
    render(workflow, {}, draw_seed=lambda: 1)


def test_a_graph_of_the_largest_size_costs_seconds_at_most() -> None:
    """A long row of conditionings, each with a text of its own."""
    prompt = wired({"20": node("Encode", text="t", clip=["4", 1])})
    for number in range(21, 9000, 2):
        prompt[str(number)] = node("Encode", text="t", clip=["4", 1])
        prompt[str(number + 1)] = node("Combine", one=[str(number), 0], two=[str(number - 1), 0])
    prompt["3"]["inputs"] |= {"positive": ["9000", 0], "negative": ["2", 0]}
    started = time.monotonic()
    assert len(infer_parameters(prompt, OBJECT_INFO)) == MOST_PARAMETERS
    assert time.monotonic() - started < 10


def target(node_id: str, input_name: str) -> tuple[Target, ...]:
    return (Target(node_id=node_id, input_name=input_name),)


def completed(*drafts: ParameterDraft, **more: Any) -> dict[str, Parameter]:
    draft = WorkflowDraft(name="x", prompt=TEXT_TO_IMAGE, parameters=drafts, **more)
    return {each.name: each for each in complete_workflow(draft, OBJECT_INFO).parameters}


def test_a_written_parameter_keeps_what_is_written_and_gets_the_rest() -> None:
    found = completed(ParameterDraft(name="how_many_steps", targets=target("3", "steps"), maximum=30))
    steps = found["how_many_steps"]
    assert (steps.type, steps.minimum, steps.maximum) == (ParameterType.INTEGER, 1, 30)
    assert steps.order < found["text"].order, "the written ones come first"
    assert "steps" not in found, "its slot is taken"
    assert "cfg" in found


def test_a_written_parameter_without_slots_takes_those_of_the_inferred_one_of_its_name() -> None:
    width = completed(ParameterDraft(name="width", maximum=1024, description="How wide?"))["width"]
    assert (slots(width), width.limits()) == ([("5", "width")], {"minimum": 16, "maximum": 1024, "step": 8})
    assert width.description == "How wide?"


def test_a_file_that_is_complete_is_taken_as_it_stands() -> None:
    """Nothing is added and no limit filled in, so it does not change with the agents."""
    steps = ParameterDraft(name="steps", type=ParameterType.INTEGER, targets=target("3", "steps"))
    assert completed(steps) == {
        "steps": Parameter(name="steps", type=ParameterType.INTEGER, targets=target("3", "steps"), order=1)
    }
    assert "cfg" in completed(steps, infer=True)
    assert set(completed(ParameterDraft(name="width"), infer=False)) == {"width"}


@pytest.mark.parametrize(
    ("draft", "message"),
    [
        (ParameterDraft(name="zoom"), "parameter zoom: is in no slot that could be inferred"),
        (ParameterDraft(name="a", targets=target("99", "x")), "has no type, and object info does not tell"),
        (
            ParameterDraft(name="a", type=ParameterType.CHOICE, targets=target("99", "x")),
            "has no choices, and object info",
        ),
        (ParameterDraft(name="steps", minimum=90), "must be at least 90"),
    ],
)
def test_what_cannot_be_completed_is_refused(draft: ParameterDraft, message: str) -> None:
    with pytest.raises(Flaw, match=message):
        completed(draft)


def test_without_object_info_only_what_is_complete_is_a_workflow() -> None:
    steps = ParameterDraft(name="steps", targets=target("3", "steps"))
    with pytest.raises(Flaw, match="no object info tells it"):
        complete_workflow(WorkflowDraft(name="x", prompt=TEXT_TO_IMAGE, parameters=(steps,)), None)
    with pytest.raises(Flaw, match="takes an agent's object info"):
        complete_workflow(WorkflowDraft(name="x", editor=graph("text-to-image")), None)
    with pytest.raises(Flaw, match="neither"):
        complete_workflow(WorkflowDraft(name="x"), None)


def test_a_prompt_that_is_missing_is_made_of_the_editors_graph() -> None:
    workflow = complete_workflow(WorkflowDraft(name="x", editor=graph("text-to-image")), OBJECT_INFO)
    assert workflow.prompt == TEXT_TO_IMAGE
    assert workflow.parameters == infer_parameters(TEXT_TO_IMAGE, OBJECT_INFO, editor=graph("text-to-image"))
    with pytest.raises(ConversionError, match="node 1 "):
        complete_workflow(WorkflowDraft(name="x", editor=graph("unknown")), OBJECT_INFO)


def test_an_editors_graph_alone_is_loaded_as_a_workflow(tmp_path: Path) -> None:
    (tmp_path / "mine.json").write_text(json.dumps(graph("text-to-image")))
    assert load_workflow(tmp_path, "mine", OBJECT_INFO).prompt == TEXT_TO_IMAGE
    with pytest.raises(WorkflowError, match="the file is missing"):
        load_workflow(tmp_path, "mine")
    (tmp_path / "mine.yaml").write_text("title: Mine\nparameters:\n  width: {maximum: 640}\n  zoom: {}\n")
    with pytest.raises(WorkflowError, match="parameter zoom") as caught:
        load_workflow(tmp_path, "mine", OBJECT_INFO)
    assert (caught.value.file, caught.value.line) == ("mine.yaml", 4)
    (tmp_path / "mine.json").write_text(json.dumps(graph("unknown")))
    with pytest.raises(WorkflowError, match="node 1 ") as caught:
        load_workflow(tmp_path, "mine", OBJECT_INFO)
    assert caught.value.file == "mine.json"


def test_our_own_workflows_are_complete() -> None:
    """With or without object info they are the same."""
    assert load_workflow(WORKFLOWS, "first-workflow", OBJECT_INFO) == load_workflow(WORKFLOWS, "first-workflow")


def test_a_request_needs_one_graph_and_no_complete_parameters_where_object_info_is_known() -> None:
    """What is missing is filled in as for files."""
    made = make_from_request("x", None, graph("text-to-image"), {"width": {"maximum": 640}}, object_info=OBJECT_INFO)
    parameters = {each.name: each for each in made.parameters}
    assert made.prompt == TEXT_TO_IMAGE
    assert parameters["width"].limits() == {"minimum": 16, "maximum": 640, "step": 8}
    assert "cfg" in parameters
    assert set(make_from_request("x", TEXT_TO_IMAGE, None, "infer: false", object_info=OBJECT_INFO).parameters) == set()
    with pytest.raises(WorkflowError, match="takes an agent's object info"):
        make_from_request("x", None, graph("text-to-image"), {})
