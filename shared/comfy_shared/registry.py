"""The agents: who is there, what each offers, who drains.

An agent registers with a record and its instance's object info, then calls again as a heartbeat. A heartbeat that
lapses means gone; the record and
the offer stay for the retention, so that a prompt is still checked against what agents had while all of them restart.
Object info is kept once per content: agents with equal instances share it, and a balancer decodes it once.
"""

import hashlib
import zlib
from collections.abc import Mapping
from typing import Any, cast

import msgspec
import structlog
from redis.asyncio import Redis
from redis.exceptions import ResponseError

from comfy_shared import scripts
from comfy_shared.batching import batcher_of
from comfy_shared.errors import Damaged, NotFound
from comfy_shared.keys import Keys
from comfy_shared.models import decode
from comfy_shared.needs import Offer, is_upload
from comfy_shared.store import border

log = structlog.get_logger(__name__)


class Device(msgspec.Struct, frozen=True, kw_only=True):
    """A GPU (or the CPU) of an instance, as GET /system_stats names it."""

    name: str
    type: str
    vram_total: int = 0  # bytes; what is free now is in `Vitals`


class AgentRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What an agent says of itself; a change is news to every balancer."""

    id: str
    address: str  # of its own HTTP routes
    state: str  # waiting (its instance is absent), ready, draining
    reason: str = ""  # why it is not ready
    labels: dict[str, str] = {}
    comfyui_version: str = ""
    devices: tuple[Device, ...] = ()


class Vitals(msgspec.Struct, frozen=True, kw_only=True):
    """What changes all the time; told by the heartbeat."""

    running: tuple[str, ...] = ()  # task ids on the instance
    storing: tuple[str, ...] = ()  # task ids whose outputs are on their way to the file store
    vram_free: int = 0  # bytes, over all devices
    ram_free: int = 0  # bytes


class Agent(msgspec.Struct, frozen=True, kw_only=True):
    """An agent as the registry knows it."""

    record: AgentRecord
    vitals: Vitals
    alive: bool  # its heartbeat has not lapsed
    draining: bool  # told to claim no more
    seen_at: int  # ms, last heartbeat
    digest: str  # of its offer; empty when its instance was never seen


class Replaced(Exception):
    """Another process registered under this agent's id."""


class Registered(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to a registration."""

    draining: bool  # the agent is to drain
    forgotten: bool  # it had been forgotten, while it was cut off or because Redis came back empty


class Registry:
    """The agents of one namespace. Every method raises `Unavailable` while Redis is away."""

    def __init__(self, redis: Redis, keys: Keys, *, heartbeat_ttl: float, retention: float) -> None:
        self.redis = redis
        self._batcher = batcher_of(redis)
        self.keys = keys
        self._ttl_ms = int(heartbeat_ttl * 1000)
        self._retention_ms = int(retention * 1000)
        self._offers: dict[str, Offer] = {}

    async def register(
        self,
        record: AgentRecord,
        vitals: Vitals,
        *,
        session: str,
        offer: "PackedOffer | None",
        takeover: bool,
    ) -> Registered:
        """Says that the agent is there.

        `takeover` is for the first call of a session: an older process of the same id is replaced thereby.

        Raises:
            Replaced: a newer process took this agent's id.
        """
        reply = await self._register(record, vitals, session, offer, takeover=takeover, with_offer=False)
        if reply[0] == b"offer":
            reply = await self._register(record, vitals, session, offer, takeover=takeover, with_offer=True)
        forgotten = reply[0] == b"unregistered"
        if forgotten:
            reply = await self._register(record, vitals, session, offer, takeover=True, with_offer=True)
        if reply[0] == b"replaced":
            raise Replaced
        if takeover:
            # An older process of this agent judged the lanes by its own labels. Whatever is forgotten is asked again.
            with border():
                await self.redis.delete(self.keys.verdicts_prefix + record.id)
        return Registered(draining=bool(reply[1]), forgotten=forgotten)

    async def _register(
        self,
        record: AgentRecord,
        vitals: Vitals,
        session: str,
        offer: "PackedOffer | None",
        *,
        takeover: bool,
        with_offer: bool,
    ) -> list[Any]:
        digest = offer.digest if offer else ""
        with border():
            reply = await scripts.REGISTER(
                self._batcher,
                self.keys,
                {"offer": self.keys.offer(digest)},
                agent=record.id,
                session=session,
                takeover=int(takeover),
                record=msgspec.json.encode(record),
                vitals=msgspec.json.encode(vitals),
                digest=digest,
                object_info=offer.packed if offer and with_offer else b"",
                ttl_ms=self._ttl_ms,
                retention_ms=self._retention_ms,
                vram_total=sum(device.vram_total for device in record.devices),
                vram_free=vitals.vram_free,
            )
        return cast("list[Any]", reply)

    async def deregister(self, agent_id: str, session: str) -> None:
        """Says that the agent goes away on purpose."""
        with border():
            await scripts.DEREGISTER(self._batcher, self.keys, agent=agent_id, session=session)

    async def drain(self, agent_id: str, *, on: bool) -> None:
        """Tells an agent to claim no more, or (`on=False`) to claim again. Raises NotFound."""
        with border():
            reply = await scripts.DRAIN(self._batcher, self.keys, agent=agent_id, on=int(on))
        if reply == b"unknown":
            raise NotFound(f"there is no agent {agent_id}")

    async def free_memory(self, *, unload_models: bool, free_memory: bool) -> None:
        """Tells the agents that live to free their instance's memory, each when it is idle."""
        for agent in await self.agents():
            if agent.alive:
                with border():
                    word = f"free {int(unload_models)} {int(free_memory)}"
                    await self.redis.publish(self.keys.channel(agent.record.id), word)

    async def agents(self) -> list[Agent]:
        """All agents that are remembered, by id. A damaged record is logged and left out."""
        with border():
            pipeline = self.redis.pipeline(transaction=False)
            pipeline.zrange(self.keys.agents, 0, -1, withscores=True)
            pipeline.smembers(self.keys.draining)
            pipeline.time()
            pipeline.get(self.keys.clock)
            listed, draining, time, offset = await pipeline.execute()
            if not listed:
                return []
            pipeline = self.redis.pipeline(transaction=False)
            for agent_id, _ in listed:
                pipeline.hgetall(self.keys.agent(agent_id.decode(errors="replace")))
            hashes = await pipeline.execute(raise_on_error=False)
        now = time[0] * 1000 + time[1] // 1000 + int(offset or 0)
        found = []
        for (agent_id, alive_until), fields in zip(listed, hashes, strict=True):
            if fields == {}:  # forgotten; the next sweep takes its name off the list
                continue
            agent = _read(agent_id, fields, alive=alive_until >= now, draining=agent_id in draining)
            if agent:
                found.append(agent)
        return sorted(found, key=lambda agent: agent.record.id)

    async def offers(self, agents: list[Agent]) -> list[Offer]:
        """The different offers of these agents; each is fetched and decoded once."""
        known = await self.offers_by_digest(agents)
        return [known[digest] for digest in sorted(known)]

    async def offers_by_digest(self, agents: list[Agent]) -> dict[str, Offer]:
        """The same by `Agent.digest`; one that is gone or damaged is not in it."""
        digests = {agent.digest for agent in agents if agent.digest}
        self._offers = {digest: offer for digest, offer in self._offers.items() if digest in digests}
        for digest in digests - set(self._offers):
            try:
                with border():
                    packed = await self.redis.get(self.keys.offer(digest))
                if packed:
                    self._offers[digest] = Offer(unpack_offer(cast("bytes", packed)))
            except (Damaged, ResponseError) as error:
                log.error("Offer is damaged", action="registry.damaged", digest=digest, reason=str(error))
        return dict(self._offers)


def _read(agent_id: bytes, fields: object, *, alive: bool, draining: bool) -> Agent | None:
    try:
        if not isinstance(fields, dict):
            raise Damaged("the agent record is no hash")
        return Agent(
            record=decode(fields[b"record"], AgentRecord),
            vitals=decode(fields[b"vitals"], Vitals),
            alive=alive,
            draining=draining,
            seen_at=int(fields[b"seen_at"]),
            digest=fields[b"digest"].decode(),
        )
    except (Damaged, KeyError, ValueError) as error:
        log.error("Agent record is damaged", action="registry.damaged", agent=repr(agent_id), reason=str(error))
        return None


class PackedOffer(msgspec.Struct, frozen=True, kw_only=True):
    """Object info as it is kept in Redis."""

    digest: str
    packed: bytes


def pack_offer(object_info: Mapping[str, Any]) -> PackedOffer:
    """Object info without the lists of uploaded files, which change with every upload and say nothing of what it can
    run."""
    # Instances load their classes in any order; within a class the order is that of the widgets.
    plain = {name: _without_uploads(entry) for name, entry in sorted(object_info.items()) if isinstance(entry, Mapping)}
    content = msgspec.json.encode(plain)
    return PackedOffer(digest=hashlib.sha256(content).hexdigest()[:32], packed=zlib.compress(content, 6))


def _without_uploads(entry: Mapping[str, Any]) -> dict[str, Any]:
    inputs = {}
    given = entry.get("input")
    for group, members in given.items() if isinstance(given, Mapping) else ():
        if not isinstance(members, Mapping):
            continue
        inputs[group] = {
            name: [[], *list(value)[1:]] if isinstance(value, list) and value and is_upload(value) else value
            for name, value in members.items()
        }
    return {**entry, "input": inputs}


def unpack_offer(packed: bytes) -> dict[str, dict[str, Any]]:
    """Raises Damaged when it is not from `pack_offer`."""
    try:
        return decode(zlib.decompress(packed), dict[str, dict[str, Any]])
    except zlib.error as error:
        raise Damaged("an offer is damaged") from error
