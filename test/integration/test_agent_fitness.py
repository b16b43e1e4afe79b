"""An instance that answers and yet must not be given tasks: the circuit breaker and the memory guard."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis
from structlog.testing import capture_logs

from comfy_shared.models import Status
from comfy_shared.queue import Queue
from comfy_shared.registry import Registry
from comfy_shared.settings import SharedSettings
from test.integration.agent_support import Crew, crew_of, picture, ran, slow, with_node
from test.simulator import Options, Simulator
from test.support.waiting import wait_until

LEAK = 14.0  # GiB, of the 32 that the simulator pretends to have


@pytest.fixture
async def simulator() -> AsyncIterator[Simulator]:
    async with Simulator(Options()) as simulator:
        yield simulator


@pytest.fixture
async def crew(settings: SharedSettings, redis: Redis, queue: Queue, registry: Registry) -> AsyncIterator[Crew]:
    async with crew_of(settings, redis, queue, registry) as crew:
        yield crew


@pytest.mark.parametrize("fault", [{"out_of_memory": -1}, {"wrong_prompt_answer": "500"}])
async def test_an_instance_that_fails_everything_gets_nothing_until_a_probe_succeeds(
    crew: Crew, simulator: Simulator, fault: dict[str, object]
) -> None:
    crew.start(simulator, breaker_failures=3, breaker_seconds=0.2)
    await crew.wait_state("ready")
    simulator.set_faults(**fault)
    ids = [await crew.submit(picture(), max_attempts=10) for _ in range(5)]
    known = await crew.wait_state("waiting")
    assert "tasks fail here one after the other" in known.record.reason
    assert known.digest == "", "its offer is withdrawn"
    tasks = [await crew.queue.get(task_id) for task_id in ids]
    assert sum(task.attempt for task in tasks) <= 3 + 2, "two more were on their way when the third failed"
    simulator.set_faults(reset=True)
    for task_id in ids:
        await crew.wait_status(task_id, Status.COMPLETED)
    assert (await crew.known()).record.state == "ready"


async def test_while_the_breaker_is_open_the_other_agents_do_the_work(crew: Crew, simulator: Simulator) -> None:
    crew.start(simulator, breaker_failures=2, breaker_seconds=60)
    await crew.wait_state("ready")
    simulator.set_faults(wrong_prompt_answer="500")
    ids = [await crew.submit(picture(), max_attempts=10) for _ in range(4)]
    await crew.wait_state("waiting")
    async with Simulator(Options()) as other:
        crew.start(other, "gpu-2")
        for task_id in ids:
            assert (await crew.wait_status(task_id, Status.COMPLETED)).agent == "gpu-2"


async def test_a_client_whose_prompts_fail_takes_no_agent_out_of_service(crew: Crew, simulator: Simulator) -> None:
    crew.start(simulator, breaker_failures=2, breaker_seconds=60)
    with capture_logs() as logs:
        for _ in range(7):
            await crew.failed(with_node("Fail", message="as the client wants it"))
        await crew.completed(picture())
    assert any(entry.get("action") == "breaker.probe_succeeded" for entry in logs), "it looked, and all was well"
    assert not any(entry.get("action") == "breaker.open" for entry in logs)


async def test_an_instance_without_the_nodes_for_a_probe_is_tried_with_the_next_task(crew: Crew) -> None:
    async with Simulator(Options(missing_classes=("PreviewImage",))) as simulator:
        crew.start(simulator, breaker_failures=2, breaker_seconds=0.1)
        await crew.wait_state("ready")
        simulator.set_faults(wrong_prompt_answer="500")
        task_id = await crew.submit(picture(), max_attempts=20)
        await wait_until_attempt(crew, task_id, 3)
        simulator.set_faults(reset=True)
        await crew.wait_status(task_id, Status.COMPLETED)


async def wait_until_attempt(crew: Crew, task_id: str, number: int) -> None:
    async def reached() -> bool:
        return (await crew.queue.get(task_id)).attempt >= number

    await wait_until(reached, f"attempt {number}", 8)


async def test_a_stop_does_not_wait_for_an_open_breaker(crew: Crew, simulator: Simulator) -> None:
    agent = crew.start(simulator, breaker_failures=1, breaker_seconds=60)
    await crew.wait_state("ready")
    simulator.set_faults(wrong_prompt_answer="500")
    await crew.submit(picture(), max_attempts=10)
    await crew.wait_state("waiting")
    await asyncio.wait_for(agent.stop(), 5)


async def test_growth_beyond_the_limit_is_told_and_the_agent_works_on(crew: Crew, simulator: Simulator) -> None:
    crew.start(simulator, memory_growth_limit=0.25)
    await crew.wait_state("ready")
    await crew.completed(picture())
    simulator.set_faults(leak_gib=LEAK)

    async def told() -> bool:
        return "14 GiB more memory" in (await crew.known()).record.reason

    await wait_until(told, "the growth is told", 5)
    assert (await crew.known()).record.state == "ready"
    await crew.completed(picture())


async def test_an_agent_may_drain_itself_until_its_instance_was_restarted(crew: Crew, simulator: Simulator) -> None:
    crew.start(simulator, memory_growth_limit=0.25, memory_guard="drain")
    await crew.wait_state("ready")
    held = await crew.steps(await crew.submit(slow(steps=40)))
    simulator.set_faults(leak_gib=LEAK)
    known = await crew.wait_state("draining")
    assert "ComfyUI should be restarted" in known.record.reason
    assert not known.draining, "nobody told it to"
    waits = await crew.submit(picture())
    await crew.wait_status(held.id, Status.COMPLETED)
    await wait_until(lambda: simulator.instance.freed == 1, "it freed what can be freed, once", 5)
    assert (await crew.queue.get(waits)).status is Status.PENDING
    assert len(ran(simulator)) == 1
    simulator.set_faults(leak_gib=0)
    await crew.wait_status(waits, Status.COMPLETED)
    assert (await crew.known()).record.state == "ready"
