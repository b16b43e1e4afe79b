"""An agent as the queue sees one, without an instance: it registers, listens and claims."""

import itertools
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from typing import cast

from redis.asyncio import Redis
from redis.asyncio.client import PubSub

from comfy_shared.claims import Attempt, ClaimReply, UnknownLanes
from comfy_shared.keys import Keys
from comfy_shared.models import Needs
from comfy_shared.queue import Queue
from comfy_shared.registry import Registry, Vitals
from test.support.builders import agent_record

_prompts = itertools.count(1)


class Hand:
    """One process of an agent."""

    def __init__(
        self,
        queue: Queue,
        registry: Registry,
        name: str,
        *,
        session: str = "s1",
        serves: Collection[Needs] | None = None,  # None: everything
    ) -> None:
        self.queue = queue
        self.registry = registry
        self.name = name
        self.session = session
        self.serves = serves

    async def register(self, *, takeover: bool = True) -> bool:
        record = agent_record(self.name)
        told = await self.registry.register(record, Vitals(), session=self.session, offer=None, takeover=takeover)
        return told.draining

    async def claim(self) -> ClaimReply:
        """Claims, and judges the lanes that it is asked about, until there is an answer."""
        verdicts: dict[str, bool] = {}
        while True:
            prompt_id = f"prompt-{next(_prompts)}"
            reply = await self.queue.claim(self.name, self.session, prompt_id=prompt_id, verdicts=verdicts)
            if not isinstance(reply, UnknownLanes):
                return reply
            verdicts = {lane: self.serves is None or needs in self.serves for lane, needs in reply.needs.items()}

    async def take(self) -> Attempt:
        """Claims and expects a task."""
        reply = await self.claim()
        assert isinstance(reply, Attempt), reply
        return reply

    @asynccontextmanager
    async def listening(self) -> AsyncIterator["Ears"]:
        """Hears the agent's channel from here on."""
        async with self.queue.redis.pubsub() as channel:
            await channel.subscribe(self.queue.keys.channel(self.name))
            assert await channel.get_message(timeout=5) is not None  # the confirmation
            yield Ears(channel, self.queue.redis, self.queue.keys.channel(self.name))


class Ears:
    """What was said on one agent's channel."""

    def __init__(self, channel: PubSub, redis: Redis, name: str) -> None:
        self._channel = channel
        self._redis = redis
        self._name = name

    async def heard(self) -> list[str]:
        """Everything said since the last call: a word of our own marks the end, so nothing has to be waited out."""
        await self._redis.publish(self._name, "end of the test's question")
        words: list[str] = []
        while True:
            message = await self._channel.get_message(ignore_subscribe_messages=True, timeout=5)
            assert message is not None, "the mark did not arrive"
            word = cast("bytes", message["data"]).decode()
            if word == "end of the test's question":
                return words
            words.append(word)


async def advance(redis: Redis, keys: Keys, seconds: float) -> None:
    """Moves the clock of all transitions forward."""
    await redis.incrby(keys.clock, round(seconds * 1000))
