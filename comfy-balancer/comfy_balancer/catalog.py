"""What this process knows of workflows and offers: read from Redis once, dropped when the events say that it changed.

Both can be read again at any time; a process that was just started, or cut off from Redis, knows nothing and asks.
"""

import asyncio
import difflib
from collections.abc import Mapping
from dataclasses import dataclass

import structlog
from redis.asyncio import Redis

from comfy_balancer.eligibility import Member, different
from comfy_shared.errors import Damaged, NotFound, Unavailable
from comfy_shared.keys import Keys
from comfy_shared.lifecycle import Loops
from comfy_shared.needs import Offer
from comfy_shared.registry import Agent, Registry
from comfy_shared.versions import Standing, Versions
from comfy_shared.workflows import Workflow

log = structlog.get_logger(__name__)

_Identity = tuple[str, int, int]  # name, when it was born, number of the version

REREAD = 30.0  # seconds; that an agent was forgotten is no event


@dataclass(frozen=True, kw_only=True, slots=True)
class Release:
    """The versions of a workflow that tasks run."""

    number: int  # of the active version
    workflow: Workflow  # the active version
    canary: Workflow | None = None  # runs a share of the tasks first
    canary_number: int = 0
    share: int = 0  # percent of the tasks


class Catalog:
    """The published workflows. Methods raise `Unavailable` while Redis is away and something must be read."""

    def __init__(self, redis: Redis, keys: Keys) -> None:
        self.versions = Versions(redis, keys)
        self.generation = 0  # of what is known: an answer to an older question is not kept
        self._standings: dict[str, Standing] | None = None
        self._known: dict[_Identity, Workflow] = {}  # only versions that run

    def forget(self) -> None:
        """Something was published, activated, deleted, or is wrong with a file."""
        self.generation += 1
        self._standings = None

    async def standings(self) -> dict[str, Standing]:
        """All workflows, by name, and which versions of each there are."""
        if self._standings is not None:
            return self._standings
        generation = self.generation
        standings = await self.versions.standings()
        if generation == self.generation:
            self._standings = standings
            running = {(name, at.born, number) for name, at in standings.items() for number in (at.active, at.canary)}
            self._known = {identity: workflow for identity, workflow in self._known.items() if identity in running}
        return standings

    async def names(self) -> list[str]:
        """Names of all workflows, sorted."""
        return list(await self.standings())

    async def standing(self, name: str) -> Standing:
        """Which versions of a workflow there are. Raises NotFound."""
        standing = (await self.standings()).get(name)
        if standing is None:
            raise NotFound(f"there is no workflow {name[:64]!r}")
        return standing

    async def get(self, name: str) -> Workflow:
        """The active version of a workflow.

        Raises:
            NotFound: there is none.
            Damaged: it cannot be read.
        """
        standing = await self.standing(name)
        return await self._version(name, standing, standing.active)

    async def release(self, name: str) -> Release:
        """The versions of a workflow that tasks run; a canary that cannot be read runs none. Raises as `get`."""
        standing = await self.standing(name)
        workflow = await self._version(name, standing, standing.active)
        if not standing.share:
            return Release(number=standing.active, workflow=workflow)
        try:
            canary = await self._version(name, standing, standing.canary)
        except (NotFound, Damaged):
            return Release(number=standing.active, workflow=workflow)
        return Release(
            number=standing.active,
            workflow=workflow,
            canary=canary,
            canary_number=standing.canary,
            share=standing.share,
        )

    async def _version(self, name: str, standing: Standing, number: int) -> Workflow:
        identity = (name, standing.born, number)
        if identity not in self._known:
            await self._read({name: standing}, number)
        try:
            return self._known[identity]
        except KeyError:
            raise Damaged(f"the stored workflow {name} is damaged") from None

    async def _read(self, wanted: Mapping[str, Standing], number: int | None = None) -> None:
        """Reads one version of each workflow, `number` or the active one; a damaged one is logged."""
        numbers = {name: number or standing.active for name, standing in wanted.items()}
        found = await self.versions.read_all(numbers)
        for (name, standing), workflow in zip(wanted.items(), found, strict=True):
            if isinstance(workflow, Workflow):
                self._known[name, standing.born, numbers[name]] = workflow
            else:
                log.error("Workflow is damaged", action="workflow.damaged", workflow=name, reason=workflow.message)

    async def all(self) -> list[Workflow]:
        """The active versions of all sound workflows, by name; a damaged one is logged and left out."""
        standings = await self.standings()
        unknown = {name: at for name, at in standings.items() if (name, at.born, at.active) not in self._known}
        if unknown:
            await self._read(unknown)
        identities = [(name, at.born, at.active) for name, at in standings.items()]
        return [self._known[identity] for identity in identities if identity in self._known]

    async def nearest(self, name: str) -> list[str]:
        """Names that look like this one."""
        return difflib.get_close_matches(name[:64], await self.names(), 3)


class Fleet:
    """The agents, and the offers that a prompt is checked against."""

    def __init__(self, registry: Registry) -> None:
        self.registry = registry
        self._members: list[Member] | None = None
        self._offers: list[Offer] = []
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
        """What the agents offer, each once; the same list while that does not change. Empty: nothing is known yet."""
        await self.members()
        return self._offers

    async def agents(self) -> list[Agent]:
        """All agents, as they are now."""
        return await self.registry.agents()

    async def _read(self) -> list[Member]:
        agents = await self.registry.agents()
        offers = await self.registry.offers_by_digest(agents)
        self._members = [Member(agent=agent, offer=offers.get(agent.digest)) for agent in agents]
        offered = different(self._members)
        if list(map(id, offered)) != list(map(id, self._offers)):
            self._offers = offered
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
