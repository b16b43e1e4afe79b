"""Workflow files come into Redis once; a broken one is named and keeps nobody back."""

import asyncio
import shutil
from pathlib import Path

import pytest
from redis.asyncio import Redis
from structlog.testing import capture_logs
from structlog.typing import EventDict

from comfy_service import publish
from comfy_shared.errors import Unavailable
from comfy_shared.keys import Keys
from comfy_shared.lifecycle import Loops
from test.support.waiting import wait_until

SHIPPED = Path(__file__).parents[2] / "workflows"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The shipped workflow `smoke`, and one whose graph is no JSON."""
    made = tmp_path / "workflows"
    made.mkdir()
    for path in SHIPPED.glob("smoke*"):
        shutil.copy(path, made)
    (made / "broken-api.json").write_text("{")
    (made / "broken.yaml").write_text("title: Broken\n")
    return made


def actions(logs: list[EventDict]) -> list[tuple[str, str]]:
    return sorted((line["action"], line["workflow"]) for line in logs)


async def test_sound_workflows_are_published_and_a_broken_one_is_named(redis: Redis, keys: Keys, folder: Path) -> None:
    with capture_logs() as logs:
        await publish.publish_folder(redis, keys, folder)
    assert actions(logs) == [("workflow.broken", "broken"), ("workflow.published", "smoke")]
    assert next(line for line in logs if line["workflow"] == "broken")["log_level"] == "error"
    assert set(await redis.hgetall(keys.workflows)) == {b"smoke"}
    assert b'"smoke"' in (await redis.get(keys.workflow("smoke")) or b"")


async def test_agents_that_start_together_write_once(redis: Redis, keys: Keys, folder: Path) -> None:
    with capture_logs() as logs:
        await asyncio.gather(*(publish.publish_folder(redis, keys, folder) for _ in range(3)))
    assert actions(logs).count(("workflow.published", "smoke")) == 1


async def test_a_changed_file_is_written_again(redis: Redis, keys: Keys, folder: Path) -> None:
    await publish.publish_folder(redis, keys, folder)
    path = folder / "smoke-api.json"
    path.write_text(path.read_text().replace('"nearest-exact"', '"bilinear"'))
    with capture_logs() as logs:
        await publish.publish_folder(redis, keys, folder)
    assert ("workflow.published", "smoke") in actions(logs)
    assert b"bilinear" in (await redis.get(keys.workflow("smoke")) or b"")


async def test_a_folder_that_is_not_there_is_told_and_keeps_nobody_back(
    redis: Redis, keys: Keys, tmp_path: Path
) -> None:
    with capture_logs() as logs:
        await publish.publish_folder(redis, keys, tmp_path / "missing")
    assert [(line["action"], line["log_level"]) for line in logs] == [("workflow.broken", "error")]


async def test_publishing_waits_for_redis_and_is_done_once(
    redis: Redis, keys: Keys, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[Path] = []

    async def away_at_first(_redis: Redis, _keys: Keys, given: Path) -> None:
        calls.append(given)
        if len(calls) == 1:
            raise Unavailable

    monkeypatch.setattr(publish, "publish_folder", away_at_first)
    deaths: list[str] = []
    async with Loops(deaths.append) as loops:
        loops.start("workflows", lambda: publish.publish_at_start(redis, keys, folder, loops))
        await wait_until(lambda: len(calls) == 2, "it was tried again")
    assert (calls, deaths) == ([folder, folder], [])
