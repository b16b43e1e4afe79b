"""What this process knows of workflows and offers: read from Redis once, dropped when the events say that it changed.

Both can be read again at any time; a process that was just started, or cut off from Redis, knows nothing and asks.
"""

import asyncio
import difflib
from typing import cast

import structlog
from redis.asyncio import Redis

from comfy_balancer.eligibility import Member, different
from comfy_shared.errors import Damaged, NotFound, Unavailable
from comfy_shared.keys import Keys
from comfy_shared.lifecycle import Loops
from comfy_shared.needs import Offer
from comfy_shared.registry import Agent, Registry
from comfy_shared.store import border
from comfy_shared.workflows import Workflow, WorkflowError, from_json

log = structlog.get_logger(__name__)

REREAD = 30.0  # seconds; that an agent was forgotten is no event


class Catalog:
    """The published workflows. Methods raise `Unavailable` while Redis is away and something must be read."""

    def __init__(self, redis: Redis, keys: Keys) -> None:
        self._redis = redis
        self._keys = keys
        self._names: list[str] | None = None
        self._known: dict[str, Workflow] = {}
        self._generation = 0  # of what is known: an answer to an older question is not kept

    def forget(self) -> None:
        """Something was published."""
        self._generation += 1
        self._names = None
        self._known = {}

    async def names(self) -> list[str]:
        """Names of all workflows, sorted."""
        if self._names is not None:
            return self._names
        generation = self._generation
        with border():
            found = cast("list[bytes]", await self._redis.hkeys(self._keys.workflows))
        names = sorted(name.decode(errors="replace") for name in found)
        if generation == self._generation:
            self._names = names
        return names

    async def get(self, name: str) -> Workflow:
        """A workflow by its name.

        Raises:
            NotFound: there is none.
            Damaged: it cannot be read.
        """
        if name in self._known:
            return self._known[name]
        generation = self._generation
        if name not in await self.names():
            raise NotFound(f"there is no workflow {name[:64]!r}")
        with border():
            content = cast("bytes | None", await self._redis.get(self._keys.workflow(name)))
        try:
            workflow = from_json(content or b"")
        except WorkflowError as error:
            log.error("Workflow is damaged", action="workflow.damaged", workflow=name, reason=str(error))
            raise Damaged(f"the stored workflow {name} is damaged") from error
        if generation == self._generation:
            self._known[name] = workflow
        return workflow

    async def all(self) -> list[Workflow]:
        """All sound workflows, by name; a damaged one is logged and left out."""
        found = []
        for name in await self.names():
            try:
                found.append(await self.get(name))
            except (Damaged, NotFound):
                continue
        return found

    async def nearest(self, name: str) -> list[str]:
        """Names that look like this one."""
        return difflib.get_close_matches(name[:64], await self.names(), 3)


class Fleet:
    """The agents, and the offers that a prompt is checked against."""

    def __init__(self, registry: Registry) -> None:
        self.registry = registry
        self._members: list[Member] | None = None
        self._changed = asyncio.Event()
        self._reading = asyncio.Lock()

    def refresh_soon(self) -> None:
        """The agents changed."""
        self._changed.set()

    async def members(self) -> list[Member]:
        """The remembered agents with their offers, by id, as last read. Raises Unavailable before the first reading."""
        if self._members is None:
            async with self._reading:
                if self._members is None:
                    await self._read()
        return self._members or []

    async def now(self) -> list[Member]:
        """The same as they are now: who is alive, who drains."""
        async with self._reading:
            return await self._read()

    async def offers(self) -> list[Offer]:
        """What the agents offer, each once; empty when nothing is known of any."""
        return different(await self.members())

    async def agents(self) -> list[Agent]:
        """All agents, as they are now."""
        return await self.registry.agents()

    async def _read(self) -> list[Member]:
        agents = await self.registry.agents()
        offers = await self.registry.offers_by_digest(agents)
        self._members = [Member(agent=agent, offer=offers.get(agent.digest)) for agent in agents]
        return self._members

    async def keep_fresh(self, loops: Loops, *, pause: float = 0.5) -> None:
        """Reads again when told, at most once in `pause` seconds."""
        stopping = asyncio.create_task(loops.stop.wait())
        try:
            while not loops.stop.is_set():
                told = asyncio.create_task(self._changed.wait())
                await asyncio.wait({told, stopping}, timeout=REREAD, return_when=asyncio.FIRST_COMPLETED)
                told.cancel()
                self._changed.clear()
                try:
                    async with self._reading:
                        await self._read()
                except Unavailable:
                    self._changed.set()
                await loops.pause(pause)
        finally:
            stopping.cancel()
