"""The instance crashes, hangs, goes silent or is not there: noticed quickly, and no prompt is rendered twice for it."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis

from comfy_shared.models import Status
from comfy_shared.queue import Queue
from comfy_shared.registry import Registry
from comfy_shared.settings import SharedSettings
from test.cluster import free_port
from test.integration.agent_support import Crew, crew_of, endless, on_gpu, picture, ran, slow
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


async def test_an_absent_instance_is_waited_for_with_a_reason(crew: Crew) -> None:
    port = free_port()
    crew.start(f"http://127.0.0.1:{port}")
    agent = await crew.wait_state("waiting")

    async def has_reason() -> bool:
        return "does not answer GET /system_stats" in (await crew.known()).record.reason

    await wait_until(has_reason, "the reason is told")
    assert agent.digest == ""
    task_id = await crew.submit(picture())
    async with Simulator(Options(port=port)):
        await crew.wait_state("ready")
        await crew.wait_status(task_id, Status.COMPLETED)


@pytest.mark.parametrize("wrong", ["500", "garbage"])
async def test_what_answers_wrongly_is_waited_for_too(crew: Crew, simulator: Simulator, wrong: str) -> None:
    simulator.set_faults(wrong_answer=wrong)
    running = crew.start(simulator)

    async def has_reason() -> bool:
        return "ComfyUI answered GET /system_stats" in (await crew.known()).record.reason

    await crew.wait_state("waiting")
    await wait_until(has_reason, "the reason is told")
    simulator.set_faults(reset=True)
    await crew.completed(picture())
    assert running.deaths == []


async def test_a_crash_is_noticed_at_once_and_the_task_goes_back(crew: Crew, simulator: Simulator) -> None:
    crew.start(simulator)
    task = await crew.steps(await crew.submit(endless()))
    began = asyncio.get_running_loop().time()
    await simulator.stop()
    waiting = await crew.wait_state("waiting", timeout=2)
    await crew.wait_status(task.id, Status.PENDING, timeout=3)
    assert asyncio.get_running_loop().time() - began < 3
    assert waiting.digest == ""  # what it offered counts no more
    assert (await crew.queue.get(task.id)).attempt == 1
    await simulator.start()
    await crew.wait_state("ready")
    again = await crew.steps(task.id, attempt=2)
    assert on_gpu(simulator) == [again.prompt_id]
    await crew.queue.cancel(task.id)


async def test_a_restart_between_two_looks_is_found_out(crew: Crew, simulator: Simulator) -> None:
    """The instance is back at once, but knows nothing of the prompt."""
    crew.start(simulator)
    task = await crew.steps(await crew.submit(slow(steps=40)))
    await simulator.stop()
    await simulator.start()
    done = await crew.wait_status(task.id, Status.COMPLETED)
    assert done.attempt == 2
    assert ran(simulator) == [done.prompt_id]


async def test_another_agent_takes_what_a_crash_left(crew: Crew, simulator: Simulator) -> None:
    crew.start(simulator)
    task = await crew.steps(await crew.submit(slow(steps=40)))
    async with Simulator(Options()) as other:
        crew.start(other, "gpu-2")
        await crew.wait_state("ready", "gpu-2")
        await simulator.stop()
        done = await crew.wait_status(task.id, Status.COMPLETED)
        assert (done.agent, done.attempt, ran(other)) == ("gpu-2", 2, [done.prompt_id])


async def test_a_task_that_took_down_two_instances_is_not_given_to_a_third(crew: Crew, simulator: Simulator) -> None:
    crew.start(simulator)
    task_id = await crew.submit(endless())
    for attempt in (1, 2):
        await crew.steps(task_id, attempt=attempt)
        await simulator.stop()
        await crew.wait_state("waiting")
        await simulator.start()
    task = await crew.wait_status(task_id, Status.FAILED)
    assert task.error is not None
    assert (task.error.code, task.attempt) == ("instance_lost", 2)
    await crew.completed(picture())


async def test_a_silent_socket_costs_no_second_render(crew: Crew, simulator: Simulator) -> None:
    simulator.set_faults(silent_websocket=True)
    crew.start(simulator)
    task = await crew.completed(slow(steps=20))
    assert (task.attempt, ran(simulator)) == (1, [task.prompt_id])
    assert (await crew.words(task.id)).count("completed") == 1


async def test_a_socket_that_falls_silent_in_the_middle_costs_no_second_render(
    crew: Crew, simulator: Simulator
) -> None:
    crew.start(simulator)
    task = await crew.steps(await crew.submit(slow(steps=25)))
    simulator.set_faults(silent_websocket=True)
    done = await crew.wait_status(task.id, Status.COMPLETED)
    assert (done.attempt, ran(simulator)) == (1, [done.prompt_id])


async def test_a_dropped_socket_is_opened_again_and_progress_goes_on(crew: Crew, simulator: Simulator) -> None:
    crew.start(simulator)
    task = await crew.steps(await crew.submit(slow(steps=60)))
    simulator.set_faults(drop_websockets=True)

    async def further() -> bool:
        progress = (await crew.queue.get(task.id)).progress
        return progress is not None and progress.value > 40

    await wait_until(further, "progress goes on after the drop")
    done = await crew.wait_status(task.id, Status.COMPLETED)
    assert (done.attempt, ran(simulator)) == (1, [done.prompt_id])


async def test_without_any_socket_prompts_still_complete(crew: Crew, simulator: Simulator) -> None:
    simulator.set_faults(refuse_websockets=True)
    crew.start(simulator)
    task = await crew.completed(picture())
    assert (task.attempt, len(ran(simulator))) == (1, 1)


async def test_connections_refused_for_a_moment_cost_no_second_render(crew: Crew, simulator: Simulator) -> None:
    crew.start(simulator)
    task = await crew.steps(await crew.submit(slow(steps=40)))
    simulator.set_faults(refuse_seconds=0.2)
    done = await crew.wait_status(task.id, Status.COMPLETED)
    assert (done.attempt, ran(simulator)) == (1, [done.prompt_id])


@pytest.mark.parametrize("answer", ["500", "garbage"])
async def test_a_prompt_that_was_not_taken_is_sent_again(crew: Crew, simulator: Simulator, answer: str) -> None:
    simulator.set_faults(wrong_prompt_answer=answer)
    crew.start(simulator)
    task_id = await crew.submit(picture())
    await crew.wait_event(task_id, "retrying")
    simulator.set_faults(reset=True)
    task = await crew.wait_status(task_id, Status.COMPLETED)
    assert (task.attempt > 1, ran(simulator)) == (True, [task.prompt_id])


async def test_a_prompt_whose_answer_got_lost_is_not_sent_twice(crew: Crew, simulator: Simulator) -> None:
    """It was stopped and rendered once more."""
    simulator.set_faults(wrong_prompt_answer="lost")
    crew.start(simulator)
    task = await crew.completed(slow(steps=20))
    assert (task.attempt, ran(simulator)) == (1, [task.prompt_id])


async def test_a_prompt_deleted_on_the_instance_is_noticed(crew: Crew, simulator: Simulator) -> None:
    """A deleted prompt leaves no event and no history. The status frames of other prompts, which go to every socket,
    counted as a sign of life of ours."""
    blocker = (-1.0, "somebody-else", slow(steps=25), {"client_id": "editor"}, ["2"])
    simulator.instance.accept(blocker)
    crew.start(simulator)
    task_id = await crew.submit(picture())
    await wait_until(lambda: bool(simulator.instance.queue.pending), "the prompt waits")
    first = (await crew.queue.get(task_id)).prompt_id
    simulator.instance.queue.delete(first)
    done = await crew.wait_status(task_id, Status.COMPLETED)
    assert (done.attempt, first in ran(simulator)) == (2, False)


async def test_a_run_that_hangs_goes_to_another_agent_and_its_instance_gets_nothing_more(
    crew: Crew, simulator: Simulator
) -> None:
    crew.start(simulator)
    task_id = await crew.submit(slow(steps=30), timeout=1.0)
    first = await crew.steps(task_id)
    simulator.set_faults(hang=True)
    waiting = await crew.wait_status(task_id, Status.PENDING, timeout=3)
    assert waiting.error is not None
    assert waiting.error.code == "timeout"
    async with Simulator(Options()) as other:
        crew.start(other, "gpu-2")
        done = await crew.wait_status(task_id, Status.COMPLETED)
        assert (done.agent, done.attempt, ran(other)) == ("gpu-2", 2, [done.prompt_id])
        await crew.completed(picture())
        assert (simulator.instance.accepted, on_gpu(simulator)) == (1, [first.prompt_id])
    simulator.set_faults(hang=False)
    await wait_until(lambda: ran(simulator) == [first.prompt_id], "the hanging prompt was stopped")


async def test_a_hanging_http_side_does_not_delay_the_timeout(crew: Crew, simulator: Simulator) -> None:
    """The order to stop was waited for as long as an answer may take, and the task with it."""
    crew.start(simulator, patience_seconds=20)
    task_id = await crew.submit(endless(), timeout=0.8)
    await crew.steps(task_id)
    simulator.set_faults(hang_http=True)
    waiting = await crew.wait_status(task_id, Status.PENDING, timeout=4)
    assert waiting.error is not None
    assert waiting.error.code == "timeout"
    simulator.set_faults(hang_http=False)
    await crew.queue.cancel(task_id)
    await wait_until(lambda: not on_gpu(simulator), "the prompt was stopped after all")
