"""Every fault does what it says, and ends when it should."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from test.contract.comfy import Comfy
from test.simulator import Faults, Options, Simulator
from test.simulator.faults import FaultError, merge
from test.support.waiting import wait_until

GONE = (aiohttp.ClientConnectionError, aiohttp.ClientOSError, ConnectionError)


@pytest.fixture
async def simulator() -> AsyncIterator[Simulator]:
    async with Simulator(Options()) as simulator:
        yield simulator


@pytest.fixture
async def comfyui(simulator: Simulator) -> AsyncIterator[Comfy]:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=10)) as session:
        yield Comfy(simulator.url, session, simulated=True)


async def break_it(comfyui: Comfy, **faults: Any) -> None:
    reply = await comfyui.post("/simulator/faults", faults)
    assert reply.status == 200, reply.text


async def error_of(comfyui: Comfy, prompt_id: str) -> list[Any]:
    last: list[Any] = (await comfyui.entry(prompt_id))["status"]["messages"][-1]
    return last


def test_faults_are_merged_checked_and_reset() -> None:
    once = merge(Faults(), {"hang": True, "slow": 2})
    assert merge(once, {"out_of_memory": 1}) == Faults(hang=True, slow=2.0, out_of_memory=1)
    assert merge(once, {"reset": True, "slow": 3}) == Faults(slow=3.0)
    for wrong in ({"nosuch": 1}, {"hang": "yes"}, {"crash": "later"}, [1]):
        with pytest.raises(FaultError):
            merge(Faults(), wrong)


async def test_faults_are_shown_and_wrong_ones_refused(comfyui: Comfy) -> None:
    await break_it(comfyui, slow=2.5)
    assert (await comfyui.get("/simulator/faults")).json["slow"] == 2.5
    for wrong in ({"nosuch": 1}, {"slow": "x"}, [1]):
        assert (await comfyui.post("/simulator/faults", wrong)).status == 400


async def test_a_crash_loses_all_memory_but_no_file_and_the_next_life_has_the_same_address(
    simulator: Simulator, comfyui: Comfy
) -> None:
    done = await comfyui.submit(comfyui.picture())
    image = (await comfyui.entry(done))["outputs"]["2"]["images"][0]
    async with comfyui.socket(comfyui.prefix) as socket:
        await break_it(comfyui, crash="now")
        await socket.until(lambda each: each.closed_by_peer, "cut connection")
    with pytest.raises(GONE):
        await comfyui.get("/prompt")
    await simulator.start()
    assert (await comfyui.get(f"/history/{done}")).json == {}
    assert (await comfyui.get(f"/view?filename={image['filename']}")).status == 200
    assert (await comfyui.get("/simulator/faults")).json["crash"] == ""


async def test_a_crash_at_the_start_of_a_prompt(simulator: Simulator, comfyui: Comfy) -> None:
    await break_it(comfyui, crash="start")
    async with comfyui.socket(comfyui.prefix) as socket:
        await comfyui.submit(comfyui.picture(), client_id=comfyui.prefix)
        await socket.until(lambda each: each.closed_by_peer, "cut connection")
        assert socket.of("execution_start") == []
    await simulator.start()
    await comfyui.entry(await comfyui.submit(comfyui.picture()))


async def test_a_crash_after_some_steps(simulator: Simulator, comfyui: Comfy) -> None:
    await break_it(comfyui, crash="steps", crash_after_steps=3)
    async with comfyui.socket(comfyui.prefix) as socket:
        await comfyui.submit(comfyui.slow(steps=100), client_id=comfyui.prefix)
        await socket.until(lambda each: each.closed_by_peer, "cut connection")
        assert len(socket.of("progress")) <= 3
    with pytest.raises(GONE):
        await comfyui.get("/prompt")
    await simulator.start()


async def test_stopping_is_a_crash_from_outside(simulator: Simulator, comfyui: Comfy) -> None:
    running = await comfyui.submit(comfyui.slow(steps=1000, ms=5))
    await comfyui.running(running)
    await simulator.stop()
    with pytest.raises(GONE):
        await comfyui.get("/prompt")
    await simulator.start()
    assert await comfyui.queue() == ([], [])


async def test_a_client_id_that_is_no_string_takes_the_server_down(simulator: Simulator, comfyui: Comfy) -> None:
    """Measured on the real ComfyUI 0.3.64: its publish loop looks the id up and dies of the TypeError."""
    async with comfyui.socket(comfyui.prefix) as socket:
        await comfyui.submit(comfyui.picture(), client_id=[])
        await socket.until(lambda each: each.closed_by_peer, "cut connection")
    with pytest.raises(GONE):
        await comfyui.get("/prompt")
    await simulator.start()


@pytest.mark.parametrize(
    "bodies",
    [
        pytest.param([{"extra_data": None}], id="extra_data-null"),
        pytest.param([{"prompt": {"9": {"class_type": "EmptyImage"}}}], id="a-node-without-inputs-that-does-not-run"),
        pytest.param([{"number": 5, "prompt_id": "twin", "tag": tag} for tag in "abcd"], id="equal-number-and-id"),
    ],
)
async def test_some_prompts_end_the_worker_and_nothing_runs_any_more(
    comfyui: Comfy, bodies: list[dict[str, Any]]
) -> None:
    """Measured on the real ComfyUI 0.3.64: the thread that runs prompts dies, HTTP lives on and accepts."""
    if len(bodies) > 1:
        await comfyui.running(await comfyui.submit(comfyui.slow(steps=10, ms=5)))
    for body in bodies:
        graph = {**comfyui.picture(body.get("tag", "")), **body.get("prompt", {})}
        await comfyui.post("/prompt", {**body, "prompt": graph})
    async with comfyui.socket(comfyui.prefix) as socket:

        async def worker_ended() -> bool:
            return "prompt_worker" in (await comfyui.get("/internal/logs")).text

        await wait_until(worker_ended, "the worker has ended")
        prompt_id = await comfyui.submit(comfyui.picture("-after"), client_id=comfyui.prefix)
        await socket.until(lambda each: len(each.of("status")) > 1, "status")
        assert prompt_id in (await comfyui.queue())[1]
        assert socket.of("execution_start") == []


async def test_a_hanging_run_cannot_be_interrupted_but_http_answers(comfyui: Comfy) -> None:
    prompt_id = await comfyui.submit(comfyui.slow(steps=20, ms=5))
    await comfyui.running(prompt_id)
    await break_it(comfyui, hang=True)
    await comfyui.post("/interrupt", {"prompt_id": prompt_id})
    await asyncio.sleep(0.2)  # twice what the run would have needed
    assert (await comfyui.queue())[0] == [prompt_id]
    await break_it(comfyui, hang=False)
    assert (await error_of(comfyui, prompt_id))[0] == "execution_interrupted"


async def test_hanging_http_answers_nothing_but_the_simulators_own_routes(comfyui: Comfy) -> None:
    await break_it(comfyui, hang_http=True)
    request = asyncio.create_task(comfyui.get("/prompt"))
    done, _ = await asyncio.wait([request], timeout=0.1)
    assert not done
    await break_it(comfyui, hang_http=False)
    assert (await request).status == 200


async def test_a_silent_websocket_stays_open(comfyui: Comfy) -> None:
    async with comfyui.socket(comfyui.prefix) as socket:
        await break_it(comfyui, silent_websocket=True)
        await comfyui.entry(await comfyui.submit(comfyui.picture(), client_id=comfyui.prefix))
        assert len(socket.frames) == 1
        await break_it(comfyui, silent_websocket=False)
        await socket.ended(await comfyui.submit(comfyui.picture("-2"), client_id=comfyui.prefix))


async def test_dropped_websockets_are_cut_once_and_the_run_goes_on(comfyui: Comfy) -> None:
    async with comfyui.socket(comfyui.prefix) as socket:
        prompt_id = await comfyui.submit(comfyui.slow(steps=10, ms=5), client_id=comfyui.prefix)
        await socket.first("progress")
        await break_it(comfyui, drop_websockets=True)
        await socket.until(lambda each: each.closed_by_peer, "cut connection")
        assert socket.connection.close_code == 1006
    assert (await comfyui.entry(prompt_id))["status"]["status_str"] == "success"
    async with comfyui.socket(comfyui.prefix) as socket:
        assert socket.frames


async def test_websockets_can_be_refused(comfyui: Comfy) -> None:
    await break_it(comfyui, refuse_websockets=True)
    with pytest.raises(aiohttp.WSServerHandshakeError):
        async with comfyui.socket():
            pass


async def test_slowness_multiplies_every_time(comfyui: Comfy) -> None:
    await break_it(comfyui, slow=10)
    await comfyui.entry(await comfyui.submit(comfyui.slow(steps=2, ms=10)))
    prompt = (await comfyui.get("/simulator/stats")).json["prompts"][0]
    assert prompt["ended_at"] - prompt["started_at"] >= 0.2


async def test_out_of_memory_hits_as_many_prompts_as_told(comfyui: Comfy) -> None:
    await break_it(comfyui, out_of_memory=1)
    error = await error_of(comfyui, await comfyui.submit(comfyui.picture()))
    assert error[1]["exception_type"] == "torch.OutOfMemoryError"
    assert (await error_of(comfyui, await comfyui.submit(comfyui.picture("-2"))))[0] == "execution_success"


@pytest.mark.parametrize(("answer", "status"), [("500", 500), ("garbage", 200)])
async def test_wrong_answers(comfyui: Comfy, answer: str, status: int) -> None:
    await break_it(comfyui, wrong_prompt_answer=answer)
    reply = await comfyui.post("/prompt", {"prompt": comfyui.picture()})
    assert reply.status == status
    with pytest.raises(ValueError, match=r"."):
        _ = reply.json
    assert (await comfyui.get("/prompt")).json["exec_info"]["queue_remaining"] == 0
    await break_it(comfyui, wrong_answer=answer)
    assert (await comfyui.get("/system_stats")).status == status


async def test_a_lost_answer_hides_that_the_prompt_runs(comfyui: Comfy) -> None:
    await break_it(comfyui, wrong_prompt_answer="lost")
    reply = await comfyui.post("/prompt", {"prompt": comfyui.picture(), "prompt_id": "known"})
    assert reply.status == 500
    assert (await error_of(comfyui, "known"))[0] == "execution_success"


async def test_connections_are_refused_for_a_while_and_the_run_goes_on(comfyui: Comfy) -> None:
    prompt_id = await comfyui.submit(comfyui.slow(steps=10, ms=5))
    await comfyui.running(prompt_id)
    async with comfyui.socket(comfyui.prefix) as socket:
        await break_it(comfyui, refuse_seconds=0.2)
        await socket.until(lambda each: each.closed_by_peer, "cut connection")
    with pytest.raises(GONE):
        await comfyui.get("/prompt")

    async def answers() -> bool:
        try:
            return (await comfyui.get("/prompt")).status == 200
        except GONE:
            return False

    await wait_until(answers, "connections are taken again")
    assert (await comfyui.entry(prompt_id))["status"]["status_str"] == "success"


async def test_a_lost_output_is_named_but_missing(comfyui: Comfy) -> None:
    await break_it(comfyui, lose_output=1)
    names = []
    for tag in ("-a", "-b"):
        entry = await comfyui.entry(await comfyui.submit(comfyui.picture(tag)))
        names.append(entry["outputs"]["2"]["images"][0]["filename"])
    assert [(await comfyui.get(f"/view?filename={name}")).status for name in names] == [404, 200]


async def test_a_kept_cache_answers_from_long_ago(comfyui: Comfy) -> None:
    await break_it(comfyui, keep_cache=True)
    entries = [await comfyui.entry(await comfyui.submit(comfyui.picture(tag))) for tag in ("-a", "-b", "-a")]
    assert entries[2]["outputs"] == entries[0]["outputs"]


async def test_the_history_can_lag_behind_the_success(comfyui: Comfy) -> None:
    await break_it(comfyui, history_delay=0.1)
    async with comfyui.socket(comfyui.prefix) as socket:
        prompt_id = await comfyui.submit(comfyui.picture(), client_id=comfyui.prefix)
        await socket.first("execution_success")
        assert (await comfyui.get(f"/history/{prompt_id}")).json == {}
        assert (await comfyui.queue())[0] == [prompt_id]
        await socket.ended(prompt_id)
        assert prompt_id in (await comfyui.get(f"/history/{prompt_id}")).json


async def test_statistics_tell_when_each_prompt_ran(comfyui: Comfy) -> None:
    ids = [await comfyui.submit(comfyui.picture(tag)) for tag in ("-a", "-a", "-b")]
    for prompt_id in ids:
        await comfyui.entry(prompt_id)
    stats = (await comfyui.get("/simulator/stats")).json
    assert (stats["accepted"], stats["run"], [each["prompt_id"] for each in stats["prompts"]]) == (3, 3, ids)
    assert [each["run_nodes"] for each in stats["prompts"]] == [2, 0, 2]
    for each in stats["prompts"]:
        assert each["accepted_at"] <= each["started_at"] <= each["ended_at"]
        assert each["accepted_wall"] <= each["started_wall"] <= each["ended_wall"]
