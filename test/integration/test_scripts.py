"""Headers of Lua files are checked when a script is made; a Redis that lost its scripts gets them again."""

import pytest
from redis.asyncio import Redis
from redis.exceptions import ResponseError

from comfy_shared import scripts
from comfy_shared.batching import Batcher
from comfy_shared.keys import Keys
from comfy_shared.queue import Queue
from comfy_shared.scripts import Script
from test.support.builders import new_task


def test_other_arguments_than_the_header_names_are_refused() -> None:
    with pytest.raises(ValueError, match=r"cancel\.lua takes ARGV \('id', 'retention_ms'\), Python gives \('id',\)"):
        Script("cancel", args=("id",))
    with pytest.raises(ValueError, match=r"cancel\.lua takes ARGV"):
        Script("cancel", args=("retention_ms", "id"))


def test_a_key_that_nobody_gives_is_refused() -> None:
    with pytest.raises(ValueError, match=r"submit\.lua names unknown KEYS \['idempotency'\]"):
        Script("submit", args=scripts.SUBMIT.args)


def test_a_part_without_the_keys_that_it_needs_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    files = {"short.lua": "-- KEYS: clock\n-- USES: wake\n", "lib/wake.lua": "-- NEEDS: idle agents clock\n"}
    monkeypatch.setattr(scripts, "_read", lambda file: files[file])
    with pytest.raises(ValueError, match=r"short\.lua uses wake and lacks its KEYS \['agents', 'idle'\]"):
        Script("short", args=())


async def test_scripts_come_back_after_redis_lost_them(redis: Redis, queue: Queue) -> None:
    for _ in range(2):
        await queue.submit([new_task()], queue_limit=10)
        await redis.script_flush()
    await queue.submit([new_task()], queue_limit=10)
    await queue.submit([new_task()], queue_limit=10)
    assert await redis.zcard(queue.keys.queue) == 4


async def test_every_script_compiles_and_touches_only_keys_of_its_header(redis: Redis, keys: Keys) -> None:
    """Each name in a header is used, and no key name is written out in a body."""
    found = [value for value in vars(scripts).values() if isinstance(value, Script)]
    assert len(found) > 10
    for script in found:
        await redis.script_load(script.text)
        body = script.text.split("\n", 1)[1]
        unused = [name for name in script.keys if not _mentions(body, name)]
        assert unused == [], script.name
        assert keys.base not in script.text


def _mentions(body: str, name: str) -> bool:
    code = [line.split("--")[0] for line in body.splitlines()]
    return any(name in line for line in code)


async def test_an_error_in_a_script_stays_an_error(redis: Redis, keys: Keys, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bug is loud: it is no `Unavailable` that everybody tries again."""
    monkeypatch.setattr(scripts, "_read", lambda _file: "-- KEYS: clock\nreturn redis.call('GET', clock)")
    script = Script("broken", args=())
    await redis.hset(keys.clock, "x", "1")
    with pytest.raises(ResponseError, match="WRONGTYPE"):
        await script(Batcher(redis), keys)
