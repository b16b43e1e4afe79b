"""An agent runs prompts on a simulated ComfyUI: every kind of output arrives, and the story is told whole."""

import asyncio
import io
from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest
from PIL import Image
from redis.asyncio import Redis

from comfy_service.instance.client import Instance
from comfy_shared.files import FileStore, Stored
from comfy_shared.keys import Keys
from comfy_shared.models import EventType, Prompt, Status
from comfy_shared.partner import LIFE, PartnerKeys
from comfy_shared.queue import Queue
from comfy_shared.registry import Registry
from comfy_shared.settings import SharedSettings
from test.integration.agent_support import Crew, crew_of, on_gpu, picture, ran, slow
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


def opened(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data))


async def test_a_picture_is_made_stored_and_its_story_told_whole(crew: Crew, simulator: Simulator) -> None:
    crew.start(simulator)
    task = await crew.completed(slow(steps=5, ms=30))
    assert await crew.words(task.id) == ["queued", "claimed", "started", "progress", "output", "completed"]
    (output,) = task.outputs
    assert (output.node, output.kind, output.content_type, output.temporary) == ("2", "images", "image/png", False)
    data = await crew.output(task)
    assert (opened(data).format, opened(data).size, len(data)) == ("PNG", (16, 16), output.size)
    fractions = [
        event.data["fraction"]
        for event in await crew.story(task.id)
        if event.type in (EventType.STARTED, EventType.PROGRESS)
    ]
    assert fractions == sorted(fractions)
    assert len(fractions) > 1
    assert task.progress is not None
    assert task.progress.fraction == 1.0
    assert ran(simulator) == [task.prompt_id]


async def test_an_agent_says_what_its_instance_offers_and_what_it_runs(crew: Crew, simulator: Simulator) -> None:
    crew.start(simulator, agent_labels="room=2")
    agent = await crew.wait_state("ready")
    assert (agent.record.comfyui_version, agent.record.labels, agent.alive) == ("0.3.64", {"room": "2"}, True)
    assert agent.record.devices[0].vram_total > 0
    (offer,) = await crew.registry.offers([agent])
    assert offer.knows("SaveImage")
    task_id = await crew.submit(slow(steps=40))

    async def runs() -> bool:
        return (await crew.known()).vitals.running == (task_id,)

    await wait_until(runs, "the registry tells what runs")
    await crew.wait_status(task_id, Status.COMPLETED)


def saved_by(class_type: str, **inputs: Any) -> Prompt:
    prompt = picture()
    prompt["2"] = {"class_type": class_type, "inputs": {"images": ["1", 0], **inputs}}
    return prompt


async def test_a_picture_that_exists_only_as_a_frame_is_kept(crew: Crew, simulator: Simulator) -> None:
    """SaveImageWebsocket leaves nothing in history."""
    crew.start(simulator)
    task = await crew.completed(saved_by("SaveImageWebsocket"))
    assert [(each.name, each.node, each.content_type) for each in task.outputs] == [("socket-2.png", "2", "image/png")]
    assert opened(await crew.output(task)).format == "PNG"


async def test_a_text_is_an_output(crew: Crew, simulator: Simulator) -> None:
    crew.start(simulator)
    task = await crew.completed({"1": {"class_type": "TextOut", "inputs": {"text": "grüße"}}})
    assert [(each.name, each.kind, each.content_type) for each in task.outputs] == [
        ("text-1.txt", "text", "text/plain")
    ]
    assert await crew.output(task) == "grüße".encode()


async def test_a_preview_picture_is_marked_as_temporary(crew: Crew, simulator: Simulator) -> None:
    crew.start(simulator)
    task = await crew.completed(saved_by("PreviewImage"))
    assert [each.temporary for each in task.outputs] == [True]
    assert opened(await crew.output(task)).format == "PNG"


async def test_an_animation_arrives_whole(crew: Crew, simulator: Simulator) -> None:
    crew.start(simulator)
    prompt = saved_by("SaveAnimatedWEBP", filename_prefix="a/b", fps=6.0, lossless=True, quality=80, method="default")
    prompt["1"]["inputs"]["batch_size"] = 3
    prompt["3"] = {"class_type": "ImageInvert", "inputs": {"image": ["1", 0]}}
    prompt["4"] = {"class_type": "ImageBatch", "inputs": {"image1": ["1", 0], "image2": ["3", 0]}}
    prompt["2"]["inputs"]["images"] = ["4", 0]
    task = await crew.completed(prompt)
    assert [each.content_type for each in task.outputs] == ["image/webp"]
    animation = opened(await crew.output(task))
    assert (animation.format, getattr(animation, "is_animated", False)) == ("WEBP", True)


async def test_an_input_is_uploaded_once_and_named_in_the_prompt(crew: Crew, simulator: Simulator) -> None:
    crew.start(simulator)
    content = io.BytesIO()
    Image.new("RGB", (24, 8), (255, 0, 0)).save(content, "PNG")
    file = await crew.put_input(content.getvalue(), "1")
    for prefix in ("one", "two"):
        prompt = picture(prefix=prefix)
        prompt["1"] = {"class_type": "LoadImage", "inputs": {"image": "what the client wrote.png"}}
        task = await crew.completed(prompt, inputs=(file,))
        assert opened(await crew.output(task)).size == (24, 8)
    uploaded = [path for path in simulator.folders.input.iterdir() if path.suffix == ".png"]
    assert [path.name for path in uploaded] == [f"{file.sha256[:40]}.png"]


async def test_an_input_that_is_gone_fails_the_task_readably(crew: Crew, simulator: Simulator) -> None:
    crew.start(simulator)
    file = await crew.put_input(b"gone", "1")
    await crew.store.delete(f"inputs/{file.sha256}.png")
    prompt = picture()
    prompt["1"] = {"class_type": "LoadImage", "inputs": {"image": "x"}}
    task = await crew.failed(prompt, inputs=(file,))
    assert task.error is not None
    assert (task.error.code, task.attempt) == ("input_missing", 1)
    assert ran(simulator) == []


class Held(FileStore):
    """Stores nothing until it may."""

    def __init__(self, store: FileStore) -> None:
        super().__init__(store._store)
        self.may = asyncio.Event()

    async def put(self, key: str, data: bytes | AsyncIterator[bytes]) -> Stored:
        await self.may.wait()
        return await super().put(key, data)


async def test_the_next_prompt_runs_before_the_outputs_of_the_previous_one_are_stored(
    crew: Crew, simulator: Simulator
) -> None:
    held = crew.store = Held(crew.store)
    crew.start(simulator)
    first, second = [await crew.submit(picture()) for _ in range(2)]
    await wait_until(lambda: len(ran(simulator)) == 2, "both ran")
    assert [(await crew.queue.get(each)).status for each in (first, second)] == [Status.RUNNING] * 2
    held.may.set()
    for each in (first, second):
        await crew.wait_status(each, Status.COMPLETED)


async def test_no_more_prompts_are_claimed_than_may_be_stored_at_once(crew: Crew, simulator: Simulator) -> None:
    held = crew.store = Held(crew.store)
    crew.start(simulator, storing_limit=2)
    tasks = [await crew.submit(picture()) for _ in range(3)]
    await wait_until(lambda: len(ran(simulator)) == 2, "two ran")

    async def storing() -> bool:
        return len((await crew.known()).vitals.storing) == 2

    await wait_until(storing, "two are being stored")
    assert (await crew.queue.get(tasks[2])).status is Status.PENDING
    held.may.set()
    for each in tasks:
        await crew.wait_status(each, Status.COMPLETED)


async def test_an_identical_prompt_answered_from_the_cache_still_yields_its_output(
    crew: Crew, simulator: Simulator
) -> None:
    crew.start(simulator)
    prompt = picture()
    first, second = [await crew.completed(prompt) for _ in range(2)]
    assert [run["run_nodes"] for run in simulator.statistics()["prompts"]] == [2, 0]
    assert await crew.output(first) == await crew.output(second)


async def test_a_cached_file_that_is_gone_is_made_again(crew: Crew, simulator: Simulator) -> None:
    """ComfyUI names the old file and reports success."""
    crew.start(simulator)
    prompt = picture()
    await crew.completed(prompt)
    for path in simulator.folders.output.rglob("*.png"):
        path.unlink()
    task = await crew.completed(prompt)
    assert task.attempt == 2
    assert opened(await crew.output(task)).size == (16, 16)
    assert "retrying" in await crew.words(task.id)


async def test_a_file_lost_right_after_the_run_is_made_again(crew: Crew, simulator: Simulator) -> None:
    simulator.set_faults(lose_output=1, keep_cache=True)
    crew.start(simulator)
    task = await crew.completed(picture())
    assert task.attempt == 2
    assert opened(await crew.output(task)).format == "PNG"


async def test_history_that_lags_behind_the_announced_end_is_waited_for(crew: Crew, simulator: Simulator) -> None:
    simulator.set_faults(history_delay=0.2)
    crew.start(simulator)
    task = await crew.completed(picture())
    assert (task.attempt, len(ran(simulator))) == (1, 1)


async def test_a_prompt_of_somebody_else_on_the_instance_is_left_alone(crew: Crew, simulator: Simulator) -> None:
    """People may use the instance directly; the agent's prompts wait their turn."""
    item = (-1.0, "somebody-else", slow(steps=15), {"client_id": "editor"}, ["2"])
    simulator.instance.accept(item)
    crew.start(simulator)
    task = await crew.completed(picture())
    assert ran(simulator) == ["somebody-else", task.prompt_id]
    assert on_gpu(simulator) == []
    ends: Mapping[str, str] = {run["prompt_id"]: run["last_message"] for run in simulator.statistics()["prompts"]}
    assert ends["somebody-else"] == "execution_success"


async def test_a_key_for_partner_nodes_reaches_the_instance_and_no_record(
    crew: Crew, simulator: Simulator, redis: Redis, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[Any] = []
    submit = Instance.submit

    async def seen(self: Instance, prompt: Prompt, **fields: Any) -> None:
        sent.append(fields["extra_data"].get("api_key_comfy_org"))  # an instance keeps it to itself
        await submit(self, prompt, **fields)

    monkeypatch.setattr(Instance, "submit", seen)
    crew.start(simulator)
    token = await PartnerKeys(redis, keys).keep("comfyui-secret")
    task = await crew.completed(slow(steps=1), notes={"partner": token})
    over = await crew.completed(slow(steps=2), notes={"partner": "0" * 32})
    assert sent == ["comfyui-secret", None]
    record = await redis.hgetall(keys.task(task.id))
    assert "comfyui-secret" not in f"{record}{task.prompt!r}{over.prompt!r}"
    assert 0 < await redis.pttl(keys.partner(token)) <= LIFE
