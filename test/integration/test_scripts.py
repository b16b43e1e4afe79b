"""Headers of Lua files are checked when a script is made; a Redis that lost its scripts gets them again."""

import asyncio
import re

import pytest
from redis.asyncio import Redis
from redis.exceptions import ResponseError

from comfy_shared import scripts
from comfy_shared.batching import LEAST, Batcher
from comfy_shared.keys import Keys
from comfy_shared.queue import Queue
from comfy_shared.scripts import Script
from test.support.builders import new_task

SCRIPTS = [value for value in vars(scripts).values() if isinstance(value, Script)]


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
    for script in SCRIPTS:
        await redis.script_load(script.text)
        body = scripts._read(f"{script.name}.lua")
        whole = [body, *(scripts._read(f"lib/{part}.lua") for part in scripts._names(body, "USES"))]
        unused = [name for name in scripts._names(body, "KEYS") if not any(_mentions(text, name) for text in whole)]
        assert unused == [], script.name
        assert keys.base not in script.text


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_what_a_script_leaves_out_it_does_not_name(script: Script) -> None:
    """Neither a definition of a part nor a key; what it has, it has only once. What is within a rare function is known
    only there."""
    body = scripts._read(f"{script.name}.lua")
    parts = [scripts._read(f"lib/{part}.lua") for part in scripts._names(body, "USES")]
    made = {name for part in parts for line in part.splitlines() for name in scripts.defined(line)}
    blocks = re.split(r"^(?=local )", script.text, flags=re.MULTILINE)
    kept = [name for block in blocks for name in scripts.defined(block)]
    assert len(kept) == len(set(kept))
    names = {*made, *scripts._names(body, "KEYS")} - {*kept, *script.keys}
    for block in blocks:
        within = {name for line in block.splitlines() for name in scripts.defined(line.strip())}
        assert [name for name in sorted(names - within) if _mentions(block, name)] == []


def test_a_part_is_its_header_and_definitions() -> None:
    """A line before the first definition would be lost."""
    for script in SCRIPTS:
        for part in scripts._names(scripts._read(f"{script.name}.lua"), "USES"):
            before = scripts._read(f"lib/{part}.lua").partition("\nlocal ")[0]
            assert all(line.startswith("--") for line in before.splitlines() if line), part


def test_a_record_is_read_in_the_order_in_which_it_is_asked_for() -> None:
    """`open` writes the names twice: the fields it asks for, and the places of their values."""
    text = scripts._read("lib/record.lua").partition("local function open")[2].partition("\nlocal function")[0]
    asked = re.findall(r"'(\w+)'", text.partition("'HMGET'")[2].partition("\n  if ")[0])
    assert len(asked) == 27
    places = dict(re.findall(r"(\w+) = read\[(\d+)\]", text.partition("return checked(")[2]))
    assert {name: int(place) for name, place in places.items()} == {name: place for place, name in enumerate(asked, 1)}


def _mentions(text: str, name: str) -> bool:
    return re.search(rf"\b{name}\b", re.sub(r"--.*|'[^'\n]*'", "", text)) is not None


async def test_an_error_in_a_script_stays_an_error(redis: Redis, keys: Keys, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bug is loud: it is no `Unavailable` that everybody tries again."""
    monkeypatch.setattr(scripts, "_read", lambda _file: "-- KEYS: clock\nreturn redis.call('GET', clock)")
    script = Script("broken", args=())
    await redis.hset(keys.clock, "x", "1")
    with pytest.raises(ResponseError, match="WRONGTYPE"):
        await script(Batcher(redis), keys)


async def test_calls_that_wait_together_share_a_command_and_each_has_its_reply(
    redis: Redis, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = """-- KEYS: clock
-- ARGV: number
-- REST: value
redis.call('INCR', clock)
local values = {}
for i = 1, number do values[i] = value(i) end
return values"""
    monkeypatch.setattr(scripts, "_read", lambda _file: body)
    script, batcher = Script("echo", args=("number",)), Batcher(redis)
    await script(batcher, keys, number=0)
    await redis.config_resetstat()
    given = [[b"%d-%d" % (call, number) for number in range(call % 3)] for call in range(LEAST)]
    replies = await asyncio.gather(*[script(batcher, keys, rest=values, number=len(values)) for values in given])
    assert replies == given
    assert (await redis.info("commandstats"))["cmdstat_evalsha"]["calls"] == 1
    assert await redis.get(keys.clock) == b"%d" % (LEAST + 1)


@pytest.mark.parametrize(
    "failure", ["redis.call('HGET', clock, 'x')", "local nothing; nothing.x = 1", "error({err = 'OOM no'})"]
)
async def test_a_call_that_fails_does_not_keep_the_others_of_its_command_from_being_done(
    redis: Redis, keys: Keys, monkeypatch: pytest.MonkeyPatch, failure: str
) -> None:
    body = f"-- KEYS: clock\n-- ARGV: number\nif number == '1' then {failure} end\nreturn redis.call('INCR', clock)"
    monkeypatch.setattr(scripts, "_read", lambda _file: body)
    script, batcher = Script("stumbles", args=("number",)), Batcher(redis)
    assert await script(batcher, keys, number="0") == 1
    replies = await asyncio.gather(*[script(batcher, keys, number=n) for n in range(3)], return_exceptions=True)
    assert [replies[0], replies[2]] == [2, 3]
    assert isinstance(replies[1], ResponseError)
