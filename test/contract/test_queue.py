"""The queue, the history, interruption, POST /free."""

import asyncio
from typing import Any

import pytest

from test.contract.comfy import Comfy


async def blocked(lab: Comfy) -> str:
    """A running prompt that lasts until it is interrupted."""
    prompt_id = await lab.submit(lab.slow("-blocker", steps=5000, ms=5))
    await lab.running(prompt_id)
    return prompt_id


async def interrupt(lab: Comfy, prompt_id: str) -> None:
    assert (await lab.post("/interrupt", {"prompt_id": prompt_id})).status == 200
    await lab.entry(prompt_id)


async def test_the_queue_shows_what_runs_and_what_waits_with_the_whole_prompt(lab: Comfy) -> None:
    blocker = await blocked(lab)
    graph = lab.picture()
    waiting = await lab.submit(graph, client_id="c", extra_data={"auth_token_comfy_org": "secret", "mine": 1})
    queue = (await lab.get("/queue")).json
    assert [item[1] for item in queue["queue_running"]] == [blocker]
    item = next(item for item in queue["queue_pending"] if item[1] == waiting)
    assert item[2:] == [graph, {"auth_token_comfy_org": "secret", "mine": 1, "client_id": "c"}, ["2"]]
    assert (await lab.get("/prompt")).json["exec_info"]["queue_remaining"] >= 2
    await interrupt(lab, blocker)
    entry = await lab.entry(waiting)
    assert entry["prompt"][2:] == [graph, {"mine": 1, "client_id": "c"}, ["2"]]  # the token does not get there


async def test_prompts_run_by_number_then_in_order(idle: Comfy) -> None:
    blocker = await blocked(idle)
    fields: dict[str, dict[str, Any]] = {
        "n1": {},
        "n2": {},
        "front1": {"front": True},
        "front2": {"front": True},
        "negative": {"number": -1000000.5},
        "zero": {"number": 0},
        "late": {"front": False},
    }
    for name, extra in fields.items():
        await idle.submit(idle.picture(f"-{name}"), prompt_id=f"{idle.prefix}-{name}", **extra)
    await interrupt(idle, blocker)
    await idle.entry(f"{idle.prefix}-late")
    history = (await idle.get(f"/history?max_items={len(fields)}")).json
    ran = [prompt_id.removeprefix(f"{idle.prefix}-") for prompt_id in history]
    assert ran == ["negative", "front2", "front1", "zero", "n1", "n2", "late"]


async def test_equal_numbers_run_in_the_order_of_their_ids(idle: Comfy) -> None:
    blocker = await blocked(idle)
    for name in "cab":
        await idle.submit(idle.picture(f"-{name}"), prompt_id=f"{idle.prefix}-{name}", number=7)
    await interrupt(idle, blocker)
    await idle.entry(f"{idle.prefix}-c")
    history = (await idle.get("/history?max_items=3")).json
    assert [prompt_id[-1] for prompt_id in history] == ["a", "b", "c"]


async def test_the_pending_list_is_a_heap_not_the_order_of_running(idle: Comfy) -> None:
    blocker = await blocked(idle)
    names = ["5", "6", "1"]
    for number in names:
        await idle.submit(idle.picture(number), prompt_id=f"{idle.prefix}-{number}", number=int(number))
    assert [prompt_id[-1] for prompt_id in (await idle.queue())[1]] == ["1", "6", "5"]
    await interrupt(idle, blocker)
    for number in names:
        await idle.entry(f"{idle.prefix}-{number}")


async def test_a_deleted_pending_prompt_vanishes_without_a_trace(lab: Comfy) -> None:
    blocker = await blocked(lab)
    async with lab.socket(lab.prefix) as socket:
        waiting = await lab.submit(lab.picture(), client_id=lab.prefix)
        reply = await lab.post("/queue", {"delete": [waiting]})
        assert (reply.status, reply.body) == (200, b"")
        assert waiting not in (await lab.queue())[1]
        after = await lab.submit(lab.picture("-after"), client_id=lab.prefix)
        await interrupt(lab, blocker)
        await socket.ended(after)
        assert waiting not in str(socket.frames)
    assert (await lab.get(f"/history/{waiting}")).json == {}


async def test_only_the_first_of_two_prompts_with_one_id_is_deleted(lab: Comfy) -> None:
    blocker = await blocked(lab)
    prompt_id = await lab.submit(lab.picture("-a"))
    await lab.submit(lab.picture("-b"), prompt_id=prompt_id)
    await lab.post("/queue", {"delete": [prompt_id]})
    assert (await lab.queue())[1].count(prompt_id) == 1
    await interrupt(lab, blocker)
    await lab.entry(prompt_id)


async def test_deleting_the_running_or_an_unknown_prompt_does_nothing(lab: Comfy) -> None:
    blocker = await blocked(lab)
    assert (await lab.post("/queue", {"delete": [blocker, "unknown"]})).status == 200
    assert (await lab.queue())[0] == [blocker]
    await interrupt(lab, blocker)


async def test_clear_empties_the_pending_list_only(idle: Comfy) -> None:
    blocker = await blocked(idle)
    for tag in "ab":
        await idle.submit(idle.picture(tag))
    assert (await idle.post("/queue", {"clear": True})).body == b""
    assert await idle.queue() == ([blocker], [])
    await interrupt(idle, blocker)


@pytest.mark.parametrize("path", ["/queue", "/history", "/free"])
async def test_an_empty_body_is_a_500(comfyui: Comfy, path: str) -> None:
    assert (await comfyui.post(path, data=b"")).status == 500


async def test_the_queue_knows_no_delete_method(comfyui: Comfy) -> None:
    assert (await comfyui.request("DELETE", "/queue")).status == 405


async def test_interrupting_a_pending_or_unknown_prompt_does_nothing(lab: Comfy) -> None:
    blocker = await blocked(lab)
    waiting = await lab.submit(lab.picture())
    for prompt_id in (waiting, "unknown"):
        reply = await lab.post("/interrupt", {"prompt_id": prompt_id})
        assert (reply.status, reply.body) == (200, b"")
    assert (await lab.queue())[0] == [blocker]
    await interrupt(lab, blocker)
    assert (await lab.entry(waiting))["status"]["completed"] is True


@pytest.mark.parametrize("body", [b"", b"{}", b"no json"])
async def test_an_interrupt_without_an_id_stops_whatever_runs(idle: Comfy, body: bytes) -> None:
    blocker = await blocked(idle)
    assert (await idle.post("/interrupt", data=body)).status == 200
    assert (await idle.entry(blocker))["status"]["messages"][-1][0] == "execution_interrupted"


async def test_an_interrupt_with_a_list_is_a_500(comfyui: Comfy) -> None:
    assert (await comfyui.post("/interrupt", data=b"[]")).status == 500


async def test_an_interrupt_while_idle_does_not_hit_the_next_prompt(idle: Comfy) -> None:
    await idle.post("/interrupt")
    entry = await idle.entry(await idle.submit(idle.slow()))
    assert entry["status"]["status_str"] == "success"


async def test_the_history_of_an_unfinished_or_unknown_prompt_is_an_empty_object(lab: Comfy) -> None:
    blocker = await blocked(lab)
    for prompt_id in (blocker, "unknown"):
        reply = await lab.get(f"/history/{prompt_id}")
        assert (reply.status, reply.json) == (200, {})
    await interrupt(lab, blocker)


async def test_a_history_entry_of_a_success(comfyui: Comfy) -> None:
    graph = comfyui.picture(batch=2)
    prompt_id = await comfyui.submit(graph, client_id="cid-A")
    entry = await comfyui.entry(prompt_id)
    assert set(entry) == {"prompt", "outputs", "status", "meta"}
    assert entry["prompt"][1:] == [prompt_id, graph, {"client_id": "cid-A"}, ["2"]]
    names = [f"{comfyui.prefix}_0000{number}_.png" for number in (1, 2)]
    images = [{"filename": name, "subfolder": "", "type": "output"} for name in names]
    assert entry["outputs"] == {"2": {"images": images}}
    assert entry["meta"] == {"2": {"node_id": "2", "display_node": "2", "parent_node": None, "real_node_id": "2"}}
    status = entry["status"]
    assert (status["status_str"], status["completed"]) == ("success", True)
    assert [name for name, _ in status["messages"]] == ["execution_start", "execution_cached", "execution_success"]
    assert set(status["messages"][1][1]) == {"nodes", "prompt_id", "timestamp"}


async def test_any_value_can_be_shown_as_text(comfyui: Comfy) -> None:
    values = ["a", 3.5, True, {"a": [1]}, None]
    graph = {str(at): {"class_type": "PreviewAny", "inputs": {"source": value}} for at, value in enumerate(values)}
    outputs = (await comfyui.entry(await comfyui.submit(graph)))["outputs"]
    assert [outputs[str(at)]["text"] for at in range(5)] == [["a"], ["3.5"], ["True"], ['{"a": [1]}'], ["None"]]


async def test_pages_of_the_history_are_oldest_first(idle: Comfy) -> None:
    ids = [f"{idle.prefix}-{number}" for number in range(3)]
    for prompt_id in ids:
        await idle.submit(idle.picture(prompt_id), prompt_id=prompt_id)
    await idle.entry(ids[-1])
    assert list((await idle.get("/history?max_items=2")).json) == ids[1:]
    everything = list((await idle.get("/history")).json)
    assert everything[-3:] == ids
    assert list((await idle.get("/history?max_items=1&offset=0")).json) == everything[:1]
    assert (await idle.get("/history?max_items=abc")).status == 500


async def test_a_history_entry_can_be_deleted(comfyui: Comfy) -> None:
    prompt_id = await comfyui.submit(comfyui.picture())
    await comfyui.entry(prompt_id)
    reply = await comfyui.post("/history", {"delete": [prompt_id, "unknown"]})
    assert (reply.status, reply.body) == (200, b"")
    assert (await comfyui.get(f"/history/{prompt_id}")).json == {}


async def test_freeing_memory_drops_the_cache_and_unloading_models_keeps_it(idle: Comfy) -> None:
    graph = idle.picture()

    async def cached_again() -> list[str]:
        entry = await idle.entry(await idle.submit(graph))
        nodes: list[str] = dict(entry["status"]["messages"])["execution_cached"]["nodes"]
        return sorted(nodes)

    await cached_again()
    assert (await idle.post("/free", {"unload_models": True})).status == 200
    assert await cached_again() == ["1", "2"]
    await idle.post("/free", {"free_memory": True})
    deadline = asyncio.get_running_loop().time() + 5
    while await cached_again():  # taken by the worker a moment later
        assert asyncio.get_running_loop().time() < deadline
        await idle.post("/free", {"free_memory": True})


async def test_the_cache_does_not_look_at_the_disk(idle: Comfy) -> None:
    """A lost file is still named by the next run, which succeeds; only /view tells."""
    if not idle.simulated:
        pytest.skip("cannot delete files of a real server")
    graph = idle.picture()
    image = (await idle.entry(await idle.submit(graph)))["outputs"]["2"]["images"][0]
    await idle.post("/simulator/faults", {"lose_output": 1})
    graph["2"]["inputs"]["filename_prefix"] += "-lost"
    lost = (await idle.entry(await idle.submit(graph)))["outputs"]["2"]["images"][0]
    assert (await idle.get(f"/view?filename={lost['filename']}")).status == 404
    entry = await idle.entry(await idle.submit(graph))
    assert entry["outputs"]["2"]["images"] == [lost]
    assert entry["status"]["status_str"] == "success"
    assert (await idle.get(f"/view?filename={image['filename']}")).status == 200
