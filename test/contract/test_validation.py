"""POST /prompt: what is refused because of its graph, and in which words."""

from typing import Any

import pytest

from test.contract.comfy import Comfy, Graph

SIDE = ["INT", {"default": 512, "min": 1, "max": 16384, "step": 1}]
OUTPUTS_FAILED = {
    "type": "prompt_outputs_failed_validation",
    "message": "Prompt outputs failed validation",
    "details": "",
    "extra_info": {},
}


def failed(node_errors: dict[str, Any], details: str = "") -> dict[str, Any]:
    """The body of a 400 for faulty nodes."""
    return {"error": {**OUTPUTS_FAILED, "details": details}, "node_errors": node_errors}


def at_node(class_type: str, *errors: dict[str, Any], outputs: tuple[str, ...] = ("2",)) -> dict[str, Any]:
    return {"errors": list(errors), "dependent_outputs": list(outputs), "class_type": class_type}


def without_tracebacks(body: Any) -> Any:
    """The body with every traceback, which holds server paths, replaced by its being there."""
    if isinstance(body, dict):
        return {key: bool(value) if key == "traceback" else without_tracebacks(value) for key, value in body.items()}
    return [without_tracebacks(value) for value in body] if isinstance(body, list) else body


async def test_an_unknown_class_is_named(comfyui: Comfy) -> None:
    graph = comfyui.picture()
    graph["1"] = {"class_type": "NoSuchNode", "inputs": {}}
    expected = {
        "type": "invalid_prompt",
        "message": "Cannot execute because node NoSuchNode does not exist.",
        "details": "Node ID '#1'",
        "extra_info": {},
    }
    assert await comfyui.refused(graph) == {"error": expected, "node_errors": {}}


async def test_a_node_without_a_class_is_named(comfyui: Comfy) -> None:
    graph = comfyui.picture()
    graph["1"] = {"inputs": {}}
    expected = {
        "type": "invalid_prompt",
        "message": "Cannot execute because a node is missing the class_type property.",
        "details": "Node ID '#1'",
        "extra_info": {},
    }
    assert await comfyui.refused(graph) == {"error": expected, "node_errors": {}}


async def test_a_missing_input_is_named(comfyui: Comfy) -> None:
    graph = comfyui.picture()
    del graph["1"]["inputs"]["color"]
    error = {
        "type": "required_input_missing",
        "message": "Required input is missing",
        "details": "color",
        "extra_info": {"input_name": "color"},
    }
    assert await comfyui.refused(graph) == failed({"1": at_node("EmptyImage", error)})


async def test_a_fault_of_the_output_node_itself_is_also_in_the_details(comfyui: Comfy) -> None:
    graph = comfyui.picture()
    del graph["2"]["inputs"]["filename_prefix"]
    error = {
        "type": "required_input_missing",
        "message": "Required input is missing",
        "details": "filename_prefix",
        "extra_info": {"input_name": "filename_prefix"},
    }
    expected = failed({"2": at_node("SaveImage", error)}, "Required input is missing: filename_prefix")
    assert await comfyui.refused(graph) == expected


@pytest.mark.parametrize(
    ("value", "kind", "words"),
    [
        (0, "value_smaller_than_min", "Value 0 smaller than min of 1"),
        (20000, "value_bigger_than_max", "Value 20000 bigger than max of 16384"),
    ],
)
async def test_a_value_out_of_range_is_named(comfyui: Comfy, value: int, kind: str, words: str) -> None:
    graph = comfyui.picture()
    graph["1"]["inputs"]["width"] = value
    about = {"input_name": "width", "input_config": SIDE, "received_value": value}
    error = {"type": kind, "message": words, "details": "width", "extra_info": about}
    assert await comfyui.refused(graph) == failed({"1": at_node("EmptyImage", error)})


async def test_a_value_that_cannot_be_converted_is_named(comfyui: Comfy) -> None:
    graph = comfyui.picture()
    graph["1"]["inputs"]["height"] = "abc"
    why = "invalid literal for int() with base 10: 'abc'"
    error = {
        "type": "invalid_input_type",
        "message": "Failed to convert an input value to a INT value",
        "details": f"height, abc, {why}",
        "extra_info": {
            "input_name": "height",
            "input_config": SIDE,
            "received_value": "abc",
            "exception_message": why,
        },
    }
    assert await comfyui.refused(graph) == failed({"1": at_node("EmptyImage", error)})


async def test_values_are_converted_where_possible_and_the_history_shows_the_converted_ones(comfyui: Comfy) -> None:
    graph = comfyui.picture()
    graph["1"]["inputs"].update(width="16", height=16.9)
    graph["2"]["inputs"]["filename_prefix"] = {"__value__": comfyui.prefix}
    entry = await comfyui.entry(await comfyui.submit(graph))
    assert entry["prompt"][2]["1"]["inputs"]["width"] == 16
    assert entry["prompt"][2]["1"]["inputs"]["height"] == 16
    assert entry["prompt"][2]["2"]["inputs"]["filename_prefix"] == comfyui.prefix


async def test_a_value_not_in_the_list_is_named_with_the_list(comfyui: Comfy) -> None:
    graph = comfyui.picture()
    inputs = {"image": ["1", 0], "upscale_method": "nope", "width": 8, "height": 8, "crop": "disabled"}
    graph["3"] = {"class_type": "ImageScale", "inputs": inputs}
    graph["2"]["inputs"]["images"] = ["3", 0]
    methods = ["nearest-exact", "bilinear", "area", "bicubic", "lanczos"]
    error = {
        "type": "value_not_in_list",
        "message": "Value not in list",
        "details": f"upscale_method: 'nope' not in {methods}",
        "extra_info": {"input_name": "upscale_method", "input_config": [methods, {}], "received_value": "nope"},
    }
    assert await comfyui.refused(graph) == failed({"3": at_node("ImageScale", error)})


async def test_a_missing_checkpoint_is_named_with_those_there_are(comfyui: Comfy) -> None:
    config = (await comfyui.get("/object_info/CheckpointLoaderSimple")).json["CheckpointLoaderSimple"]["input"]
    choices, extra = config["required"]["ckpt_name"]
    graph: Graph = {
        "1": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "nope.safetensors"}},
        "3": {"class_type": "EmptyLatentImage", "inputs": {"width": 64, "height": 64, "batch_size": 1}},
        "4": {"class_type": "VAEDecode", "inputs": {"samples": ["3", 0], "vae": ["1", 2]}},
        "2": {"class_type": "SaveImage", "inputs": {"images": ["4", 0], "filename_prefix": comfyui.prefix}},
    }
    error = {
        "type": "value_not_in_list",
        "message": "Value not in list",
        "details": f"ckpt_name: 'nope.safetensors' not in {choices}",
        "extra_info": {
            "input_name": "ckpt_name",
            "input_config": [choices, extra],
            "received_value": "nope.safetensors",
        },
    }
    assert await comfyui.refused(graph) == failed({"1": at_node("CheckpointLoaderSimple", error)})


async def test_a_list_of_more_than_twenty_choices_is_only_counted(comfyui: Comfy) -> None:
    info = (await comfyui.get("/object_info/KSampler")).json["KSampler"]["input"]["required"]
    graph: Graph = {
        "1": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "nope"}},
        "3": {"class_type": "EmptyLatentImage", "inputs": {"width": 64, "height": 64, "batch_size": 1}},
        "5": {
            "class_type": "KSampler",
            "inputs": {
                "model": ["1", 0],
                "positive": ["3", 0],
                "negative": ["3", 0],
                "latent_image": ["3", 0],
                "seed": 1,
                "steps": 1,
                "cfg": 1.0,
                "sampler_name": "nope",
                "scheduler": "normal",
                "denoise": 1.0,
            },
        },
        "4": {"class_type": "VAEDecode", "inputs": {"samples": ["5", 0], "vae": ["1", 2]}},
        "2": {"class_type": "SaveImage", "inputs": {"images": ["4", 0], "filename_prefix": comfyui.prefix}},
    }
    errors = (await comfyui.refused(graph))["node_errors"]["5"]["errors"]
    count = len(info["sampler_name"][0])
    assert count > 20
    assert {
        "type": "value_not_in_list",
        "message": "Value not in list",
        "details": f"sampler_name: 'nope' not in (list of length {count})",
        "extra_info": {"input_name": "sampler_name", "input_config": None, "received_value": "nope"},
    } in errors


async def test_a_link_of_the_wrong_type_is_named(comfyui: Comfy) -> None:
    graph = comfyui.picture()
    graph["1"] = {"class_type": "EmptyLatentImage", "inputs": {"width": 64, "height": 64, "batch_size": 1}}
    words = "images, received_type(LATENT) mismatch input_type(IMAGE)"
    error = {
        "type": "return_type_mismatch",
        "message": "Return type mismatch between linked nodes",
        "details": words,
        "extra_info": {
            "input_name": "images",
            "input_config": ["IMAGE", {"tooltip": "The images to save."}],
            "received_type": "LATENT",
            "linked_node": ["1", 0],
        },
    }
    details = f"Return type mismatch between linked nodes: {words}"
    assert await comfyui.refused(graph) == failed({"2": at_node("SaveImage", error)}, details)


async def test_a_link_that_is_not_a_pair_is_named(comfyui: Comfy) -> None:
    graph = comfyui.picture()
    graph["2"]["inputs"]["images"] = ["1", 0, 0]
    message = "Bad linked input, must be a length-2 list of [node_id, slot_index]"
    error = {
        "type": "bad_linked_input",
        "message": message,
        "details": "images",
        "extra_info": {
            "input_name": "images",
            "input_config": ["IMAGE", {"tooltip": "The images to save."}],
            "received_value": ["1", 0, 0],
        },
    }
    assert await comfyui.refused(graph) == failed({"2": at_node("SaveImage", error)}, f"{message}: images")


def raised(details: str, kind: str) -> dict[str, Any]:
    return {
        "type": "exception_during_validation",
        "message": "Exception when validating node",
        "details": details,
        "extra_info": {"exception_type": kind, "traceback": True},
    }


@pytest.mark.parametrize(
    ("link", "details", "kind"),
    [(["99", 0], "'99'", "KeyError"), (["1", 7], "tuple index out of range", "IndexError"), ([1, 0], "1", "KeyError")],
)
async def test_a_link_into_nothing_is_an_exception(comfyui: Comfy, link: list[Any], details: str, kind: str) -> None:
    graph = comfyui.picture()
    graph["2"]["inputs"]["images"] = link
    expected = failed({"2": at_node("SaveImage", raised(details, kind))}, f"Exception when validating node: {details}")
    assert without_tracebacks(await comfyui.refused(graph)) == expected


async def test_a_node_without_inputs_is_an_exception(comfyui: Comfy) -> None:
    body = await comfyui.refused({"2": {"class_type": "SaveImage"}})
    expected = failed(
        {"2": at_node("SaveImage", raised("'inputs'", "KeyError"))}, "Exception when validating node: 'inputs'"
    )
    assert without_tracebacks(body) == expected


async def test_an_exception_further_up_is_reported_at_its_node(comfyui: Comfy) -> None:
    graph = comfyui.picture()
    graph["3"] = {"class_type": "ImageInvert", "inputs": {"image": ["99", 0]}}
    graph["2"]["inputs"]["images"] = ["3", 0]
    error = {
        "type": "exception_during_inner_validation",
        "message": "Exception when validating inner node",
        "details": "'99'",
        "extra_info": {
            "input_name": "images",
            "input_config": ["IMAGE", {"tooltip": "The images to save."}],
            "exception_message": "'99'",
            "exception_type": "KeyError",
            "traceback": True,
            "linked_node": ["3", 0],
        },
    }
    assert without_tracebacks(await comfyui.refused(graph)) == failed({"3": at_node("ImageInvert", error)})


async def test_a_missing_input_image_fails_the_classes_own_check(comfyui: Comfy) -> None:
    graph = comfyui.picture()
    graph["1"] = {"class_type": "LoadImage", "inputs": {"image": "nope.png"}}
    error = {
        "type": "custom_validation_failed",
        "message": "Custom validation failed for node",
        "details": "image - Invalid image file: nope.png",
        "extra_info": {"input_name": "image"},
    }
    assert await comfyui.refused(graph) == failed({"1": at_node("LoadImage", error)})


async def test_a_cycle_is_refused_without_any_node_error(comfyui: Comfy) -> None:
    graph: Graph = {
        "1": {"class_type": "ImageInvert", "inputs": {"image": ["3", 0]}},
        "3": {"class_type": "ImageInvert", "inputs": {"image": ["1", 0]}},
        "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "x"}},
    }
    assert await comfyui.refused(graph) == failed({})


async def test_a_fault_shared_by_two_outputs_names_both(comfyui: Comfy) -> None:
    graph = comfyui.picture()
    graph["1"]["inputs"]["width"] = 0
    graph["4"] = {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}}
    body = await comfyui.refused(graph)
    assert sorted(body["node_errors"]["1"]["dependent_outputs"]) == ["2", "4"]
