"""Prompts that fail, run too long or are canceled: told readably, tried again where that helps, nobody else harmed."""

import asyncio
from collections.abc import AsyncIterator

import msgspec
import pytest
from redis.asyncio import Redis

from comfy_shared.models import Status, Task
from comfy_shared.queue import Queue
from comfy_shared.registry import Registry
from comfy_shared.settings import SharedSettings
from test.integration.agent_support import Crew, crew_of, endless, on_gpu, picture, ran, slow, with_node
from test.simulator import Options, Simulator
from test.support.waiting import wait_until


@pytest.fixture
async def simulator() -> AsyncIterator[Simulator]:
    async with Simulator(Options()) as simulator:
        yield simulator


@pytest.fixture
async def crew(settings: SharedSettings, redis: Redis, queue: Queue, registry: Registry) -> AsyncIterator[Crew]:
    async with crew_of(settings, redis, queue, registry) as crew:
        yield crew


def told(task: Task) -> str:
    """Everything that a client gets to see of an error."""
    assert task.error is not None
    return msgspec.json.encode(task.error).decode()


async def test_a_failing_node_is_named_and_nothing_of_the_server_is_shown(crew: Crew, simulator: Simulator) -> None:
    crew.start(simulator)
    task = await crew.failed(with_node("Fail", message="no such style"))
    assert task.error is not None
    assert (task.error.code, task.error.node, task.error.node_class) == ("node_failed", "3", "Fail")
    assert task.error.message == "Node 3 (Fail) failed: ValueError: no such style"
    assert task.attempt == 1
    for secret in ("Traceback", ".py", "tensor", str(simulator.folders.output)):
        assert secret not in told(task)
    await crew.completed(picture())


async def test_a_prompt_that_comfyui_refuses_fails_with_its_own_words(crew: Crew, simulator: Simulator) -> None:
    crew.start(simulator)
    prompt = picture()
    prompt["1"]["inputs"]["width"] = 0
    task = await crew.failed(prompt)
    assert task.error is not None
    assert (task.error.code, task.attempt) == ("prompt_rejected", 1)
    assert "node 1: Value 0 smaller than min of 1: width" in task.error.message
    assert ran(simulator) == []


async def test_a_prompt_of_which_a_part_is_invalid_is_not_half_run(crew: Crew, simulator: Simulator) -> None:
    """ComfyUI accepts it, leaves the bad branch out and reports success."""
    crew.start(simulator)
    prompt = slow(steps=200)
    prompt["5"] = {"class_type": "EmptyImage", "inputs": {"width": 0, "height": 8, "batch_size": 1, "color": 1}}
    prompt["6"] = {"class_type": "SaveImage", "inputs": {"images": ["5", 0], "filename_prefix": "bad"}}
    task = await crew.failed(prompt)
    assert task.error is not None
    assert task.error.code == "prompt_rejected"
    await wait_until(lambda: not on_gpu(simulator), "the rest of it left the GPU")
    assert list(simulator.folders.output.rglob("*.png")) == []


async def test_after_out_of_memory_the_instance_is_emptied_and_the_task_tried_again(
    crew: Crew, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    simulator.set_faults(out_of_memory=1)
    emptied: list[int] = []
    monkeypatch.setattr(simulator.instance.executor, "forget", lambda: emptied.append(len(ran(simulator))))
    crew.start(simulator)
    task = await crew.completed(slow(steps=3))
    assert (task.attempt, task.error) == (2, None)
    assert emptied == [1]  # between the two


async def test_memory_that_never_suffices_fails_the_task_after_its_attempts(crew: Crew, simulator: Simulator) -> None:
    crew.start(simulator)
    task = await crew.failed(with_node("LabOutOfMemory"), max_attempts=2)
    assert task.error is not None
    assert (task.error.code, task.attempt, task.error.node) == ("out_of_memory", 2, "3")
    assert len(ran(simulator)) == 2


async def test_a_running_task_is_canceled_and_its_neighbour_untouched(crew: Crew, simulator: Simulator) -> None:
    crew.start(simulator)
    async with Simulator(Options()) as other:
        crew.start(other, "gpu-2")
        tasks = [await crew.submit(endless()), await crew.submit(slow(steps=60))]
        long, short = [await crew.steps(each) for each in tasks]
        neighbour = other if long.prompt_id in on_gpu(simulator) else simulator
        victim = simulator if neighbour is other else other
        began = asyncio.get_running_loop().time()
        await crew.queue.cancel(long.id)
        await wait_until(lambda: not on_gpu(victim), "the GPU is free", 2)
        assert asyncio.get_running_loop().time() - began < 2
        assert on_gpu(neighbour) == [short.prompt_id]
        done = await crew.wait_status(short.id, Status.COMPLETED)
        assert (done.attempt, ran(neighbour)) == (1, [short.prompt_id])
        assert (await crew.words(long.id))[-1] == "canceled"
        assert (await crew.queue.get(long.id)).outputs == ()


async def test_after_a_cancel_the_agent_takes_the_next_task(crew: Crew, simulator: Simulator) -> None:
    crew.start(simulator)
    first, second = await crew.submit(endless()), await crew.submit(picture())
    await crew.steps(first)
    await crew.queue.cancel(first)
    await crew.wait_status(second, Status.COMPLETED)


async def test_a_cancel_that_is_not_heard_is_found_out_with_the_lease(
    crew: Crew, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = crew.start(simulator)
    monkeypatch.setattr(running.agent, "_on_message", lambda _: None)
    task = await crew.steps(await crew.submit(endless()))
    await crew.queue.cancel(task.id)
    await wait_until(lambda: not on_gpu(simulator), "the GPU is free", running.settings.lease_seconds)


async def test_a_canceled_pending_task_never_reaches_an_instance(crew: Crew, simulator: Simulator) -> None:
    crew.start(simulator)
    first, second = await crew.submit(slow(steps=20)), await crew.submit(picture())
    await crew.steps(first)
    await crew.queue.cancel(second)
    task = await crew.wait_status(first, Status.COMPLETED)
    assert ran(simulator) == [task.prompt_id]
    assert await crew.words(second) == ["queued", "canceled"]


async def test_a_task_that_runs_too_long_is_interrupted_tried_again_and_failed(
    crew: Crew, simulator: Simulator
) -> None:
    crew.start(simulator)
    task = await crew.failed(endless(), timeout=0.5)
    assert task.error is not None
    assert (task.error.code, task.attempt) == ("timeout", 2)
    assert task.error.message == "The task ran longer than its limit of 0.5 s."
    await wait_until(lambda: len(ran(simulator)) == 2, "both were interrupted")
    ends = {run["last_message"] for run in simulator.statistics()["prompts"]}
    assert ends == {"execution_interrupted"}


async def test_a_task_interrupted_by_somebody_else_is_tried_again(crew: Crew, simulator: Simulator) -> None:
    """POST /interrupt without an id stops anybody's prompt."""
    crew.start(simulator)
    task = await crew.steps(await crew.submit(slow(steps=25)))
    simulator.instance.machine.interrupt_requested = True
    done = await crew.wait_status(task.id, Status.COMPLETED)
    assert done.attempt == 2


async def test_a_damaged_task_fails_and_the_agent_goes_on(crew: Crew, simulator: Simulator) -> None:
    task_id = await crew.submit(picture())
    await crew.redis.hset(crew.queue.keys.task(task_id), "labels", b"\xff no JSON")
    crew.start(simulator)

    async def failed() -> bool:
        return await crew.redis.hget(crew.queue.keys.task(task_id), "status") == b"failed"

    await wait_until(failed, "the damaged task failed")
    problem = await crew.redis.hget(crew.queue.keys.task(task_id), "error")
    assert b'"code":"damaged"' in (problem or b"")
    await crew.completed(picture())


@pytest.mark.parametrize("prompt", [b"j{", b"j[]", b"?", b"z broken", b'j{"1": {"inputs": null}}', b'j{"1": {}}'])
async def test_a_damaged_prompt_fails_and_the_agent_goes_on(crew: Crew, simulator: Simulator, prompt: bytes) -> None:
    task_id = await crew.submit(picture())
    await crew.redis.hset(crew.queue.keys.task(task_id), "prompt", prompt)
    running = crew.start(simulator)
    task = await crew.wait_status(task_id, Status.FAILED)
    assert task.error is not None
    assert task.error.code in ("damaged", "prompt_rejected")
    await crew.completed(picture())
    assert running.deaths == []
