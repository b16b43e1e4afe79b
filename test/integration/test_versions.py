"""The transitions of versions: published, activated, tried, deleted; what refuses; what is kept."""

import asyncio
from typing import Any

import pytest
from redis.asyncio import Redis

from comfy_shared import versions as module
from comfy_shared.errors import Conflict, NotFound
from comfy_shared.keys import Keys
from comfy_shared.versions import FileProblem, Save, Versions
from comfy_shared.workflows import Workflow, make_from_request, to_json


@pytest.fixture
def versions(redis: Redis, keys: Keys) -> Versions:
    return Versions(redis, keys)


def workflow(width: int = 64, name: str = "one") -> Workflow:
    graph: dict[str, Any] = {"1": {"class_type": "EmptyImage", "inputs": {"width": width}}}
    return make_from_request(name, graph, None, {})


async def put(versions: Versions, width: int, **options: Any) -> tuple[str, int, int]:
    done = await versions.publish(workflow(width), author="ann", **options)
    return done.outcome, done.number, done.active


async def test_numbers_grow_and_the_same_content_is_kept_once(versions: Versions) -> None:
    assert await put(versions, 1) == ("published", 1, 1)
    assert await put(versions, 2) == ("published", 2, 2)
    assert await put(versions, 2) == ("unchanged", 2, 2)
    assert await put(versions, 1) == ("activated", 1, 1)
    assert [version.number for version in await versions.of("one")] == [2, 1]


async def test_the_first_is_active_whatever_was_asked(versions: Versions) -> None:
    assert await put(versions, 1, activate=False) == ("published", 1, 1)
    assert await put(versions, 2, activate=False) == ("published", 2, 1)


async def test_those_who_publish_at_once_get_a_number_each(versions: Versions) -> None:
    done = await asyncio.gather(*(put(versions, width) for width in range(1, 5)))
    assert sorted(number for _, number, _ in done) == [1, 2, 3, 4]
    for version in (await versions.of("one"))[:-1]:
        assert [change.where for change in version.about.changes] == ["node 1 (EmptyImage), input width"]


async def test_the_same_files_change_nothing_whatever_happened_since(versions: Versions) -> None:
    await put(versions, 1, files="a")
    await put(versions, 2, files="b")
    await versions.activate("one", 1)
    assert await put(versions, 2, files="b") == ("unchanged", 1, 1)
    await versions.unpublish("one")
    assert await put(versions, 2, files="b") == ("unchanged", 0, 0)
    assert await put(versions, 2, files="c") == ("published", 1, 1)


async def test_a_save_goes_on_from_the_last_one_of_its_agent(versions: Versions) -> None:
    def first(digest: str) -> Save:
        return Save(agent="a", digest=digest)

    def second(digest: str) -> Save:
        return Save(agent="b", digest=digest)

    assert await put(versions, 1, save=first("1")) == ("published", 1, 1)
    assert await put(versions, 1, save=first("1")) == ("unchanged", 1, 1)
    assert await put(versions, 2, save=second("2")) == ("conflict", 2, 1)
    assert await put(versions, 3, save=first("3")) == ("published", 3, 3)
    assert await put(versions, 2, save=second("4")) == ("conflict", 2, 3)
    await versions.activate("one", 2)
    assert await put(versions, 5, save=second("5")) == ("published", 4, 4)
    assert await put(versions, 6, save=first("6")) == ("conflict", 5, 4)
    assert (await versions.saved("a", "one"), await versions.saved("c", "one")) == ("6", "")


async def test_what_an_operator_published_meanwhile_is_not_overwritten_by_a_save(versions: Versions) -> None:
    assert await put(versions, 1) == ("published", 1, 1)
    assert await put(versions, 2, save=Save(agent="a", digest="2")) == ("published", 2, 2)
    assert await put(versions, 3) == ("published", 3, 3)
    assert await put(versions, 4, save=Save(agent="a", digest="4")) == ("conflict", 4, 3)


async def test_a_deleted_workflow_of_the_name_is_no_base(versions: Versions) -> None:
    for width in (1, 2, 3):
        await put(versions, width, save=Save(agent="a", digest=str(width)))
    await versions.unpublish("one")
    assert await put(versions, 4, save=Save(agent="b", digest="4")) == ("published", 1, 1)
    assert await put(versions, 5, save=Save(agent="a", digest="5")) == ("conflict", 2, 1)


async def test_a_canary_ends_when_it_becomes_active(versions: Versions) -> None:
    await put(versions, 1)
    await put(versions, 2, activate=False)
    await versions.canary("one", 2, 30)
    standing = (await versions.standings())["one"]
    assert (standing.canary, standing.share) == (2, 30)
    await versions.activate("one", 2)
    standing = (await versions.standings())["one"]
    assert (standing.active, standing.canary, standing.share) == (2, 0, 0)
    with pytest.raises(Conflict):
        await versions.canary("one", 2, 10)


async def test_what_is_not_there_is_told(versions: Versions) -> None:
    with pytest.raises(NotFound):
        await versions.activate("one", 1)
    await put(versions, 1)
    for call in (versions.activate("one", 2), versions.canary("one", 2, 5), versions.read("one", 2)):
        with pytest.raises(NotFound):
            await call
    with pytest.raises(NotFound):
        await versions.unpublish("two")


async def test_the_oldest_go_first_and_never_the_active_one(
    versions: Versions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MOST_VERSIONS", 2)
    await put(versions, 1)
    for width in (2, 3, 4):
        await put(versions, width, activate=False)
    assert [version.number for version in await versions.of("one")] == [4, 3, 1]


async def test_there_are_not_endlessly_many_workflows(versions: Versions, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_WORKFLOWS", 1)
    await put(versions, 1)
    with pytest.raises(Conflict, match="1 workflows"):
        await versions.publish(workflow(1, "two"), author="ann")


async def test_a_complaint_is_news_once(versions: Versions) -> None:
    problem = FileProblem(message="no", file="one.yaml", line=3, agent="a")
    assert await versions.complain("one", problem)
    assert not await versions.complain("one", problem)
    assert await versions.problems() == {"one": problem}
    assert await versions.complain("one", None)
    assert not await versions.complain("one", None)


async def test_what_was_published_before_there_were_versions_is_the_first(
    versions: Versions, redis: Redis, keys: Keys
) -> None:
    old = workflow(7)
    await redis.hset(keys.workflows, "one", old.digest)
    await redis.set(keys.workflow("one"), to_json(old))
    assert (await versions.standings())["one"].active == 1
    assert await versions.read("one", 1) == old
