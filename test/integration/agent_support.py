"""Real agents in the test's own process, on a simulated ComfyUI and a real Redis, with short times."""

import asyncio
import hashlib
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
from redis.asyncio import Redis

from comfy_service.agent import Agent
from comfy_service.settings import ServiceSettings
from comfy_shared.events import EventHub
from comfy_shared.files import FileStore, input_key, open_store
from comfy_shared.models import Event, InputFile, NewTask, Prompt, Status, Task
from comfy_shared.needs import lane_of, needs_of
from comfy_shared.queue import Queue
from comfy_shared.registry import Agent as Known
from comfy_shared.registry import Registry
from comfy_shared.settings import SharedSettings
from test.simulator import Simulator
from test.support.waiting import wait_until
from test.unit.service.support import service_settings

_numbers = itertools.count(1)


def picture(*, color: int | None = None, prefix: str = "agent") -> Prompt:
    """A plain picture; another one at each call unless `color` is given."""
    inputs = {"width": 16, "height": 16, "batch_size": 1, "color": next(_numbers) if color is None else color}
    return {
        "1": {"class_type": "EmptyImage", "inputs": inputs},
        "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": prefix}},
    }


def with_node(class_type: str, **inputs: Any) -> Prompt:
    """A picture that goes through a node of that class before it is saved."""
    prompt = picture()
    prompt["3"] = {"class_type": class_type, "inputs": {"image": ["1", 0], **inputs}}
    prompt["2"]["inputs"]["images"] = ["3", 0]
    return prompt


def slow(*, steps: int = 10, ms: float = 20) -> Prompt:
    """A picture that takes `steps` times `ms` milliseconds and tells its progress."""
    return with_node("SlowProgress", steps=steps, ms_per_step=ms, tag=f"{next(_numbers)}")


def endless() -> Prompt:
    """20 seconds: nobody waits for its end."""
    return slow(steps=1000)


class Running:
    """One agent that works."""

    def __init__(self, agent: Agent, settings: ServiceSettings) -> None:
        self.agent = agent
        self.settings = settings
        self.deaths: list[str] = []
        self._stop = asyncio.Event()
        self._work = asyncio.create_task(agent.run(self._stop, self._died), name=settings.agent)

    def _died(self, loop: str) -> None:
        self.deaths.append(loop)
        self._stop.set()

    @property
    def ended(self) -> bool:
        return self._work.done()

    async def stop(self) -> None:
        """Shuts it down in order."""
        self._stop.set()
        await self._work


class Crew:
    """Agents of one namespace, and what a balancer would do with them."""

    def __init__(self, settings: SharedSettings, redis: Redis, queue: Queue, registry: Registry) -> None:
        self.settings = settings
        self.redis = redis
        self.queue = queue
        self.registry = registry
        self.store: FileStore = open_store(settings)
        self._agents: list[Running] = []

    def settings_of(self, url: str, name: str, **changes: Any) -> ServiceSettings:
        values: dict[str, Any] = {
            **{name: getattr(self.settings, name) for name in ("redis_port", "redis_namespace", "file_store")},
            "comfyui_url": url,
            "agent_id": name,
            "workflows_folder": str(Path(__file__).parent / "no-workflows-here"),
            "lease_seconds": 2,
            "silence_seconds": 0.3,
            "heartbeat_seconds": 0.2,
            "heartbeat_ttl": 2,
            "grace_seconds": 0.5,
            "patience_seconds": 1,
            "recheck_seconds": 1,
        }
        return service_settings(**(values | changes))

    def start(
        self, instance: Simulator | str, name: str = "gpu-1", *, queue: Queue | None = None, **changes: Any
    ) -> Running:
        """Starts an agent; it is stopped with the crew."""
        url = instance if isinstance(instance, str) else instance.url
        settings = self.settings_of(url, name, **changes)
        queue = queue or self.queue_of(settings)
        running = Running(Agent(settings, self.redis, queue, self.registry, self.store), settings)
        self._agents.append(running)
        return running

    def queue_of(self, settings: ServiceSettings) -> Queue:
        return Queue(self.redis, self.queue.keys, settings)

    async def stop(self) -> None:
        """Stops every agent."""
        await asyncio.gather(*(agent.stop() for agent in self._agents if not agent.ended))

    async def known(self, name: str = "gpu-1") -> Known:
        """What the registry says of an agent."""
        return next(agent for agent in await self.registry.agents() if agent.record.id == name)

    async def wait_state(self, state: str, name: str = "gpu-1", *, timeout: float = 5) -> Known:
        """The agent as soon as it is registered in this state."""

        async def there() -> bool:
            return any(each.record.id == name and each.record.state == state for each in await self.registry.agents())

        await wait_until(there, f"{name} is {state}", timeout)
        return await self.known(name)

    async def submit(self, prompt: Prompt, **changes: Any) -> str:
        """Submits a prompt as a balancer would; its task id."""
        needs = needs_of(prompt, [])
        values: dict[str, Any] = {
            "id": f"task-{next(_numbers):06}",
            "owner": "ann",
            "prompt": msgspec.json.encode(prompt),
            "needs": needs,
            "lane": lane_of(needs),
            "timeout": 60.0,
        }
        task = NewTask(**(values | changes))
        await self.queue.submit([task], queue_limit=1000)
        return task.id

    async def wait_status(self, task_id: str, status: Status, *, timeout: float = 8) -> Task:
        """The task as soon as it has this status; fails when it ended otherwise."""
        task = await self.queue.get(task_id)

        async def reached() -> bool:
            nonlocal task
            task = await self.queue.get(task_id)
            assert task.status is status or not task.status.final, f"the task is {task.status}: {task.error}"
            return task.status is status

        await wait_until(reached, f"{task_id} is {status}", timeout)
        return task

    async def completed(self, prompt: Prompt, **changes: Any) -> Task:
        """Submits a prompt and waits until it is completed."""
        return await self.wait_status(await self.submit(prompt, **changes), Status.COMPLETED)

    async def failed(self, prompt: Prompt, **changes: Any) -> Task:
        """Submits a prompt and waits until it has failed."""
        return await self.wait_status(await self.submit(prompt, **changes), Status.FAILED)

    async def steps(self, task_id: str, *, attempt: int = 1) -> Task:
        """The task as soon as its attempt has told a step of progress."""
        task = await self.queue.get(task_id)

        async def told() -> bool:
            nonlocal task
            task = await self.queue.get(task_id)
            assert not task.status.final, f"the task is {task.status}: {task.error}"
            return task.attempt == attempt and task.progress is not None and task.progress.value > 0

        await wait_until(told, f"{task_id} makes progress in attempt {attempt}", 15)
        return task

    async def story(self, task_id: str) -> list[Event]:
        """All events so far; they are numbered without gaps."""
        events = await EventHub(self.redis, self.queue.keys).story(task_id)
        assert [event.seq for event in events] == list(range(1, len(events) + 1))
        return events

    async def words(self, task_id: str) -> list[str]:
        """The kinds of the events so far, a run of progress as one."""
        return [kind for kind, _ in itertools.groupby(event.type.value for event in await self.story(task_id))]

    async def wait_event(self, task_id: str, kind: str) -> None:
        """Waits until the story has an event of this kind."""

        async def there() -> bool:
            return kind in await self.words(task_id)

        await wait_until(there, f"{task_id} has the event {kind}", 8)

    async def output(self, task: Task, number: int = 0) -> bytes:
        """The bytes of a task's output."""
        return b"".join([chunk async for chunk in self.store.read(task.outputs[number].key)])

    async def put_input(self, content: bytes, node: str) -> InputFile:
        """Keeps an input file as an upload would, for that node's image."""
        sha256 = hashlib.sha256(content).hexdigest()
        await self.store.put(input_key(sha256, ".png"), content)
        await self.redis.zadd(self.queue.keys.inputs, {sha256: 1})
        return InputFile(node=node, input="image", sha256=sha256, extension=".png", size=len(content))


@asynccontextmanager
async def crew_of(settings: SharedSettings, redis: Redis, queue: Queue, registry: Registry) -> AsyncIterator[Crew]:
    """A crew whose agents are stopped at the end."""
    crew = Crew(settings, redis, queue, registry)
    try:
        yield crew
    finally:
        await crew.stop()


def ran(simulator: Simulator) -> list[str]:
    """The ids of the prompts that the simulator ran to any end, in this life."""
    return [prompt["prompt_id"] for prompt in simulator.statistics()["prompts"]]


def on_gpu(simulator: Simulator) -> list[str]:
    """The ids of the prompts that run there now."""
    item = simulator.instance.queue.running
    return [] if item is None else [item[1]]
