"""`comfyctl keys create | list | revoke`: API keys, straight in Redis (REDIS_HOST …, as the balancer has them)."""

import argparse
import asyncio
import sys
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any, TypeVar

from comfy_balancer.cli.errors import CommandError
from comfy_balancer.login.api_keys import KEY, ApiKeys
from comfy_shared.callers import Role
from comfy_shared.keys import Keys
from comfy_shared.settings import RedisSettings
from comfy_shared.store import connect

T = TypeVar("T")


def add(groups: "argparse._SubParsersAction[Any]") -> None:
    """Adds the group."""
    group = groups.add_parser("keys", help="API keys of people and programs")
    commands = group.add_subparsers(title="commands", required=True, metavar="COMMAND")
    create = commands.add_parser("create", help="make a key; it is shown this once")
    create.add_argument("--owner", required=True, help="in whose name it acts")
    create.add_argument("--role", type=Role, choices=list(Role), default=Role.USER, help="user (default) or admin")
    create.set_defaults(run=_create)
    commands.add_parser("list", help="all keys, oldest first").set_defaults(run=_list)
    revoke = commands.add_parser("revoke", help="end a key, on all replicas within a second")
    revoke.add_argument("id", help="its id, as `list` shows it")
    revoke.set_defaults(run=_revoke)


def _create(given: argparse.Namespace) -> int:
    try:
        key = _with_keys(lambda keys: keys.create(given.owner, given.role))
    except ValueError as error:
        raise CommandError(str(error)) from None
    sys.stderr.write(f"The key of {given.owner} ({given.role}). It is not shown again.\n")
    sys.stdout.write(key + "\n")
    return 0


def _list(_: argparse.Namespace) -> int:
    sys.stdout.write(f"{'id':<14}{'owner':<24}{'role':<8}{'created':<22}last used\n")
    for key in _with_keys(lambda keys: keys.list()):
        used = _time(key.used_at) if key.used_at else "-"
        sys.stdout.write(f"{key.id:<14}{key.owner:<24}{key.role:<8}{_time(key.created_at):<22}{used}\n")
    return 0


def _revoke(given: argparse.Namespace) -> int:
    whole = KEY.fullmatch(given.id)  # somebody who has the key at hand need not know which part is its id
    key_id = whole.group(1) if whole else given.id
    _with_keys(lambda keys: keys.revoke(key_id))
    sys.stderr.write(f"Revoked {key_id[:64]}.\n")
    return 0


def _time(milliseconds: int) -> str:
    return datetime.fromtimestamp(milliseconds / 1000, UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def _with_keys(work: Callable[[ApiKeys], Awaitable[T]]) -> T:
    async def run() -> T:
        settings = RedisSettings()
        redis = connect(settings)
        try:
            return await work(ApiKeys(redis, Keys(settings.redis_namespace)))
        finally:
            await redis.aclose()

    return asyncio.run(run())
