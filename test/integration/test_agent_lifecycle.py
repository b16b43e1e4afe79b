"""Agents stop, drain, die, come back and are replaced; leases and Redis get lost: each task completes once."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import redis as redis_package
from redis.asyncio import Redis
from structlog.testing import capture_logs

from comfy_service.settings import ServiceSettings
from comfy_shared.claims import Attempt, ClaimReply
from comfy_shared.errors import Unavailable
from comfy_shared.files import FileStore, Stored
from comfy_shared.keys import Keys
from comfy_shared.models import Status
from comfy_shared.queue import Queue
from comfy_shared.registry import Registry
from comfy_shared.settings import SharedSettings
from comfy_shared.store import connect
from test.integration.agent_support import Crew, crew_of, endless, on_gpu, picture, ran, slow
from test.simulator import Options, Simulator
from test.support.agents import Hand, advance
from test.support.leaks import delete_namespace
from test.support.redis_server import RedisServer
from test.support.settings import settings_for
from test.support.waiting import wait_until

AGENT = """
import asyncio, sys
import msgspec
from comfy_service.agent import Agent
from comfy_shared.files import open_store
from comfy_shared.keys import Keys
from comfy_shared.queue import Queue
from comfy_shared.registry import Registry
from comfy_shared.store import connect
from test.unit.service.support import service_settings

async def main():
    settings = service_settings(**msgspec.json.decode(sys.argv[1]))
    redis, keys = connect(settings), Keys(settings.redis_namespace)
    registry = Registry(redis, keys, heartbeat_ttl=settings.heartbeat_ttl, retention=60)
    agent = Agent(settings, redis, Queue(redis, keys, settings), registry, open_store(settings))
    await agent.run(asyncio.Event(), sys.exit)

asyncio.run(main())
"""


@pytest.fixture
async def simulator() -> AsyncIterator[Simulator]:
    async with Simulator(Options()) as simulator:
        yield simulator


@pytest.fixture
async def crew(settings: SharedSettings, redis: Redis, queue: Queue, registry: Registry) -> AsyncIterator[Crew]:
    async with crew_of(settings, redis, queue, registry) as crew:
        yield crew


Spawn = Callable[[ServiceSettings], "subprocess.Popen[bytes]"]


@pytest.fixture
def spawn() -> Iterator[Spawn]:
    """Runs an agent in a process of its own, which can be killed."""
    children: list[subprocess.Popen[bytes]] = []

    def start(settings: ServiceSettings) -> "subprocess.Popen[bytes]":
        given = msgspec.json.encode(settings.model_dump(mode="json", exclude_defaults=True)).decode()
        root = Path(__file__).parents[2]
        child = subprocess.Popen([sys.executable, "-c", AGENT, given], cwd=root, stdout=subprocess.DEVNULL)
        children.append(child)
        return child

    yield start
    for child in children:
        child.kill()
        child.wait(10)


async def test_an_agent_that_stops_gives_its_task_back_and_another_finishes_it(
    crew: Crew, simulator: Simulator
) -> None:
    stopping = crew.start(simulator)
    task = await crew.steps(await crew.submit(slow(steps=60)))
    await stopping.stop()
    released = await crew.queue.get(task.id)
    assert (released.status, released.max_attempts - released.attempt) == (Status.PENDING, task.max_attempts)
    assert await crew.registry.agents() == []
    assert (on_gpu(simulator), stopping.deaths) == ([], [])
    crew.start(simulator, "gpu-2")
    done = await crew.wait_status(task.id, Status.COMPLETED)
    assert done.agent == "gpu-2"
    words = await crew.words(task.id)
    assert words.index("released") < words.index("completed")


async def test_a_task_that_ends_within_the_grace_period_is_finished_by_the_agent_that_stops(
    crew: Crew, simulator: Simulator
) -> None:
    stopping = crew.start(simulator, grace_seconds=5)
    task = await crew.steps(await crew.submit(slow(steps=20)))
    waiting = await crew.submit(picture())
    await stopping.stop()
    assert (await crew.queue.get(task.id)).status is Status.COMPLETED
    assert (await crew.queue.get(waiting)).status is Status.PENDING  # nothing new was claimed


async def test_a_stop_does_not_wait_for_an_instance_that_hangs(
    crew: Crew, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run went on behind the end of the agent, and died there of a closed client, as a bug."""
    monkeypatch.setattr("comfy_service.agent.SETTLE_SECONDS", 0.5)
    stopping = crew.start(simulator)
    task = await crew.steps(await crew.submit(endless()))
    simulator.set_faults(hang=True)
    with capture_logs() as logs:
        await stopping.stop()
        left = [each for each in asyncio.all_tasks() if each.get_name().startswith("task ")]
    assert left == []
    assert (await crew.queue.get(task.id)).status is Status.PENDING
    assert [line for line in logs if line["log_level"] in ("error", "critical")] == []


async def test_a_drained_agent_finishes_what_it_has_and_claims_again_when_resumed(
    crew: Crew, simulator: Simulator
) -> None:
    crew.start(simulator)
    first = await crew.steps(await crew.submit(slow(steps=20)))
    await crew.registry.drain("gpu-1", on=True)
    second = await crew.submit(picture())
    await crew.wait_status(first.id, Status.COMPLETED)
    assert (await crew.known()).draining
    assert (await crew.queue.get(second)).status is Status.PENDING
    await crew.registry.drain("gpu-1", on=False)
    await crew.wait_status(second, Status.COMPLETED)


async def test_a_killed_agent_that_comes_back_adopts_its_running_prompt(
    crew: Crew, simulator: Simulator, spawn: Spawn
) -> None:
    child = spawn(crew.settings_of(simulator.url, "gpu-1"))
    task = await crew.steps(await crew.submit(slow(steps=60, ms=30)))
    os.kill(child.pid, signal.SIGKILL)
    crew.start(simulator)
    done = await crew.wait_status(task.id, Status.COMPLETED)
    assert (done.attempt, ran(simulator)) == (1, [task.prompt_id])
    words = await crew.words(task.id)
    assert words[words.index("adopted") :][:2] == ["adopted", "progress"]


async def test_a_prompt_that_ended_while_nobody_watched_is_collected(
    crew: Crew, simulator: Simulator, spawn: Spawn
) -> None:
    child = spawn(crew.settings_of(simulator.url, "gpu-1"))
    task = await crew.steps(await crew.submit(slow(steps=20)))
    os.kill(child.pid, signal.SIGKILL)
    await wait_until(lambda: ran(simulator) == [task.prompt_id], "the prompt ended")
    crew.start(simulator)
    done = await crew.wait_status(task.id, Status.COMPLETED)
    assert (done.attempt, ran(simulator), len(done.outputs)) == (1, [task.prompt_id], 1)


async def test_what_an_earlier_process_left_on_the_instance_is_stopped(crew: Crew, simulator: Simulator) -> None:
    """Its task is somebody else's by now; the GPU must not be blocked for it."""
    simulator.instance.accept((-1.0, "left-behind", endless(), {"comfy_agent": "gpu-1"}, ["2"]))
    simulator.instance.accept((0.0, "also-left", endless(), {"comfy_agent": "gpu-1"}, ["2"]))
    await wait_until(lambda: on_gpu(simulator) == ["left-behind"], "it runs")
    crew.start(simulator)
    await crew.completed(picture())
    ends = {run["prompt_id"]: run["last_message"] for run in simulator.statistics()["prompts"]}
    assert ends.pop("left-behind") == "execution_interrupted"
    assert ends.pop("also-left", "deleted") in ("deleted", "execution_interrupted")  # in whichever order they went
    assert len(ends) == 1


class Stumbling(Queue):
    """Redis as it is at the worst moment: the first call of a method does its work, but its answer gets lost."""

    def __init__(self, redis: Redis, keys: Keys, settings: SharedSettings, stumble: str) -> None:
        super().__init__(redis, keys, settings)
        self.stumbles = {stumble}

    async def claim(self, *args: Any, **options: Any) -> ClaimReply:
        reply = await super().claim(*args, **options)
        if isinstance(reply, Attempt):
            self._stumble("claim")
        return reply

    async def held(self, agent: str) -> tuple[str, ...]:
        self._stumble("held")
        return await super().held(agent)

    def _stumble(self, method: str) -> None:
        if method in self.stumbles:
            self.stumbles.discard(method)
            raise Unavailable


def stumbling(crew: Crew, simulator: Simulator, method: str) -> Queue:
    return Stumbling(crew.redis, crew.queue.keys, crew.settings_of(simulator.url, "gpu-1"), method)


async def test_a_claim_whose_answer_got_lost_charges_no_attempt(crew: Crew, simulator: Simulator) -> None:
    """It was given up as an attempt that failed, though nothing had been tried."""
    crew.start(simulator, queue=stumbling(crew, simulator, "claim"))
    task = await crew.completed(picture())
    assert (task.attempt, len(ran(simulator))) == (1, 1)


async def test_a_redis_that_is_away_at_the_start_does_not_make_the_agent_forget_what_it_held(
    crew: Crew, simulator: Simulator, spawn: Spawn
) -> None:
    """It claimed new tasks at once and never looked again for those of its earlier process."""
    child = spawn(crew.settings_of(simulator.url, "gpu-1"))
    task = await crew.steps(await crew.submit(slow(steps=60)))
    os.kill(child.pid, signal.SIGKILL)
    crew.start(simulator, queue=stumbling(crew, simulator, "held"))
    done = await crew.wait_status(task.id, Status.COMPLETED)
    assert (done.attempt, ran(simulator)) == (1, [task.prompt_id])


async def sweep_after_the_lease(crew: Crew) -> None:
    """The clock of Redis jumps beyond every lease, as when an agent was frozen; a balancer sweeps."""
    await crew.queue.sweep()
    for _ in range(3):
        await advance(crew.redis, crew.queue.keys, 0.9)  # a longer pause would grant the holders more time
        await crew.queue.sweep()


async def test_an_agent_that_lost_its_lease_stops_its_prompt_and_says_nothing_more(
    crew: Crew, simulator: Simulator
) -> None:
    loser = crew.start(simulator)
    task = await crew.steps(await crew.submit(endless()))
    winner = Hand(crew.queue, crew.registry, "gpu-2")
    await winner.register()
    await sweep_after_the_lease(crew)
    attempt = await winner.take()
    assert (attempt.id, attempt.number) == (task.id, 2)
    await wait_until(lambda: not on_gpu(simulator), "its prompt is stopped", 2)
    await wait_until(lambda: not loser.agent._runs, "it is done with the task")
    taken = [event.attempt for event in await crew.story(task.id)].index(2)
    assert {event.attempt for event in (await crew.story(task.id))[taken:]} == {2}
    await crew.queue.complete(attempt, [])
    assert (await crew.queue.get(task.id)).agent == "gpu-2"


class HeldFirst(FileStore):
    """Stores the first attempt's outputs only when it may; tells when it is asked to."""

    def __init__(self, store: FileStore) -> None:
        super().__init__(store._store)
        self.may = {"1": asyncio.Event(), "2": asyncio.Event()}
        self.asked: list[str] = []

    async def put(self, key: str, data: bytes | AsyncIterator[bytes]) -> Stored:
        attempt = key.split("/")[2]
        self.asked.append(attempt)
        await self.may[attempt].wait()
        return await super().put(key, data)


async def test_a_late_first_attempt_does_not_take_the_second_ones_lease(crew: Crew, simulator: Simulator) -> None:
    """Both at the same agent: the end of the first removed the second from the agent's books, so that its lease was
    renewed no more."""
    held = crew.store = HeldFirst(crew.store)
    crew.start(simulator)
    task_id = await crew.submit(picture())
    await wait_until(lambda: held.asked == ["1"], "the first attempt stores")
    await sweep_after_the_lease(crew)
    await wait_until(lambda: held.asked == ["1", "2"], "the second attempt stores")
    held.may["1"].set()

    async def discarded() -> bool:
        return not await crew.store.exists(f"outputs/{task_id}/1/agent_00001_.png")

    await wait_until(discarded, "the first attempt's output is discarded")
    lease = await crew.redis.zscore(crew.queue.keys.leases, task_id)
    for _ in range(2):

        async def prolonged(before: float | None = lease) -> bool:
            now = await crew.redis.zscore(crew.queue.keys.leases, task_id)
            return now is not None and before is not None and now > before

        await wait_until(prolonged, "the second attempt's lease is renewed")
        lease = await crew.redis.zscore(crew.queue.keys.leases, task_id)
    held.may["2"].set()
    task = await crew.wait_status(task_id, Status.COMPLETED)
    assert (task.attempt, task.outputs[0].key.split("/")[2]) == (2, "2")


async def test_of_two_processes_with_one_id_the_older_dies_loudly(crew: Crew, simulator: Simulator) -> None:
    older = crew.start(simulator)
    await crew.wait_state("ready")
    with capture_logs() as logs:
        newer = crew.start(simulator)
        await wait_until(lambda: older.ended, "the older one ends")
    assert older.deaths != []
    assert newer.deaths == []
    assert any(line["action"] == "loop.died" and line["log_level"] == "error" for line in logs)
    await crew.completed(picture())


@pytest.mark.parametrize("heartbeat", [0.2, 60])
async def test_a_prompt_that_a_newer_process_adopted_is_not_stopped_by_the_older_one(
    crew: Crew, simulator: Simulator, heartbeat: float
) -> None:
    """The older one, told by its heartbeat or by its lease, interrupted the prompt: that cost an attempt and a second
    render."""
    older = crew.start(simulator, heartbeat_seconds=heartbeat)
    task = await crew.steps(await crew.submit(slow(steps=100)))
    crew.start(simulator)
    await wait_until(lambda: not older.agent._runs, "the older one lets go of the task")
    done = await crew.wait_status(task.id, Status.COMPLETED)
    assert (done.attempt, ran(simulator)) == (1, [task.prompt_id])


async def test_an_agent_comes_back_by_itself_after_redis_forgot_everything(
    crew: Crew, simulator: Simulator, settings: SharedSettings
) -> None:
    running = crew.start(simulator)
    await crew.wait_state("ready")
    with redis_package.Redis(port=settings.redis_port) as client:
        delete_namespace(client, crew.queue.keys)
    await crew.wait_state("ready")
    await crew.completed(picture())
    assert running.deaths == []


@contextlib.asynccontextmanager
async def crew_on(server: RedisServer, folder: Path) -> AsyncIterator[Crew]:
    """A crew on a Redis of its own."""
    settings = settings_for(server.port, "own", folder / "files", redis_timeout=0.5)
    redis, keys = connect(settings), Keys("own")
    queue, registry = Queue(redis, keys, settings), Registry(redis, keys, heartbeat_ttl=15, retention=60)
    async with crew_of(settings, redis, queue, registry) as crew:
        yield crew
    await redis.aclose()


@pytest.mark.parametrize("fault", ["killed", "frozen"])
async def test_a_redis_that_is_away_while_a_task_runs_costs_no_second_render(
    own_redis: RedisServer, simulator: Simulator, tmp_path: Path, fault: str
) -> None:
    async with crew_on(own_redis, tmp_path) as crew:
        running = crew.start(simulator, lease_seconds=10)
        task = await crew.steps(await crew.submit(slow(steps=25)))
        if fault == "killed":
            own_redis.kill()
        else:
            own_redis.freeze()
        await wait_until(lambda: ran(simulator) == [task.prompt_id], "the prompt ended meanwhile")
        if fault == "killed":
            own_redis.start()
        else:
            own_redis.thaw()
        done = await crew.wait_status(task.id, Status.COMPLETED)
        assert (done.attempt, ran(simulator)) == (1, [task.prompt_id])
        assert (await crew.words(task.id)).count("completed") == 1
        await crew.completed(picture())
        assert running.deaths == []


async def test_a_redis_that_stays_away_makes_the_agent_stop_its_prompt_before_the_lease_ends(
    own_redis: RedisServer, simulator: Simulator, tmp_path: Path
) -> None:
    async with crew_on(own_redis, tmp_path) as crew:
        running = crew.start(simulator, lease_seconds=3)
        task = await crew.steps(await crew.submit(endless()))
        own_redis.freeze()
        await wait_until(lambda: not on_gpu(simulator), "the prompt is stopped", running.settings.lease_seconds)
        own_redis.thaw()
        assert (await crew.queue.get(task.id)).attempt == 1
        await crew.queue.cancel(task.id)
