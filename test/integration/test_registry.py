"""Agents come, beat, are replaced, drain and go, on a real Redis."""

from collections.abc import Awaitable, Callable
from typing import cast

import pytest
from redis.asyncio import Redis
from structlog.testing import capture_logs

from comfy_shared.claims import Unregistered
from comfy_shared.errors import NotFound
from comfy_shared.keys import Keys
from comfy_shared.queue import Queue
from comfy_shared.registry import PackedOffer, Registered, Registry, Replaced, Vitals, pack_offer
from test.support.agents import Hand, advance
from test.support.builders import agent_record

HandMaker = Callable[..., Awaitable[Hand]]
OFFER = pack_offer({"SaveImage": {"input": {"required": {"images": ["IMAGE"]}}, "output_node": True}})


async def register(
    registry: Registry,
    name: str = "gpu-1",
    *,
    session: str = "s1",
    offer: PackedOffer | None = OFFER,
    takeover: bool = True,
    vitals: Vitals | None = None,
    state: str = "ready",
) -> Registered:
    record = agent_record(name, state=state)
    return await registry.register(record, vitals or Vitals(), session=session, offer=offer, takeover=takeover)


async def news(redis: Redis, keys: Keys) -> int:
    """Events about agents so far."""
    entries = cast("list[tuple[bytes, dict[bytes, bytes]]]", await redis.xrange(keys.events))
    return sum(fields.get(b"type") == b"agents" for _, fields in entries)


async def test_an_agent_is_listed_as_it_described_itself(registry: Registry) -> None:
    vitals = Vitals(running=("t1",), vram_free=7)
    await register(registry, vitals=vitals)
    (agent,) = await registry.agents()
    assert (agent.record, agent.vitals) == (agent_record("gpu-1"), vitals)
    assert (agent.alive, agent.draining, agent.digest) == (True, False, OFFER.digest)


async def test_agents_are_sorted_by_id(registry: Registry) -> None:
    for name in ("gpu-2", "gpu-1", "gpu-10"):
        await register(registry, name)
    assert [agent.record.id for agent in await registry.agents()] == ["gpu-1", "gpu-10", "gpu-2"]


async def test_a_lapsed_heartbeat_means_gone_and_the_next_one_back(
    registry: Registry, redis: Redis, keys: Keys
) -> None:
    await register(registry)
    await advance(redis, keys, 16)
    assert [agent.alive for agent in await registry.agents()] == [False]
    before = await news(redis, keys)
    await register(registry, takeover=False)
    assert [agent.alive for agent in await registry.agents()] == [True]
    assert await news(redis, keys) == before + 1


async def test_a_heartbeat_is_no_news_but_a_changed_record_is(registry: Registry, redis: Redis, keys: Keys) -> None:
    await register(registry)
    before = await news(redis, keys)
    await register(registry, takeover=False, vitals=Vitals(vram_free=1))
    assert await news(redis, keys) == before
    await register(registry, takeover=False, state="waiting")
    assert await news(redis, keys) == before + 1


async def test_a_newer_process_replaces_the_older(registry: Registry) -> None:
    await register(registry, session="old")
    await register(registry, session="new")
    with pytest.raises(Replaced):
        await register(registry, session="old", takeover=False)
    await registry.deregister("gpu-1", "old")
    assert [agent.alive for agent in await registry.agents()] == [True], "the older one must not sign the newer off"


async def test_a_heartbeat_after_redis_came_back_empty_registers_again(
    registry: Registry, redis: Redis, keys: Keys
) -> None:
    assert not (await register(registry)).forgotten
    await redis.delete(keys.agents, keys.agent("gpu-1"), keys.offer(OFFER.digest))
    assert (await register(registry, takeover=False)).forgotten
    assert not (await register(registry, takeover=False)).forgotten
    agents = await registry.agents()
    assert [agent.record.id for agent in agents] == ["gpu-1"]
    assert len(await registry.offers(agents)) == 1


async def test_equal_offers_are_kept_once_and_live_with_their_agents(
    registry: Registry, redis: Redis, keys: Keys
) -> None:
    await register(registry, "gpu-1")
    await register(registry, "gpu-2")
    await register(registry, "gpu-3", offer=None)
    agents = await registry.agents()
    (offer,) = await registry.offers(agents)
    assert offer.knows("SaveImage")
    assert (await registry.offers(agents))[0] is offer, "decoded once"
    assert await registry.offers([]) == []
    assert 0 < await redis.pttl(keys.offer(OFFER.digest)) <= 3_600_000


async def test_deregister_leaves_no_trace_of_the_agent(
    queue: Queue, registry: Registry, redis: Redis, keys: Keys, hand: HandMaker
) -> None:
    agent = await hand()
    await agent.claim()
    before = await news(redis, keys)
    await registry.deregister(agent.name, agent.session)
    assert await registry.agents() == []
    assert isinstance(await queue.claim(agent.name, agent.session, prompt_id="p"), Unregistered)
    assert await redis.exists(keys.idle, keys.agents, keys.agent("gpu-1"), keys.verdicts_prefix + "gpu-1") == 0
    assert await news(redis, keys) == before + 1


async def test_a_drain_is_told_at_once_and_by_the_next_heartbeat(registry: Registry, hand: HandMaker) -> None:
    """The word on the channel is a hint; a new process of the agent hears it too."""
    agent = await hand()
    async with agent.listening() as ears:
        await registry.drain(agent.name, on=True)
        assert await ears.heard() == ["drain"]
        assert await agent.register(takeover=False)
        assert (await register(registry, agent.name, session="s2")).draining
        assert [known.draining for known in await registry.agents()] == [True]
        await registry.drain(agent.name, on=False)
        assert await ears.heard() == ["resume"]
    assert not (await register(registry, agent.name, session="s2", takeover=False)).draining


async def test_draining_an_unknown_agent_is_refused(registry: Registry) -> None:
    with pytest.raises(NotFound):
        await registry.drain("nobody", on=True)


async def test_a_damaged_record_is_logged_and_left_out(registry: Registry, redis: Redis, keys: Keys) -> None:
    for name in ("good", "bad-json", "bad-type", "bad-number"):
        await register(registry, name)
    await redis.hset(keys.agent("bad-json"), "record", b"{")
    await redis.hset(keys.agent("bad-number"), "seen_at", b"soon")
    await redis.delete(keys.agent("bad-type"))
    await redis.set(keys.agent("bad-type"), b"x", ex=60)
    with capture_logs() as logs:
        assert [agent.record.id for agent in await registry.agents()] == ["good"]
    assert [line["action"] for line in logs] == ["registry.damaged"] * 3


async def test_an_agent_that_is_only_forgotten_is_no_error(registry: Registry, redis: Redis, keys: Keys) -> None:
    # Between the end of the record's lifetime and the next sweep every listing logged an ERROR.
    await register(registry)
    await redis.delete(keys.agent("gpu-1"))
    with capture_logs() as logs:
        assert await registry.agents() == []
    assert logs == []


@pytest.mark.parametrize("content", [b"", b"\xff", b"x\x9c\x03\x00\x00\x00\x00\x01"])
async def test_a_damaged_offer_is_logged_and_left_out(
    registry: Registry, redis: Redis, keys: Keys, content: bytes
) -> None:
    await register(registry)
    await redis.set(keys.offer(OFFER.digest), content, ex=60)
    assert await registry.offers(await registry.agents()) == []


async def test_an_offer_of_the_wrong_type_is_left_out(registry: Registry, redis: Redis, keys: Keys) -> None:
    await register(registry)
    await redis.delete(keys.offer(OFFER.digest))
    await redis.hset(keys.offer(OFFER.digest), "x", "y")
    await redis.expire(keys.offer(OFFER.digest), 60)
    assert await registry.offers(await registry.agents()) == []
