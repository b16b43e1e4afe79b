"""What is saved in an instance's editor becomes a version; two editors that change one name apart are told."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from redis.asyncio import Redis
from structlog.testing import capture_logs

from comfy_service.classes import Classes
from comfy_service.editor import EditorPublisher, is_tagged, name_of
from comfy_service.instance.client import Instance
from comfy_shared.keys import Keys
from comfy_shared.models import Status
from comfy_shared.queue import Queue
from comfy_shared.registry import Registry
from comfy_shared.settings import SharedSettings
from comfy_shared.versions import Versions
from test.integration.agent_support import crew_of, endless, picture
from test.simulator import Simulator
from test.support.waiting import wait_until


def graph(width: int = 64, **extra: Any) -> dict[str, Any]:
    return {
        "nodes": [
            {
                "id": 1,
                "type": "EmptyImage",
                "outputs": [{"name": "IMAGE", "type": "IMAGE", "links": [1]}],
                "widgets_values": [width, 48, 1, 0],
            },
            {
                "id": 2,
                "type": "SaveImage",
                "inputs": [{"name": "images", "type": "IMAGE", "link": 1}],
                "widgets_values": ["editor"],
            },
        ],
        "links": [[1, 1, 0, 2, 0, "IMAGE"]],
        "extra": extra,
        "version": 0.4,
    }


class Editor:
    """One instance, whose saves its agent publishes when it looks."""

    def __init__(self, url: str, versions: Versions, agent: str) -> None:
        self.instance = Instance((url,), patience=5)
        self.versions = versions
        self.agent = agent
        self.classes = Classes()
        self.publisher = EditorPublisher(versions, self.instance, agent, self.classes)

    async def meet(self) -> None:
        self.classes.learn(await self.instance.object_info(), "1")

    async def save(self, path: str, content: Any) -> None:
        """As the frontend does."""
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        file = path.replace("/", "%2F")
        async with httpx.AsyncClient(trust_env=False) as http:
            answer = await http.post(f"{self.instance.url}/userdata/workflows%2F{file}?overwrite=true", content=data)
        assert answer.status_code == 200

    async def look(self) -> list[str]:
        """What the look logged."""
        with capture_logs() as logs:
            await self.publisher.look()
        return [line["action"] for line in logs if line["action"].startswith("workflow.")]


@pytest.fixture
def versions(redis: Redis, keys: Keys) -> Versions:
    return Versions(redis, keys)


@pytest.fixture
async def one(versions: Versions) -> AsyncIterator[Editor]:
    async with Simulator() as instance:
        editor = Editor(instance.url, versions, "gpu-1")
        await editor.meet()
        yield editor
        await editor.instance.close()


@pytest.fixture
async def other(versions: Versions) -> AsyncIterator[Editor]:
    async with Simulator() as instance:
        editor = Editor(instance.url, versions, "gpu-2")
        await editor.meet()
        yield editor
        await editor.instance.close()


async def test_each_save_in_the_folder_is_a_version_with_inferred_parameters(one: Editor, versions: Versions) -> None:
    assert await one.look() == []
    await one.save("publish/poster.json", graph(64))
    assert await one.look() == ["workflow.published"]
    assert await one.look() == []
    await one.save("publish/poster.json", graph(80))
    assert await one.look() == ["workflow.published"]
    standing = (await versions.standings())["poster"]
    assert (standing.active, standing.newest) == (2, 2)
    workflow = await versions.read("poster", 2)
    assert workflow.prompt["1"]["inputs"]["width"] == 80
    assert "width" in [parameter.name for parameter in workflow.parameters]
    assert [version.about.author for version in await versions.of("poster")] == ["gpu-1", "gpu-1"]


async def test_a_tag_publishes_from_any_folder_and_nothing_else_does(one: Editor, versions: Versions) -> None:
    await one.save("drafts/one.json", graph(tags=["publish"]))
    await one.save("drafts/two.json", graph())
    await one.save("drafts/broken.json", b"{")
    await one.look()
    await one.look()
    assert list(await versions.standings()) == ["one"]
    assert await versions.problems() == {}


async def test_an_agent_that_restarts_publishes_nothing_again(one: Editor, versions: Versions) -> None:
    await one.save("publish/poster.json", graph(64))
    await one.look()
    await one.save("publish/poster.json", graph(80))
    await one.look()
    await versions.activate("poster", 1)
    again = Editor(one.instance.url, versions, "gpu-1")
    await again.meet()
    assert await again.look() == []
    assert (await versions.standings())["poster"].active == 1, "a roll back stays"
    await versions.unpublish("poster")
    await again.look()
    assert await versions.standings() == {}
    await again.instance.close()


async def test_two_editors_that_change_a_name_apart_are_told_and_nothing_is_guessed(
    one: Editor, other: Editor, versions: Versions
) -> None:
    for editor in (one, other):
        await editor.save("publish/poster.json", graph(64))
        await editor.look()
    assert (await versions.standings())["poster"].newest == 1, "the same content is one version"
    await one.save("publish/poster.json", graph(80))
    await one.look()
    await other.save("publish/poster.json", graph(96))
    assert await other.look() == ["workflow.conflict"]
    standing = (await versions.standings())["poster"]
    assert (standing.active, standing.newest) == (2, 3), "the later one is kept, and not active"
    problem = (await versions.problems())["poster"]
    assert (problem.agent, problem.file, problem.editor) == ("gpu-2", "publish/poster.json", True)
    assert "version 3" in problem.message
    await other.save("publish/poster.json", graph(97))
    assert await other.look() == ["workflow.conflict"], "saving once more settles nothing"
    await versions.activate("poster", 4)
    await other.save("publish/poster.json", graph(98))
    assert await other.look() == ["workflow.published"]
    assert "poster" not in await versions.problems()
    await one.save("publish/poster.json", graph(81))
    assert await one.look() == ["workflow.conflict"]


async def test_a_name_that_the_other_editor_has_already_is_a_conflict(
    one: Editor, other: Editor, versions: Versions
) -> None:
    await one.save("publish/poster.json", graph(64))
    await one.look()
    await other.save("publish/poster.json", graph(96))
    assert await other.look() == ["workflow.conflict"]
    assert (await versions.standings())["poster"].active == 1


async def test_what_cannot_be_published_is_told_until_it_is_mended(one: Editor, versions: Versions) -> None:
    broken = graph()
    broken["nodes"][0]["type"] = "NoSuchNode"
    await one.save("publish/poster.json", broken)
    assert await one.look() == ["workflow.broken"]
    problem = (await versions.problems())["poster"]
    assert "node 1 (NoSuchNode)" in problem.message
    await one.save("publish/poster.json", graph())
    assert await one.look() == ["workflow.published"]
    assert await versions.problems() == {}


@pytest.mark.parametrize("content", [b"{", b"[]", b"null", b'{"1": {}}', b"[" * 5000, b"\xff"])
async def test_what_is_no_graph_is_told(one: Editor, versions: Versions, content: bytes) -> None:
    await one.save("publish/poster.json", content)
    assert [*await one.look(), *await one.look()] == ["workflow.broken"]
    assert (await versions.problems())["poster"].file == "publish/poster.json"
    assert await versions.standings() == {}


async def test_an_output_that_comfyui_would_leave_out_is_refused(one: Editor, versions: Versions) -> None:
    half = graph()
    half["nodes"].append({"id": 3, "type": "SaveImage", "inputs": [], "widgets_values": ["half"]})
    await one.save("publish/poster.json", half)
    assert await one.look() == ["workflow.broken"]
    assert "prompt.3.inputs.images" in (await versions.problems())["poster"].message


async def test_two_files_of_one_name_are_told(one: Editor, versions: Versions) -> None:
    await one.save("publish/poster.json", graph())
    await one.look()
    await one.save("publish/old/poster.json", graph(80))
    assert await one.look() == ["workflow.broken"]
    assert (await versions.standings())["poster"].newest == 1


async def test_nothing_is_published_before_the_instance_told_its_classes(one: Editor, versions: Versions) -> None:
    unmet = Editor(one.instance.url, versions, "gpu-9")
    await one.save("publish/poster.json", graph())
    assert await unmet.look() == []
    await unmet.meet()
    assert await unmet.look() == ["workflow.published"]
    await unmet.instance.close()


async def test_an_agent_publishes_while_it_works_and_only_when_told_to(
    one: Editor, settings: SharedSettings, redis: Redis, queue: Queue, registry: Registry, tmp_path: Path
) -> None:
    """Learning the classes of the instance once stopped every loop of an agent that watches a folder."""

    async def newest() -> int:
        standing = (await one.versions.standings()).get("poster")
        return standing.newest if standing else 0

    async def first() -> bool:
        return await newest() == 1

    async def second() -> bool:
        return await newest() == 2

    async with crew_of(settings, redis, queue, registry) as crew:
        folder: dict[str, Any] = {"workflows_folder": str(tmp_path)}
        crew.start(one.instance.url, "gpu-1", **folder)
        await one.save("publish/poster.json", graph(64))
        await crew.completed(picture())
        assert await newest() == 0
        crew.start(one.instance.url, "gpu-2", editor_publish=True, **folder)
        await wait_until(first, "the first save is published", 8)
        await one.save("publish/poster.json", graph(80))
        await wait_until(second, "the second save is published", 5)


async def test_what_was_published_comes_back_when_redis_lost_it_while_the_agent_is_busy(
    one: Editor, settings: SharedSettings, redis: Redis, queue: Queue, registry: Registry, tmp_path: Path
) -> None:
    """Broke: the heartbeat registered the agent again before it claimed, and nothing was published any more. What came
    from the editor never came back."""
    (tmp_path / "plain-api.json").write_text(json.dumps(picture()))
    (tmp_path / "plain.yaml").write_text("title: Plain\n")

    async def both() -> bool:
        return set(await one.versions.standings()) == {"plain", "poster"}

    async with crew_of(settings, redis, queue, registry) as crew:
        await one.save("publish/poster.json", graph())
        crew.start(one.instance.url, editor_publish=True, workflows_folder=str(tmp_path))
        await wait_until(both, "both are published", 8)
        await crew.wait_status(await crew.submit(endless()), Status.RUNNING)
        await redis.delete(*[key async for key in redis.scan_iter(f"{queue.keys.base}*")])
        await wait_until(both, "both are published again", 8)


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("publish/poster.json", "poster"),
        ("publish/My poster (2).json", "My-poster-2"),
        ("publish/a/b.json", "b"),
        ("publish/ü.json", "workflow"),
        ("publish/" + "x" * 100 + ".json", "x" * 64),
    ],
)
def test_a_file_gives_its_workflow_a_name(path: str, name: str) -> None:
    assert name_of(path) == name


@pytest.mark.parametrize("extra", [{"tags": ["a", "publish"]}, {"tags": "publish"}, {"publish": True}])
def test_a_tag_is_in_extra(extra: dict[str, Any]) -> None:
    assert is_tagged({"extra": extra})
    assert not is_tagged({"extra": {"tags": ["unpublished"]}})
    assert not is_tagged({"extra": None})
