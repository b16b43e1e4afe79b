"""Workflows: what loads, what is refused and where, and what rendering makes of a caller's parameters."""

import copy
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from comfy_shared.workflows import (
    FileInput,
    Parameter,
    ParameterError,
    ParameterProblem,
    ParameterType,
    Rendered,
    Target,
    Workflow,
    WorkflowError,
    find_workflows,
    from_json,
    json_schema,
    load_workflow,
    load_workflows,
    render,
    to_json,
)

SHIPPED = Path(__file__).parents[3] / "workflows"
SHIPPED_NAMES = ["first-workflow", "image-to-image", "image-to-video", "sdxl", "smoke"]
OBJECT_INFO = Path(__file__).parents[4] / "shared/comfyui/http/object_info.json"  # a recording; outside the repository

# The widgets of a node class in the editor's order; "" is the control that the editor shows after a seed or an upload.
WIDGETS = {
    "CheckpointLoaderSimple": ["ckpt_name"],
    "CLIPTextEncode": ["text"],
    "EmptyImage": ["width", "height", "batch_size", "color"],
    "EmptyLatentImage": ["width", "height", "batch_size"],
    "ImageOnlyCheckpointLoader": ["ckpt_name"],
    "ImageScale": ["upscale_method", "width", "height", "crop"],
    "KSampler": ["seed", "", "steps", "cfg", "sampler_name", "scheduler", "denoise"],
    "LoadImage": ["image", ""],
    "SaveAnimatedWEBP": ["filename_prefix", "fps", "lossless", "quality", "method"],
    "SaveImage": ["filename_prefix"],
    "SVD_img2vid_Conditioning": ["width", "height", "video_frames", "motion_bucket_id", "fps", "augmentation_level"],
    "VAEDecode": [],
    "VAEEncode": [],
    "VideoLinearCFGGuidance": ["min_cfg"],
}

GRAPH: dict[str, dict[str, Any]] = {
    "1": {"class_type": "LoadImage", "inputs": {"image": "example.png"}, "_meta": {"title": "Load"}},
    "2": {
        "class_type": "Everything",
        "inputs": {
            "pixels": ["1", 0],
            "text": "graph",
            "steps": 20,
            "cfg": 7.0,
            "tiled": False,
            "method": "euler",
            "ckpt": "graph.safetensors",
            "seed": 0,
            "clip": "clip.mp4",
            "sound": "sound.wav",
            "mask": "mask.png",
        },
    },
    "3": {"class_type": "Save", "inputs": {"images": ["2", 0], "steps": 20}},
}

YAML = """\
title: Everything
description: One parameter of each type.
parameters:
  text:
    node_id: "2"
    input_name: text
    type: text
    max_length: 10
  steps:
    targets: [{node_id: "2", input_name: steps}, {node_id: "3", input_name: steps}]
    type: integer
    default_value: 24
    minimum: 4
    maximum: 40
    step: 4
  cfg: {node_id: "2", input_name: cfg, type: number, minimum: 0, maximum: 30, step: 0.1}
  tiled: {node_id: "2", input_name: tiled, type: boolean}
  method: {node_id: "2", input_name: method, type: choice, choices: [euler, heun, 3], group: Sampling}
  model: {node_id: "2", input_name: ckpt, type: model}
  seed: {node_id: "2", input_name: seed, type: seed, minimum: 10, maximum: 19}
  image: {node_id: "1", input_name: image, type: image, required: true}
  mask: {node_id: "2", input_name: mask, type: mask}
  video: {node_id: "2", input_name: clip, type: video}
  audio: {node_id: "2", input_name: sound, type: audio, order: 1}
"""


def write(folder: Path, name: str = "all", *, yaml: str = YAML, api: object = GRAPH, editor: object = None) -> Path:
    """Writes a workflow's files; texts as they are, other things as JSON."""
    files = {f"{name}.yaml": yaml, f"{name}-api.json": api, f"{name}.json": editor}
    for file, content in files.items():
        if content is not None:
            (folder / file).write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return folder


def no_draw() -> int:
    raise AssertionError("a seed was drawn")


def draw(workflow: Workflow, given: Mapping[str, object] | None = None, *, drawn: int = 3) -> Rendered:
    """Renders with the required picture, and any seed drawn so."""
    return render(workflow, {"image": "cat.png", **(given or {})}, draw_seed=lambda: drawn)


def problem(workflow: Workflow, given: Mapping[str, object]) -> ParameterProblem:
    """The one problem with these parameters."""
    with pytest.raises(ParameterError) as caught:
        draw(workflow, given)
    (found,) = caught.value.problems
    return found


def refused(folder: Path, name: str = "all") -> WorkflowError:
    with pytest.raises(WorkflowError) as caught:
        load_workflow(folder, name)
    return caught.value


def entry(text: str) -> str:
    """A parameter file whose only parameter, `x`, stands in line 2."""
    return f"parameters:\n  x: {text}\n"


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> Workflow:
    return load_workflow(write(tmp_path_factory.mktemp("workflows")), "all")


# Rendering: precedence


def test_the_callers_value_beats_the_configured_default(everything: Workflow) -> None:
    """It reaches every target of the parameter."""
    rendered = draw(everything, {"steps": 8})
    assert [rendered.prompt[node]["inputs"]["steps"] for node in "23"] == [8, 8]
    assert rendered.parameters["steps"] == 8


def test_the_configured_default_beats_the_graph(everything: Workflow) -> None:
    rendered = draw(everything)
    assert [rendered.prompt[node]["inputs"]["steps"] for node in "23"] == [24, 24]
    assert rendered.parameters["steps"] == 24


def test_the_graphs_value_stays_and_is_reported_when_nothing_else_is_given(everything: Workflow) -> None:
    rendered = draw(everything)
    assert rendered.prompt["2"]["inputs"]["text"] == rendered.parameters["text"] == "graph"


def test_links_titles_and_other_nodes_are_untouched(everything: Workflow) -> None:
    rendered = draw(everything, {"text": "new"})
    expected = copy.deepcopy(GRAPH)
    expected["1"]["inputs"]["image"] = "cat.png"
    expected["2"]["inputs"] |= {"text": "new", "steps": 24, "seed": 13}
    expected["3"]["inputs"]["steps"] = 24
    assert rendered.prompt == expected


def test_equal_values_written_differently_give_the_same_prompt(everything: Workflow) -> None:
    """So that such tasks can share one render: the bytes are the same, not only the numbers."""
    first, second = draw(everything, {"steps": 8.0, "cfg": 7}), draw(everything, {"steps": 8})
    assert msgspec.json.encode(first.prompt) == msgspec.json.encode(second.prompt)


def test_rendering_leaves_the_workflow_as_it_was(everything: Workflow) -> None:
    """Also when the prompt is changed afterwards, down to its links."""
    before = to_json(everything)
    rendered = draw(everything, {"text": "new"})
    rendered.prompt["2"]["inputs"]["pixels"].append("broken")
    rendered.prompt["3"]["inputs"].clear()
    assert to_json(everything) == before
    assert draw(everything).prompt["2"]["inputs"]["pixels"] == ["1", 0]


# Rendering: seeds


@pytest.mark.parametrize("asked", [{}, {"seed": None}, {"seed": -1}, {"seed": -1.0}])
@pytest.mark.parametrize("drawn", [0, 7, 2**53 + 7, 2**200])
def test_a_seed_is_drawn_within_its_limits_and_reported(
    everything: Workflow, asked: dict[str, object], drawn: int
) -> None:
    rendered = draw(everything, asked, drawn=drawn)
    assert rendered.parameters["seed"] == rendered.prompt["2"]["inputs"]["seed"] == 10 + drawn % 10


def test_a_given_seed_is_kept_and_nothing_is_drawn(everything: Workflow) -> None:
    rendered = render(everything, {"image": "cat.png", "seed": 12}, draw_seed=no_draw)
    assert rendered.parameters["seed"] == 12


def test_a_drawn_seed_fits_a_javascript_number(tmp_path: Path) -> None:
    """Without limits a given seed may have 64 bits, as ComfyUI's; a drawn one stays below 2 to the power of 53."""
    workflow = load_workflow(write(tmp_path, yaml=entry('{node_id: "2", input_name: seed, type: seed}')), "all")
    assert render(workflow, {}, draw_seed=lambda: 2**64 - 1).parameters == {"x": 2**53 - 1}
    assert render(workflow, {"x": 2**64 - 1}, draw_seed=no_draw).parameters == {"x": 2**64 - 1}


def test_a_seed_without_limits_is_never_negative(tmp_path: Path) -> None:
    workflow = load_workflow(write(tmp_path, yaml=entry('{node_id: "2", input_name: seed, type: seed}')), "all")
    with pytest.raises(ParameterError, match="x: must be at least 0"):
        render(workflow, {"x": -2}, draw_seed=no_draw)


def test_a_configured_seed_is_used_until_the_caller_asks_for_a_drawn_one(tmp_path: Path) -> None:
    text = entry('{node_id: "2", input_name: seed, type: seed, default_value: 42}')
    workflow = load_workflow(write(tmp_path, yaml=text), "all")
    assert render(workflow, {}, draw_seed=no_draw).parameters == {"x": 42}
    assert render(workflow, {"x": -1}, draw_seed=lambda: 5).parameters == {"x": 5}


@pytest.mark.parametrize("seed", [9, 20, -2])
def test_a_seed_outside_its_limits_is_refused(everything: Workflow, seed: int) -> None:
    assert problem(everything, {"seed": seed}).limits == {"minimum": 10, "maximum": 19}


# Rendering: files


def test_a_file_is_listed_for_every_slot_and_stays_a_reference(everything: Workflow) -> None:
    rendered = draw(everything, {"mask": "sha256:0123"})
    assert rendered.inputs == (
        FileInput(node_id="1", input_name="image", parameter="image", value="cat.png"),
        FileInput(node_id="2", input_name="mask", parameter="mask", value="sha256:0123"),
    )
    assert rendered.prompt["2"]["inputs"]["mask"] == "sha256:0123"


def test_an_optional_file_that_is_not_given_stays_the_graphs_own(everything: Workflow) -> None:
    rendered = draw(everything)
    assert rendered.prompt["2"]["inputs"]["clip"] == "clip.mp4"
    assert "video" not in rendered.parameters
    assert [file.parameter for file in rendered.inputs] == ["image"]


def test_a_required_file_that_is_not_given_is_a_problem(everything: Workflow) -> None:
    with pytest.raises(ParameterError) as caught:
        render(everything, {}, draw_seed=lambda: 0)
    assert caught.value.problems == (ParameterProblem(parameter="image", message="is required"),)


# Rendering: problems


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("text", 5, "must be a text"),
        ("text", None, "must be a text"),
        ("text", ["a"], "must be a text"),
        ("text", "a" * 11, "must have at most 10 characters"),
        ("text", "nul \0", "must not contain NUL characters or lone surrogates"),
        ("text", "half \ud83d", "must not contain NUL characters or lone surrogates"),
        ("steps", "8", "must be an integer"),
        ("steps", True, "must be an integer"),
        ("steps", 8.5, "must be an integer"),
        ("steps", None, "must be an integer"),
        ("steps", float("nan"), "must be an integer"),
        ("steps", float("inf"), "must be an integer"),
        ("steps", {}, "must be an integer"),
        ("steps", 0, "must be at least 4"),
        ("steps", -(10**400), "must be at least 4"),
        ("steps", 44, "must be at most 40"),
        ("steps", 9, "must be a multiple of 4"),
        ("cfg", "7", "must be a number"),
        ("cfg", False, "must be a number"),
        ("cfg", float("nan"), "must be a finite number"),
        ("cfg", float("-inf"), "must be a finite number"),
        ("cfg", 10**400, "must be a finite number"),
        ("cfg", -0.1, "must be at least 0"),
        ("cfg", 30.1, "must be at most 30"),
        ("cfg", 7.05, "must be a multiple of 0.1"),
        ("tiled", 1, "must be true or false"),
        ("tiled", "true", "must be true or false"),
        ("method", "eulr", "must be one of its 3 choices; the nearest is euler"),
        ("method", "x", "must be one of its 3 choices"),
        ("method", 4, "must be one of its 3 choices"),
        ("method", True, "must be one of its 3 choices"),
        ("model", 5, "must be the name of a model file"),
        ("model", "", "must not be empty"),
        ("model", "a\0.safetensors", "must not contain NUL characters or lone surrogates"),
        ("seed", "12", "must be an integer"),
        ("seed", 12.5, "must be an integer"),
        ("seed", True, "must be an integer"),
        ("image", 5, "must be a reference to a file, as a text"),
        ("image", None, "must be a reference to a file, as a text"),
        ("image", "", "must not be empty"),
        ("mask", {"file": "a"}, "must be a reference to a file, as a text"),
        ("video", "a\0.mp4", "must not contain NUL characters or lone surrogates"),
        ("audio", ["a.wav"], "must be a reference to a file, as a text"),
    ],
)
def test_a_value_that_does_not_fit_is_refused(everything: Workflow, name: str, value: object, message: str) -> None:
    found = problem(everything, {name: value})
    assert (found.parameter, found.message) == (name, message)


@pytest.mark.parametrize(
    ("name", "value", "used"),
    [
        ("text", "", ""),
        ("text", "ü😀" * 5, "ü😀" * 5),
        ("steps", 8.0, 8),
        ("steps", 4, 4),
        ("steps", 40, 40),
        ("cfg", 7, 7.0),
        ("cfg", 0.7, 0.7),
        ("cfg", 0.1 + 0.2, 0.1 + 0.2),
        ("cfg", 30, 30.0),
        ("tiled", True, True),
        ("method", "heun", "heun"),
        ("method", 3, 3),
        ("model", "sub/other.safetensors", "sub/other.safetensors"),
    ],
)
def test_a_value_that_fits_is_used(everything: Workflow, name: str, value: object, used: object) -> None:
    found = draw(everything, {name: value}).parameters[name]
    assert (found, type(found)) == (used, type(used))


def test_a_problem_tells_the_limits(everything: Workflow) -> None:
    assert problem(everything, {"steps": 0}).limits == {"minimum": 4, "maximum": 40, "step": 4}
    assert problem(everything, {"text": "a" * 11}).limits == {"max_length": 10}
    found = problem(everything, {"method": "eulr"})
    assert (found.nearest, found.limits) == (("euler",), {"choices": ["euler", "heun", 3]})


@pytest.mark.parametrize("value", [2**64, -(2**63) - 1, 1e20])
def test_an_integer_without_limits_still_has_64_bits(tmp_path: Path, value: float) -> None:
    workflow = load_workflow(write(tmp_path, yaml=entry('{node_id: "2", input_name: steps, type: integer}')), "all")
    with pytest.raises(ParameterError, match=r"x: must be at (least|most)"):
        render(workflow, {"x": value}, draw_seed=no_draw)


def test_a_step_of_a_number_allows_rounding_at_any_size(tmp_path: Path) -> None:
    """Every k x 0.1 is accepted as the caller's language computes it, and the middle between two is not."""
    workflow = load_workflow(
        write(tmp_path, yaml=entry('{node_id: "2", input_name: cfg, type: number, step: 0.1}')), "all"
    )
    for k in (1, 3, 7, 29, 1234567, 10**12):
        render(workflow, {"x": k * 0.1}, draw_seed=no_draw)
        with pytest.raises(ParameterError, match=r"multiple of 0\.1"):
            render(workflow, {"x": k * 0.1 + 0.05}, draw_seed=no_draw)


def test_a_model_with_choices_takes_only_these(tmp_path: Path) -> None:
    text = entry('{node_id: "2", input_name: ckpt, type: model, choices: [graph.safetensors]}')
    workflow = load_workflow(write(tmp_path, yaml=text), "all")
    with pytest.raises(ParameterError) as caught:
        render(workflow, {"x": "graf.safetensors"}, draw_seed=no_draw)
    assert caught.value.problems[0].nearest == ("graph.safetensors",)


def test_all_problems_are_reported_at_once(everything: Workflow) -> None:
    with pytest.raises(ParameterError) as caught:
        render(everything, {"steps": 0, "cfg": "x", "stepps": 1}, draw_seed=lambda: 0)
    assert [found.parameter for found in caught.value.problems] == ["stepps", "steps", "cfg", "image"]
    assert str(caught.value).startswith("stepps: is not a parameter of all; the nearest is steps; steps: must")


def test_an_unknown_parameter_names_the_nearest(everything: Workflow) -> None:
    assert problem(everything, {"metod": "euler"}) == ParameterProblem(
        parameter="metod",
        message="is not a parameter of all; the nearest is method",
        nearest=("method", "model"),
    )


@pytest.mark.parametrize("name", ["a\nERROR forged", "half \ud83d", "x" * 100_000, "\x1b[31m", ""])
def test_a_hostile_name_comes_back_as_one_short_encodable_line(everything: Workflow, name: str) -> None:
    found = problem(everything, {name: 1})
    assert len(found.parameter.encode()) < 500
    assert found.parameter.isprintable()


def test_many_unknown_parameters_cost_and_answer_little(everything: Workflow) -> None:
    with pytest.raises(ParameterError) as caught:
        draw(everything, {f"unknown_{number}": 1 for number in range(10_000)})
    assert len(caught.value.problems) == 33
    assert caught.value.problems[-1].message == "and 9968 more that are not parameters of all"


JSON_LIKE = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(codec=None))
    | st.sampled_from([2**64, 10**400, -1, "euler", "\ud800", "\0", "cat.png"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)
NAMES = st.sampled_from(
    ["text", "steps", "cfg", "tiled", "method", "model", "seed", "image", "mask", "video", "audio"],
)


@settings(deadline=None)  # the machine may be busy
@given(parameters=st.dictionaries(NAMES | st.text(), JSON_LIKE), seed=st.integers())
def test_rendering_raises_nothing_but_parameter_error(
    everything: Workflow, parameters: dict[str, object], seed: int
) -> None:
    """Whatever JSON a client sends: a prompt that can be sent on, or an error that can be answered."""
    before = to_json(everything)
    problems: tuple[ParameterProblem, ...] = ()
    try:
        rendered = render(everything, parameters, draw_seed=lambda: seed)
    except ParameterError as error:
        problems = error.problems
    if problems:
        assert msgspec.json.encode(problems)
    else:
        assert msgspec.json.decode(msgspec.json.encode(rendered.prompt)) == rendered.prompt
        assert set(parameters) <= set(rendered.parameters)
        again = render(everything, rendered.parameters, draw_seed=no_draw)
        assert again.prompt == rendered.prompt
    assert to_json(everything) == before


# Loading


def test_loading_reads_every_key(everything: Workflow) -> None:
    assert (everything.title, everything.description) == ("Everything", "One parameter of each type.")
    assert everything.prompt == GRAPH
    assert everything.editor is None
    by_name = {parameter.name: parameter for parameter in everything.parameters}
    assert by_name["steps"] == Parameter(
        name="steps",
        type=ParameterType.INTEGER,
        targets=(Target(node_id="2", input_name="steps"), Target(node_id="3", input_name="steps")),
        default=24,
        minimum=4,
        maximum=40,
        step=4,
        order=2,
    )
    assert by_name["method"].group == "Sampling"
    assert {parameter.type for parameter in everything.parameters} == set(ParameterType)


def test_parameters_are_in_their_order_then_as_in_the_file(everything: Workflow) -> None:
    assert [parameter.name for parameter in everything.parameters][:4] == ["text", "audio", "steps", "cfg"]


def test_a_title_is_the_name_when_there_is_none(tmp_path: Path) -> None:
    workflow = load_workflow(write(tmp_path, yaml=""), "all")
    assert (workflow.title, workflow.parameters) == ("all", ())


def test_a_node_id_may_lack_its_quotes(tmp_path: Path) -> None:
    workflow = load_workflow(write(tmp_path, yaml=entry("{node_id: 2, input_name: text, type: text}")), "all")
    assert workflow.parameters[0].targets == (Target(node_id="2", input_name="text"),)


def test_every_prefix_with_a_graph_or_a_parameter_file_is_found(tmp_path: Path) -> None:
    write(tmp_path, "b")
    for file in ("a-api.json", "c.yaml", "lonely.json", "README.md", ".hidden.yaml"):
        (tmp_path / file).write_text("")
    assert find_workflows(tmp_path) == ["a", "b", "c"]


def test_a_missing_folder_is_an_error_not_an_empty_one(tmp_path: Path) -> None:
    with pytest.raises(WorkflowError, match="the folder of workflows cannot be read"):
        load_workflows(tmp_path / "none")


def test_a_broken_workflow_does_not_stop_the_others(tmp_path: Path) -> None:
    write(tmp_path, "good")
    write(tmp_path, "bad", yaml="parameters: [")
    write(tmp_path, "worse", api="{")
    workflows, errors = load_workflows(tmp_path)
    assert [workflow.name for workflow in workflows] == ["good"]
    assert [(error.workflow, error.file) for error in errors] == [("bad", "bad.yaml"), ("worse", "worse-api.json")]


@pytest.mark.parametrize("name", ["../all", "a/b", "", ".", "a.b", "all\0", "all\n", "x" * 65, "all-api"])
def test_a_name_that_could_leave_the_folder_or_collide_is_refused(tmp_path: Path, name: str) -> None:
    assert "a workflow's name has" in refused(write(tmp_path), name).message


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("a: [\n", 2, "is not YAML"),
        ("a: 1\n\tb: 2\n", 2, "is not YAML"),
        ("a: !!python/object:os.system {}\n", 1, "is not YAML"),
        ("when: 2026-13-45\n", None, "is not YAML"),
        ("\0", None, "is not YAML"),
        ("- a\n", None, "Expected `object`, got `array`"),
        ("title: a\ntitel: b\n", 2, "unknown field `titel`"),
        ("title: 5\n", 1, "Expected `str`, got `int` - at `$.title`"),
        ("title: a\ntitle: b\n", 2, "the key title is there twice"),
        ("parameters: []\n", 1, "Expected `object | null`, got `array`"),
        ("parameters:\n  x: {}\n  y: {}\n  x: {}\n", 4, "the parameter x is there twice"),
        ("parameters:\n  x:\n    type: text\n    type: text\n", 4, "the key type is there twice"),
        (entry("5"), 2, "parameter x: Expected `object`, got `int`"),
        (entry("{}"), 2, "parameter x: has no type, and no object info tells it"),
        ("parameters:\n  x:\n    node_id: '2'\n    type: txt\n", 4, "the types are text, integer"),
        (entry('{node_id: "2", input_name: text, type: text, minimun: 1}'), 2, "unknown field `minimun`"),
        (
            entry('{node_id: "2", input_name: text, type: text, max_length: long}'),
            2,
            "`int | null`, got `str`",
        ),
        (entry("{type: text}"), 2, "parameter x: needs either node_id and input_name, or targets"),
        (entry('{node_id: "2", type: text}'), 2, "needs either node_id and input_name, or targets"),
        (entry('{node_id: "2", targets: [{node_id: "2", input_name: text}], type: text}'), 2, "needs either"),
        (entry("{targets: [], type: text}"), 2, "needs either node_id and input_name, or targets"),
        (entry('{targets: [{node_id: "2", input: text}], type: text}'), 2, "parameter x"),
        (entry('{node_id: "9", input_name: text, type: text}'), 2, "parameter x: the graph has no node 9"),
        ("parameters:\n  x:\n    type: text\n    input_name: a\n    node_id: '9'\n", 5, "the graph has no node 9"),
        (
            entry('{node_id: "2", input_name: txt, type: text}'),
            2,
            "parameter x: node 2 (Everything) has no input txt; the nearest is text",
        ),
        (entry('{node_id: "2", input_name: pixels, type: text}'), 2, "input pixels of node 2 (Everything) is a link"),
        (
            "parameters:\n  x: {node_id: '2', input_name: text, type: text}\n"
            "  y: {node_id: '2', input_name: text, type: text}\n",
            3,
            "parameter y: input text of node 2 (Everything) is set by x already",
        ),
        ("parameters:\n  Text: {node_id: '2', input_name: text, type: text}\n", 2, "parameter Text: a name has"),
        ("parameters:\n  yes: {node_id: '2', input_name: text, type: text}\n", 1, "parameter True: a name has"),
        (entry('{node_id: "2", input_name: text, type: text, minimum: 1}'), 2, "minimum does not apply to type text"),
        (entry('{node_id: "2", input_name: steps, type: integer, max_length: 1}'), 2, "max_length does not apply"),
        (
            entry('{node_id: "2", input_name: steps, type: integer, minimum: 1.5}'),
            2,
            "must be an integer",
        ),
        (
            entry('{node_id: "2", input_name: steps, type: integer, minimum: 9, maximum: 1}'),
            2,
            "is above maximum",
        ),
        (entry('{node_id: "2", input_name: steps, type: integer, step: 0}'), 2, "step must be above 0"),
        (entry('{node_id: "2", input_name: cfg, type: number, maximum: .inf}'), 2, "maximum must be finite"),
        (entry('{node_id: "2", input_name: seed, type: seed, minimum: -1}'), 2, "minimum of type seed must be 0 to"),
        (entry('{node_id: "2", input_name: seed, type: seed, step: 2}'), 2, "step does not apply to type seed"),
        (entry('{node_id: "2", input_name: text, type: text, max_length: 0}'), 2, "max_length must be above 0"),
        (entry('{node_id: "2", input_name: method, type: choice}'), 2, "type choice needs choices"),
        (entry('{node_id: "2", input_name: method, type: choice, choices: []}'), 2, "choices are empty"),
        (
            entry('{node_id: "2", input_name: method, type: choice, choices: [yes]}'),
            2,
            "at `$.choices[0]`",
        ),
        (
            entry('{node_id: "2", input_name: ckpt, type: model, choices: [1]}'),
            2,
            "must be texts",
        ),
        (
            "parameters:\n  x:\n    node_id: '2'\n    input_name: steps\n    type: integer\n"
            "    maximum: 9\n    default_value: 10\n",
            7,
            "parameter x: default_value must be at most 9",
        ),
        (
            entry('{node_id: "2", input_name: text, type: text, default_value: 2026-01-01}'),
            2,
            "must be a text",
        ),
        (
            entry('{node_id: "2", input_name: steps, type: integer, maximum: 9}'),
            2,
            "graph's value must be at most 9",
        ),
        (entry('{node_id: "2", input_name: steps, type: integer, required: true, default_value: 1}'), 2, "never uses"),
        (
            entry('{node_id: "1", input_name: image, type: image, default_value: a.png}'),
            2,
            "a file has no",
        ),
        (
            entry('{targets: [{node_id: "2", input_name: text}, {node_id: "2", input_name: ckpt}], type: text}'),
            2,
            "its targets hold different values: give a default_value",
        ),
    ],
)
def test_a_broken_parameter_file_is_refused_with_its_line(
    tmp_path: Path, text: str, line: int | None, message: str
) -> None:
    error = refused(write(tmp_path, yaml=text))
    assert message in error.message
    assert (error.workflow, error.file, error.line) == ("all", "all.yaml", line)
    assert str(error).startswith(f"all.yaml:{line}: " if line else "all.yaml: ")


@pytest.mark.parametrize(
    ("api", "line", "message"),
    [
        ('{\n"1": {\n,', 3, "is not JSON"),
        ("", 1, "is not JSON"),
        ("[]", None, "must hold a JSON object"),
        ("[" * 100_000, None, "nested too deeply"),
        ('{"1": {"class_type": "A", "inputs": {"a": NaN}}}', None, "NaN is not a JSON value"),
        (
            '{"1": {"class_type": "A", "inputs": {}}, "1": {"class_type": "B", "inputs": {}}}',
            None,
            "is there twice",
        ),
        ("{}", None, "the graph has no nodes"),
        ({"nodes": [], "links": []}, None, "this is the editor's graph"),
        ({"1": 5}, None, "node 1 has no class_type"),
        ({"1": {"inputs": {}}}, None, "node 1 has no class_type"),
        ({"1": {"class_type": "A"}}, None, "node 1 has no inputs"),
        ({"1": {"class_type": "A", "inputs": {"a": ["9", 0]}}}, None, "linked to node 9, which does not exist"),
        ('{"1": {"class_type": "A", "inputs": {"a": ' + "[" * 99 + "]" * 99 + "}}}", None, "deeper than 64 levels"),
    ],
)
def test_a_broken_graph_is_refused_with_its_file(tmp_path: Path, api: object, line: int | None, message: str) -> None:
    error = refused(write(tmp_path, yaml="", api=api))
    assert message in error.message
    assert (error.file, error.line) == ("all-api.json", line)


@pytest.mark.parametrize("value", ["1e400", '"\\ud800"'])
def test_a_graph_that_json_would_change_is_refused(tmp_path: Path, value: str) -> None:
    """What runs must be what was written, also after a stay in Redis."""
    api = '{"1": {"class_type": "A", "inputs": {"a": ' + value + "}}}"
    assert "JSON" in refused(write(tmp_path, yaml="", api=api)).message


def test_missing_and_unreadable_files_are_named(tmp_path: Path) -> None:
    write(tmp_path, "a")
    (tmp_path / "a-api.json").unlink()
    assert str(refused(tmp_path, "a")) == "a-api.json: the file is missing"
    (tmp_path / "b.yaml").write_bytes(b"\xff\xfe\x00")
    write(tmp_path, "b", yaml=(tmp_path / "b.yaml").read_text("latin-1"))
    (tmp_path / "b.yaml").write_bytes(b"title: \xff")
    assert str(refused(tmp_path, "b")) == "b.yaml: is not UTF-8"
    write(tmp_path, "c").joinpath("c.yaml").unlink()
    (tmp_path / "c.yaml").mkdir()
    assert refused(tmp_path, "c").message.startswith("cannot be read")


@pytest.mark.parametrize(("editor", "message"), [("{", "is not JSON"), (GRAPH, "is not a graph of the editor")])
def test_a_broken_editor_graph_is_refused(tmp_path: Path, editor: object, message: str) -> None:
    error = refused(write(tmp_path, editor=editor))
    assert (error.file, message in error.message) == ("all.json", True)


# Digest and bytes


def reverse(value: Any) -> Any:
    """The same JSON with the keys of every object in the other order."""
    if isinstance(value, dict):
        return {key: reverse(value[key]) for key in reversed(value)}
    return [reverse(item) for item in value] if isinstance(value, list) else value


def test_the_digest_does_not_depend_on_the_order_of_keys(tmp_path: Path, everything: Workflow) -> None:
    text = YAML.replace("title: Everything\n", "") + "title: Everything\n"
    other = load_workflow(write(tmp_path, api=reverse(GRAPH), yaml=text), "all")
    assert other.digest == everything.digest
    assert len(other.digest) == 64


@pytest.mark.parametrize(
    ("old", "new"),
    [("title: Everything", "title: Other"), ("maximum: 40", "maximum: 44"), ("group: Sampling", "group: More")],
)
def test_the_digest_changes_with_every_part(tmp_path: Path, everything: Workflow, old: str, new: str) -> None:
    assert load_workflow(write(tmp_path, yaml=YAML.replace(old, new)), "all").digest != everything.digest


def test_the_digest_covers_both_graphs(tmp_path: Path, everything: Workflow) -> None:
    graph = copy.deepcopy(GRAPH)
    graph["2"]["inputs"]["text"] = "other"
    digests = {everything.digest, load_workflow(write(tmp_path, api=graph), "all").digest}
    digests.add(load_workflow(write(tmp_path, editor={"nodes": []}), "all").digest)
    assert len(digests) == 3


def test_bytes_give_the_same_workflow(everything: Workflow) -> None:
    assert from_json(to_json(everything)) == everything


def test_damaged_bytes_are_refused(everything: Workflow) -> None:
    good = to_json(everything)
    for bad in (b"", b"\xff", b"null", b"{}", good[:-1], good.replace(b"Everything", b"Anything"), b"[" * 100_000):
        with pytest.raises(WorkflowError, match="the stored bytes are damaged"):
            from_json(bad)


def test_forged_bytes_with_a_right_digest_are_refused_when_they_contradict_themselves(everything: Workflow) -> None:
    """Somebody who can write to Redis can also compute a digest."""
    forged = msgspec.structs.replace(everything, prompt={"1": GRAPH["1"]}, digest="")
    content = msgspec.json.encode(msgspec.to_builtins(forged), order="sorted")
    forged = msgspec.structs.replace(forged, digest=hashlib.sha256(content).hexdigest())
    with pytest.raises(WorkflowError, match=r"linked|no node"):
        from_json(to_json(forged))


# Schema


def test_the_schema_describes_types_limits_and_defaults(everything: Workflow) -> None:
    schema = json_schema(everything)
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert (schema["required"], schema["additionalProperties"]) == (["image"], False)
    properties = {
        name: {key: value for key, value in entry.items() if key != "x-order"}
        for name, entry in schema["properties"].items()
    }
    assert properties == {
        "text": {"x-type": "text", "type": "string", "maxLength": 10, "default": "graph"},
        "steps": {
            "x-type": "integer",
            "type": "integer",
            "minimum": 4,
            "maximum": 40,
            "multipleOf": 4,
            "default": 24,
        },
        "cfg": {
            "x-type": "number",
            "type": "number",
            "minimum": 0,
            "maximum": 30,
            "multipleOf": 0.1,
            "default": 7.0,
        },
        "tiled": {"x-type": "boolean", "type": "boolean", "default": False},
        "method": {"x-type": "choice", "x-group": "Sampling", "enum": ["euler", "heun", 3], "default": "euler"},
        "model": {"x-type": "model", "type": "string", "minLength": 1, "default": "graph.safetensors"},
        "seed": {
            "x-type": "seed",
            "anyOf": [{"type": "integer", "minimum": 10, "maximum": 19}, {"const": -1}, {"type": "null"}],
            "default": -1,
        },
        "image": {"x-type": "image", "type": "string", "minLength": 1},
        "mask": {"x-type": "mask", "type": "string", "minLength": 1},
        "video": {"x-type": "video", "type": "string", "minLength": 1},
        "audio": {"x-type": "audio", "type": "string", "minLength": 1},
    }


# The workflows we ship


@pytest.fixture(scope="module", params=SHIPPED_NAMES)
def shipped(request: pytest.FixtureRequest) -> Workflow:
    return load_workflow(SHIPPED, request.param)


def least(workflow: Workflow) -> dict[str, object]:
    """The required parameters, and nothing else."""
    return {parameter.name: "picture.png" for parameter in workflow.parameters if parameter.required}


def test_exactly_the_promised_workflows_are_shipped_and_all_load() -> None:
    workflows, errors = load_workflows(SHIPPED)
    assert [str(error) for error in errors] == []
    assert [workflow.name for workflow in workflows] == SHIPPED_NAMES


def test_a_shipped_workflow_renders_with_only_what_is_required(shipped: Workflow) -> None:
    rendered = render(shipped, least(shipped), draw_seed=lambda: 5)
    assert {parameter.name for parameter in shipped.parameters} == set(rendered.parameters)
    assert rendered.prompt.keys() == shipped.prompt.keys()
    assert [file.value for file in rendered.inputs] == list(least(shipped).values())


def test_its_defaults_are_the_values_of_its_graph(shipped: Workflow) -> None:
    """Whoever opens it in the editor sees what runs by default."""
    for parameter in shipped.parameters:
        for target in parameter.targets:
            if parameter.default is not None:
                assert shipped.prompt[target.node_id]["inputs"][target.input_name] == parameter.default


def test_its_limits_are_enforced(shipped: Workflow) -> None:
    for parameter in shipped.parameters:
        beyond: list[object] = [object()]
        if parameter.minimum is not None:
            beyond.append(parameter.minimum - (parameter.step or 2))
        if parameter.maximum is not None:
            beyond.append(parameter.maximum + (parameter.step or 1))
        if parameter.max_length is not None:
            beyond.append("a" * (parameter.max_length + 1))
        if parameter.choices:
            beyond.append("no such choice")
        for value in beyond:
            with pytest.raises(ParameterError) as caught:
                render(shipped, least(shipped) | {parameter.name: value}, draw_seed=lambda: 5)
            assert [found.parameter for found in caught.value.problems] == [parameter.name]


def test_it_has_a_seed_so_that_no_two_runs_are_alike(shipped: Workflow) -> None:
    first = render(shipped, least(shipped), draw_seed=lambda: 1)
    second = render(shipped, least(shipped), draw_seed=lambda: 2)
    assert first.prompt != second.prompt


def test_every_parameter_has_a_description(shipped: Workflow) -> None:
    assert all(parameter.description for parameter in shipped.parameters)


def editor_inputs(editor: dict[str, Any], node: dict[str, Any]) -> dict[str, Any]:
    """A node's inputs as the editor would export them: links as [node id, slot], widgets by their names."""
    links = {link[0]: link for link in editor["links"]}
    inputs: dict[str, Any] = {}
    for slot in node["inputs"]:
        _, source, output, _, _, _ = links[slot["link"]]
        inputs[slot["name"]] = [str(source), output]
    for name, value in zip(WIDGETS[node["type"]], node["widgets_values"], strict=True):
        if name:
            inputs[name] = value
    return inputs


def test_its_editor_graph_says_the_same_as_its_api_graph(shipped: Workflow) -> None:
    assert shipped.editor is not None
    exported = {
        str(node["id"]): {
            "class_type": node["type"],
            "inputs": editor_inputs(shipped.editor, node),
            "_meta": {"title": node["title"]},
        }
        for node in shipped.editor["nodes"]
    }
    assert exported == shipped.prompt


def test_the_links_of_its_editor_graph_agree_at_both_ends(shipped: Workflow) -> None:
    editor = shipped.editor
    assert editor is not None
    nodes = {node["id"]: node for node in editor["nodes"]}
    assert editor["last_node_id"] == max(nodes)
    assert editor["last_link_id"] == max(link[0] for link in editor["links"])
    assert editor["version"] == 0.4
    seen = set()
    for number, source, output, target, slot, kind in editor["links"]:
        end, start = nodes[target]["inputs"][slot], nodes[source]["outputs"][output]
        assert (end["link"], end["type"], start["type"]) == (number, kind, kind)
        assert number in start["links"]
        seen.add(number)
    assert seen == {number for node in nodes.values() for out in node["outputs"] for number in out["links"] or []}
    assert sorted(node["order"] for node in nodes.values()) == list(range(len(nodes)))
    assert all(nodes[link[1]]["order"] < nodes[link[3]]["order"] for link in editor["links"])


@pytest.mark.skipif(not OBJECT_INFO.exists(), reason="the recording of a real ComfyUI is not beside the repository")
def test_its_nodes_are_those_of_the_real_comfyui(shipped: Workflow) -> None:
    """Same inputs; values, and the limits of parameters, within ComfyUI's own."""
    known = json.loads(OBJECT_INFO.read_text())
    for node in shipped.prompt.values():
        assert node["inputs"].keys() == known[node["class_type"]]["input"]["required"].keys()
    for parameter in shipped.parameters:
        for target in parameter.targets:
            class_type = shipped.prompt[target.node_id]["class_type"]
            kind, *options = known[class_type]["input"]["required"][target.input_name]
            if parameter.type is ParameterType.CHOICE:
                assert list(parameter.choices) == kind
            for limit in (parameter.minimum, parameter.maximum):
                if limit is not None:
                    assert options[0]["min"] <= limit <= options[0]["max"]
