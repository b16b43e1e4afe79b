"""The connection to Redis, and the border at which its errors become ours.

One pooled client a process. A command waits at most `timeout` seconds, so that a stalled Redis turns into
`Unavailable` and not into a hang;
a broken pooled connection is tried once more at once (every transition may be repeated: see the `known` and `settled`
checks in Lua).
"""

import re

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from comfy_shared.errors import Unavailable
from comfy_shared.settings import RedisSettings

# What Redis itself answers in states that pass: no memory, no disk, still loading, a replica, no leader, a stuck
# script.
PASSING = ("OOM", "MISCONF", "LOADING", "READONLY", "MASTERDOWN", "NOREPLICAS", "CLUSTERDOWN", "TRYAGAIN", "BUSY")


def connect(settings: RedisSettings) -> Redis:
    """A client for `settings`; it connects at its first command. The caller closes it with `aclose()`.

    A command beyond `redis_connections` waits for a free connection, also `redis_timeout` at most.
    """
    pool = BlockingConnectionPool(
        max_connections=settings.redis_connections,
        timeout=settings.redis_timeout,
        host=settings.redis_host,
        port=settings.redis_port,
        password=settings.redis_password.get_secret_value() or None,
        db=settings.redis_db,
        socket_timeout=settings.redis_timeout,
        socket_connect_timeout=settings.redis_timeout,
        socket_keepalive=True,
        retry=Retry(NoBackoff(), 1, supported_errors=(RedisConnectionError,)),
    )
    return Redis.from_pool(pool)


class _Border:
    """A class, not a generator: every call to Redis passes it."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if isinstance(error, RedisConnectionError | RedisTimeoutError | OSError):
            raise Unavailable(f"Redis is away for now ({type(error).__name__}).") from error
        if isinstance(error, ResponseError):
            # The client strips the words that it knows; Redis 6 puts "-WORD " into the error of a script.
            words = {error.status_code, *re.findall(r"(?:^|-)([A-Z]+) ", str(error))}
            word = next((word for word in PASSING if word in words), None)
            if word is not None:
                raise Unavailable(f"Redis takes no commands for now ({word}).") from error


_BORDER = _Border()


def border() -> _Border:
    """Turns what the client library raises into `Unavailable`; any other error of Redis is a bug of ours and stays one.

    Raises:
        Unavailable: Redis is away, stalled, full, loading or read-only.
    """
    return _BORDER
