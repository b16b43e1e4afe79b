"""Workflow files come into Redis once, and again when they change; a broken one is told and keeps its last version."""

import asyncio
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from redis.asyncio import Redis
from structlog.testing import capture_logs
from structlog.typing import EventDict

from comfy_service import publish
from comfy_service.classes import Classes
from comfy_service.publish import FolderPublisher
from comfy_shared.errors import Unavailable
from comfy_shared.keys import Keys
from comfy_shared.lifecycle import Loops
from comfy_shared.versions import Versions
from test.support.waiting import wait_until

SHIPPED = Path(__file__).parents[2] / "workflows"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The shipped workflow `smoke`, and one whose graph is no JSON."""
    made = tmp_path / "workflows"
    made.mkdir()
    for path in SHIPPED.glob("smoke*"):
        shutil.copy(path, made)
    (made / "broken-api.json").write_text('{\n"1": oops}')
    (made / "broken.yaml").write_text("title: Broken\n")
    return made


@pytest.fixture
def versions(redis: Redis, keys: Keys) -> Versions:
    return Versions(redis, keys)


def change(folder: Path, was: str = '"nearest-exact"', now: str = '"bilinear"') -> None:
    path = folder / "smoke-api.json"
    path.write_text(path.read_text().replace(was, now))


def actions(logs: list[EventDict]) -> list[tuple[str, str]]:
    return sorted((line["action"], line["workflow"]) for line in logs)


@asynccontextmanager
async def watching(publisher: FolderPublisher) -> AsyncIterator[None]:
    deaths: list[str] = []
    async with Loops(deaths.append) as loops:
        loops.start("workflows", lambda: publisher.run(loops))
        yield
    assert deaths == []


async def test_sound_workflows_are_published_and_a_broken_one_is_named(versions: Versions, folder: Path) -> None:
    with capture_logs() as logs:
        await FolderPublisher(versions, folder, "gpu-1", Classes()).publish()
    assert actions(logs) == [("workflow.broken", "broken"), ("workflow.published", "smoke")]
    assert next(line for line in logs if line["workflow"] == "broken")["log_level"] == "error"
    assert list(await versions.standings()) == ["smoke"]
    assert [version.about.author for version in await versions.of("smoke")] == ["gpu-1"]


async def test_what_is_wrong_with_a_file_is_told_with_file_and_line_until_it_is_mended(
    versions: Versions, folder: Path
) -> None:
    publisher = FolderPublisher(versions, folder, "gpu-1", Classes())
    await publisher.publish()
    problem = (await versions.problems())["broken"]
    assert (problem.file, problem.line, problem.agent) == ("broken-api.json", 2, "gpu-1")
    shutil.copy(folder / "smoke-api.json", folder / "broken-api.json")
    await publisher.publish()
    assert await versions.problems() == {}
    assert list(await versions.standings()) == ["broken", "smoke"]


async def test_a_file_that_breaks_keeps_the_last_good_version(versions: Versions, folder: Path) -> None:
    publisher = FolderPublisher(versions, folder, "gpu-1", Classes())
    await publisher.publish()
    (folder / "smoke.yaml").write_text(
        "title: Smoke\nparameters:\n  width: {node_id: '99', input_name: width, type: integer}\n"
    )
    await publisher.publish()
    problem = (await versions.problems())["smoke"]
    assert (problem.file, problem.line) == ("smoke.yaml", 3)
    assert "node 99" in problem.message
    assert (await versions.standings())["smoke"].active == 1
    (folder / "smoke.yaml").unlink()
    (folder / "smoke-api.json").unlink()
    await publisher.publish()
    assert "smoke" not in await versions.problems(), "the files are gone, and with them what was wrong"


async def test_agents_that_start_together_write_once(versions: Versions, folder: Path) -> None:
    with capture_logs() as logs:
        await asyncio.gather(*(FolderPublisher(versions, folder, f"gpu-{i}", Classes()).publish() for i in range(3)))
    assert actions(logs).count(("workflow.published", "smoke")) == 1
    assert actions(logs).count(("workflow.broken", "broken")) >= 1
    assert len(await versions.of("smoke")) == 1


async def test_a_changed_file_is_a_new_version_and_the_old_content_the_old_one(
    versions: Versions, folder: Path
) -> None:
    publisher = FolderPublisher(versions, folder, "gpu-1", Classes())
    await publisher.publish()
    change(folder)
    with capture_logs() as logs:
        await publisher.publish()
    assert ("workflow.published", "smoke") in actions(logs)
    (newest, _) = await versions.of("smoke")
    (told,) = newest.about.changes
    assert (told.where, told.before, told.after) == (
        "node 2 (ImageScale), input upscale_method",
        '"nearest-exact"',
        '"bilinear"',
    )
    change(folder, was='"bilinear"', now='"nearest-exact"')
    with capture_logs() as logs:
        await publisher.publish()
    assert ("workflow.activated", "smoke") in actions(logs)
    assert (await versions.standings())["smoke"].active == 1


async def test_unchanged_files_leave_what_was_done_by_hand(versions: Versions, folder: Path) -> None:
    """An agent that restarts neither undoes a roll back nor brings back what was deleted."""
    publisher = FolderPublisher(versions, folder, "gpu-1", Classes())
    await publisher.publish()
    change(folder)
    await publisher.publish()
    await versions.activate("smoke", 1)
    await FolderPublisher(versions, folder, "gpu-1", Classes()).publish()
    assert (await versions.standings())["smoke"].active == 1
    await versions.unpublish("smoke")
    await FolderPublisher(versions, folder, "gpu-1", Classes()).publish()
    assert await versions.standings() == {}
    change(folder, was='"bilinear"', now='"bicubic"')
    await FolderPublisher(versions, folder, "gpu-1", Classes()).publish()
    assert (await versions.standings())["smoke"].newest == 1


async def test_a_change_is_seen_without_a_restart(versions: Versions, folder: Path) -> None:
    async with watching(FolderPublisher(versions, folder, "gpu-1", Classes())):

        async def newest() -> int:
            standing = (await versions.standings()).get("smoke")
            return standing.newest if standing else 0

        async def is_first() -> bool:
            return await newest() == 1

        async def is_second() -> bool:
            return await newest() == 2

        await wait_until(is_first, "the first version is there")
        change(folder)
        await wait_until(is_second, "the change is the second version")


async def test_a_folder_that_is_not_there_is_told_once_and_used_when_it_comes(
    versions: Versions, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publish, "LOOK_AGAIN", 0.05)
    away = tmp_path / "away"

    async def there() -> bool:
        return "smoke" in await versions.standings()

    with capture_logs() as logs:
        async with watching(FolderPublisher(versions, away, "gpu-1", Classes())):
            await wait_until(lambda: "workflow.broken" in [line["action"] for line in logs], "it was told")
            await asyncio.to_thread(folder.rename, away)
            await wait_until(there, "the workflow is there")
    told = [line for line in logs if line["event"] == "Workflows cannot be read"]
    assert [line["log_level"] for line in told] == ["error"]


async def test_publishing_waits_for_redis(versions: Versions, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []

    class AwayAtFirst(FolderPublisher):
        async def publish(self) -> None:
            calls.append(1)
            if len(calls) == 1:
                raise Unavailable

    async with watching(AwayAtFirst(versions, folder, "gpu-1", Classes())):
        await wait_until(lambda: len(calls) == 2, "it was tried again")


OBJECT_INFO = {
    "EmptyImage": {
        "input": {"required": {"width": ["INT", {"min": 1}], "height": ["INT", {}]}},
        "output": ["IMAGE"],
        "output_node": False,
    },
    "SaveImage": {"input": {"required": {"images": ["IMAGE"]}}, "output": [], "output_node": True},
}
EDITOR = """{"nodes": [
 {"id": 1, "type": "EmptyImage", "outputs": [{"name": "IMAGE", "type": "IMAGE", "links": [1]}], "widgets_values": [32, 16]},
 {"id": 2, "type": "SaveImage", "inputs": [{"name": "images", "type": "IMAGE", "link": 1}]}
], "links": [[1, 1, 0, 2, 0, "IMAGE"]], "version": 0.4}"""  # noqa: E501


async def test_an_editor_graph_alone_is_published_once_the_instance_told_its_classes(
    versions: Versions, tmp_path: Path
) -> None:
    (tmp_path / "drawn.json").write_text(EDITOR)
    classes = Classes()
    async with watching(FolderPublisher(versions, tmp_path, "gpu-1", classes)):

        async def there() -> bool:
            return "drawn" in await versions.standings()

        assert not await there()
        classes.learn(OBJECT_INFO, "1")
        await wait_until(there, "it is published")
    workflow = await versions.read("drawn", 1)
    assert workflow.prompt["1"]["inputs"] == {"width": 32, "height": 16}
    assert "width" in [parameter.name for parameter in workflow.parameters]


async def test_parameters_alone_wait_for_the_classes_and_are_no_mistake(versions: Versions, tmp_path: Path) -> None:
    (tmp_path / "drawn.json").write_text(EDITOR)
    (tmp_path / "drawn.yaml").write_text("title: Drawn\n")
    with capture_logs() as logs:
        await FolderPublisher(versions, tmp_path, "gpu-1", Classes()).publish()
    assert actions(logs) == [("workflow.waits", "drawn")]
    assert await versions.problems() == {}


async def test_an_agent_without_a_class_does_not_complain_of_what_another_published(
    versions: Versions, tmp_path: Path
) -> None:
    (tmp_path / "drawn.json").write_text(EDITOR)
    able, lacking = Classes(), Classes()
    able.learn(OBJECT_INFO, "1")
    lacking.learn({"SaveImage": OBJECT_INFO["SaveImage"]}, "2")
    await FolderPublisher(versions, tmp_path, "gpu-2", lacking).publish()
    problem = (await versions.problems())["drawn"]
    assert "node 1 (EmptyImage)" in problem.message
    await FolderPublisher(versions, tmp_path, "gpu-1", able).publish()
    await FolderPublisher(versions, tmp_path, "gpu-2", lacking).publish()
    assert await versions.problems() == {}
