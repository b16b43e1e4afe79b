"""The channel on which an agent is told of work, cancellations and the like, as they happen."""

from collections.abc import Callable

import structlog
from redis.asyncio import Redis

from comfy_shared.errors import Unavailable
from comfy_shared.lifecycle import Backoff, Loops
from comfy_shared.store import border

log = structlog.get_logger(__name__)

TURN = 0.2  # seconds that it listens before it looks for the stop


class Ear:
    """Listens to one channel. Run `listen` as a supervised loop."""

    def __init__(self, redis: Redis, channel: str) -> None:
        self._redis = redis
        self._channel = channel

    async def listen(self, loops: Loops, on_open: Callable[[], None], on_message: Callable[[str], None]) -> None:
        """Works until the stop. `on_open` is called each time that the channel is open (again): what was told before
        was missed."""
        backoff = Backoff(0.1, 2.0)
        while not loops.stop.is_set():
            try:
                with border():
                    async with self._redis.pubsub() as pubsub:
                        await pubsub.subscribe(self._channel)
                        on_open()
                        backoff.reset()
                        while not loops.stop.is_set():
                            message = await pubsub.get_message(ignore_subscribe_messages=True, timeout=TURN)
                            if message is not None:
                                on_message(bytes(message["data"]).decode(errors="replace"))
            except Unavailable as error:
                log.warning("Wake-ups are not readable now", action="agent.control_away", reason=error.message)
                await loops.pause(backoff.next())
