"""Finds Redis keys that nobody will ever remove."""

from typing import cast

from redis import Redis

from comfy_shared.keys import PERMANENT, Keys


def leaked_keys(redis: Redis, keys: Keys) -> list[str]:
    """The keys of the namespace that have no lifetime, are not permanent and belong to nothing that still lives."""
    found = [cast("bytes", key).decode(errors="replace") for key in redis.scan_iter(f"{keys.base}*", count=1000)]
    return sorted(key for key in found if redis.pttl(key) == -1 and not _belongs(redis, keys, key))


def _belongs(redis: Redis, keys: Keys, key: str) -> bool:
    name = key.removeprefix(keys.base)
    kind, _, rest = name.partition(":")
    if name in PERMANENT or kind in ("workflow", "userdata", "settings"):
        return True
    if kind in ("task", "story"):
        return _lives(redis, keys, rest)
    if kind in ("lane", "needs", "owners", "turn"):
        return redis.zscore(keys.lanes, rest.partition(":")[0]) is not None
    if kind == "followers":
        return _lives(redis, keys, rest)
    if kind == "assigned":
        waiting = cast("list[bytes]", redis.zrange(key, 0, -1))
        return all(redis.zscore(keys.queue, member) is not None for member in waiting)
    if kind == "held":
        return all(redis.zscore(keys.leases, member) is not None for member in cast("list[bytes]", redis.hvals(key)))
    if kind == "batch":
        return bool(redis.exists(keys.index("batch", rest)))
    if kind == "batches":
        members = cast("list[bytes]", redis.zrange(key, 0, -1))
        return all(redis.exists(keys.batch_prefix + member.decode(errors="replace")) for member in members)
    if kind == "index":
        members = cast("list[bytes]", redis.zrange(key, 0, -1))
        return all(redis.exists(keys.task(member.decode(errors="replace"))) for member in members)
    return False


def _lives(redis: Redis, keys: Keys, task_id: str) -> bool:
    waits = redis.zscore(keys.queue, task_id) is not None
    if waits or redis.zscore(keys.leases, task_id) is not None:
        return True
    joined = (
        cast("bytes | None", redis.hget(keys.task(task_id), "joined"))
        if redis.type(keys.task(task_id)) == b"hash"
        else None
    )
    return joined is not None and bool(redis.sismember(keys.followers_prefix + joined.decode(), task_id))


def delete_namespace(redis: Redis, keys: Keys) -> None:
    """Removes every key of the namespace."""
    found = list(redis.scan_iter(f"{keys.base}*", count=1000))
    for start in range(0, len(found), 500):
        redis.delete(*found[start : start + 500])
