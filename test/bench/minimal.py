"""The least that a queue of this kind can be, as a yardstick for what the rest costs: three scripts over the same
client with a lease, a fence and events. No lanes, owners, limits, indexes, stories nor wake-ups of one agent."""

from typing import cast

from redis.asyncio import Redis

from comfy_shared.batching import Batcher
from comfy_shared.models import pack
from comfy_shared.settings import SharedSettings
from comfy_shared.store import connect
from test.bench.prompt import PROMPT

SUBMIT = """
redis.call('HSET', KEYS[2] .. ARGV[1], 'prompt', ARGV[2], 'status', 'pending', 'attempt', '0')
redis.call('ZADD', KEYS[1], ARGV[3], ARGV[1])
redis.call('XADD', KEYS[4], 'MAXLEN', '~', '20000', '*', 'task', ARGV[1], 'type', 'queued')
redis.call('PUBLISH', KEYS[4], 'wake')
"""
CLAIM = """
local id = redis.call('ZPOPMIN', KEYS[1])[1]
if not id then return false end
local now = redis.call('TIME')
redis.call('HINCRBY', KEYS[2] .. id, 'attempt', '1')
redis.call('HSET', KEYS[2] .. id, 'status', 'running', 'agent', ARGV[1])
redis.call('ZADD', KEYS[3], now[1] * 1000 + 15000, id)
redis.call('XADD', KEYS[4], 'MAXLEN', '~', '20000', '*', 'task', id, 'type', 'claimed')
return {id, redis.call('HGETALL', KEYS[2] .. id)}
"""
SETTLE = """
if redis.call('HGET', KEYS[2] .. ARGV[1], 'attempt') ~= ARGV[2] then return 'stale' end
redis.call('ZREM', KEYS[3], ARGV[1])
redis.call('HSET', KEYS[2] .. ARGV[1], 'status', 'completed')
redis.call('XADD', KEYS[4], 'MAXLEN', '~', '20000', '*', 'task', ARGV[1], 'type', 'completed')
redis.call('EXPIRE', KEYS[2] .. ARGV[1], '691200')
"""
KEYS = ("{minimal}:queue", "{minimal}:task:", "{minimal}:leases", "{minimal}:events")


class Minimal:
    """The queue with one agent; tasks are numbered on."""

    channel = KEYS[3]

    def __init__(self, port: int) -> None:
        self.redis: Redis = connect(SharedSettings(redis_port=port, redis_timeout=60))
        self._batcher = Batcher(self.redis)
        self._shas: dict[str, str] = {}
        self._taken: list[list[bytes]] = []
        self._number = 0

    async def open(self) -> None:
        await self.redis.ping()

    async def submit_numbered(self, number: int) -> None:
        await self._run(SUBMIT, str(number), pack(PROMPT), number)

    async def submit(self) -> None:
        self._number += 1
        await self.submit_numbered(self._number)

    async def take(self) -> bool:
        """Whether there was one."""
        reply = cast("list[list[bytes]] | None", await self._run(CLAIM, "agent"))
        if reply is None:
            return False
        flat = reply[1]
        fields = dict(zip(flat[::2], flat[1::2], strict=True))
        self._taken.append([cast("bytes", reply[0]), fields[b"attempt"]])
        return True

    async def settle(self) -> None:
        await self._run(SETTLE, *self._taken.pop())

    async def _run(self, text: str, *values: object) -> object:
        if text not in self._shas:
            self._shas[text] = cast("bytes", await self._batcher.call("SCRIPT", "LOAD", text)).decode()
        return await self._batcher.call("EVALSHA", self._shas[text], len(KEYS), *KEYS, *values)
