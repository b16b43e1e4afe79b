"""POST /prompt: what is accepted, in which place of the queue, and what is not even looked at."""

from typing import Any

import pytest

from test.contract.comfy import Comfy

TROUBLE = "500 Internal Server Error\n\nServer got itself in trouble"


async def test_a_prompt_with_an_id_of_the_clients_own_is_accepted(comfyui: Comfy) -> None:
    prompt_id = "0b1f5c52-4cb3-4d53-8f8a-3f3f8d0a1c11"
    reply = await comfyui.post("/prompt", {"prompt": comfyui.picture(), "prompt_id": prompt_id})
    assert reply.status == 200
    assert reply.json["prompt_id"] == prompt_id
    assert set(reply.json) == {"prompt_id", "number", "node_errors"}
    assert reply.json["node_errors"] == {}
    await comfyui.entry(prompt_id)


async def test_without_an_id_the_server_makes_a_uuid(comfyui: Comfy) -> None:
    reply = await comfyui.post("/prompt", {"prompt": comfyui.picture()})
    assert len(reply.json["prompt_id"].split("-")) == 5
    await comfyui.entry(reply.json["prompt_id"])


async def test_the_api_prefix_leads_to_the_same_place(comfyui: Comfy) -> None:
    reply = await comfyui.post("/api/prompt", {"prompt": comfyui.picture()})
    assert reply.status == 200
    await comfyui.entry(reply.json["prompt_id"])


async def test_the_content_type_does_not_matter(comfyui: Comfy) -> None:
    body = '{"prompt": {"1": {"class_type": "PreviewAny", "inputs": {"source": "hello"}}}}'
    reply = await comfyui.post("/prompt", data=body, headers={"Content-Type": "text/plain"})
    assert reply.status == 200
    assert (await comfyui.entry(reply.json["prompt_id"]))["outputs"] == {"1": {"text": ["hello"]}}


async def test_any_prompt_id_is_taken_as_its_string(comfyui: Comfy) -> None:
    """A number becomes its digits, a slash is no obstacle. (Newer versions refuse both: always choose UUIDs.)"""
    reply = await comfyui.post("/prompt", {"prompt": comfyui.picture(), "prompt_id": 424242})
    assert reply.json["prompt_id"] == "424242"
    odd = comfyui.prefix + " a/b"
    assert (await comfyui.post("/prompt", {"prompt": comfyui.picture(), "prompt_id": odd})).json["prompt_id"] == odd
    await comfyui.entry(odd)


async def test_a_null_prompt_id_becomes_the_word_none(comfyui: Comfy) -> None:
    reply = await comfyui.post("/prompt", {"prompt": comfyui.picture(), "prompt_id": None})
    assert reply.json["prompt_id"] == "None"


async def test_a_prompt_id_used_again_runs_again(comfyui: Comfy) -> None:
    """Not idempotent: the second run replaces the first in the history."""
    prompt_id = await comfyui.submit(comfyui.picture("-a"))
    await comfyui.entry(prompt_id)
    await comfyui.submit(comfyui.picture("-b"), prompt_id=prompt_id)
    entry = await comfyui.entry(prompt_id, lambda each: "-b_" in str(each["outputs"]))
    assert entry["prompt"][2]["2"]["inputs"]["filename_prefix"] == f"{comfyui.prefix}-b"


async def test_the_number_counts_up_even_for_refused_prompts(idle: Comfy) -> None:
    first = (await idle.post("/prompt", {"prompt": idle.picture()})).json["number"]
    await idle.refused({})
    await idle.post("/prompt", {})
    last = await idle.post("/prompt", {"prompt": idle.picture()})
    assert last.json["number"] == first + 3
    await idle.entry(last.json["prompt_id"])


async def test_a_given_number_comes_back_as_a_float(comfyui: Comfy) -> None:
    reply = await comfyui.post("/prompt", {"prompt": comfyui.picture(), "number": "3"})
    assert reply.json["number"] == 3.0
    await comfyui.entry(reply.json["prompt_id"])


async def test_front_gives_the_negative_counter(idle: Comfy) -> None:
    """So on a fresh server, where the counter is 0, front means nothing."""
    before = (await idle.post("/prompt", {"prompt": idle.picture()})).json["number"]
    reply = await idle.post("/prompt", {"prompt": idle.picture(), "front": True})
    assert reply.json["number"] == -(before + 1)
    await idle.entry(reply.json["prompt_id"])


async def test_no_prompt_at_all_is_refused(comfyui: Comfy) -> None:
    words = "No prompt provided"
    expected = {"type": "no_prompt", "message": words, "details": words, "extra_info": {}}
    for body in ({"client_id": "x"}, [1]):
        reply = await comfyui.post("/prompt", body)
        assert (reply.status, reply.json) == (400, {"error": expected, "node_errors": {}})


@pytest.mark.parametrize(
    "body", [b"{oops", b'{"prompt": null}', b'{"prompt": {}, "number": "x"}', b"", b'{"prompt": {"1": 5}}']
)
async def test_malformed_bodies_get_a_bare_500(comfyui: Comfy, body: bytes) -> None:
    reply = await comfyui.post("/prompt", data=body)
    assert (reply.status, reply.text) == (500, TROUBLE)
    assert reply.headers["Content-Type"] == "text/plain; charset=utf-8"


@pytest.mark.parametrize("prompt", [{}, []])
async def test_an_empty_prompt_has_no_outputs(comfyui: Comfy, prompt: Any) -> None:
    expected = {"type": "prompt_no_outputs", "message": "Prompt has no outputs", "details": "", "extra_info": {}}
    assert await comfyui.refused(prompt) == {"error": expected, "node_errors": {}}


async def test_a_prompt_without_an_output_node_is_refused(comfyui: Comfy) -> None:
    graph = comfyui.picture()
    del graph["2"]
    assert (await comfyui.refused(graph))["error"]["type"] == "prompt_no_outputs"


async def test_partial_targets_that_match_nothing_leave_no_outputs(comfyui: Comfy) -> None:
    for targets in ([], ["9"]):
        reply = await comfyui.post("/prompt", {"prompt": comfyui.picture(), "partial_execution_targets": targets})
        assert (reply.status, reply.json["error"]["type"]) == (400, "prompt_no_outputs")


async def test_partial_targets_choose_the_outputs_that_run(comfyui: Comfy) -> None:
    graph = comfyui.picture()
    graph["4"] = {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": f"{comfyui.prefix}-4"}}
    entry = await comfyui.entry(await comfyui.submit(graph, partial_execution_targets=["4"]))
    assert list(entry["outputs"]) == ["4"]
    assert entry["prompt"][4] == ["4"]


async def test_one_good_output_is_enough_and_the_rest_is_reported_beside_it(comfyui: Comfy) -> None:
    """200 with node_errors: the bad branch is silently left out and the run ends well."""
    graph = comfyui.picture()
    graph["3"] = {"class_type": "LoadImage", "inputs": {"image": "nope.png"}}
    graph["4"] = {"class_type": "SaveImage", "inputs": {"images": ["3", 0], "filename_prefix": "bad"}}
    reply = await comfyui.post("/prompt", {"prompt": graph})
    assert reply.status == 200
    assert reply.json["node_errors"]["3"]["dependent_outputs"] == ["4"]
    entry = await comfyui.entry(reply.json["prompt_id"])
    assert entry["status"]["status_str"] == "success"
    assert list(entry["outputs"]) == ["2"]


async def test_extra_data_null_beside_a_client_id_is_a_500(comfyui: Comfy) -> None:
    reply = await comfyui.post("/prompt", {"prompt": comfyui.picture(), "extra_data": None, "client_id": "x"})
    assert reply.status == 500
