"""A real redis-server for the whole run; each test has a key namespace of its own, which must not leak keys."""

import itertools
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator
from pathlib import Path

import pytest
import redis as redis_package
from redis.asyncio import Redis

from comfy_shared.keys import Keys
from comfy_shared.models import Needs
from comfy_shared.queue import Queue
from comfy_shared.registry import Registry
from comfy_shared.settings import SharedSettings
from comfy_shared.store import connect
from test.integration import balancer_support
from test.support.agents import Hand
from test.support.leaks import delete_namespace, leaked_keys
from test.support.redis_server import RedisServer
from test.support.settings import settings_for

_namespaces = itertools.count(1)


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """The server that all tests share; a test that stops, kills or freezes one takes `own_redis`."""
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    yield server
    server.stop()


@pytest.fixture
def core_nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The classes of a balancer's agents are ComfyUI's own: the role user may use them."""
    modules = {name: entry | {"python_module": "nodes"} for name, entry in balancer_support.OBJECT_INFO.items()}
    monkeypatch.setattr(balancer_support, "OBJECT_INFO", modules)


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[RedisServer]:
    """A server for this test alone, which loses nothing that it acknowledged."""
    folder = tmp_path / "own-redis"
    folder.mkdir()
    server = RedisServer(folder, fsync="always")
    yield server
    server.stop()


@pytest.fixture
def settings(redis_server: RedisServer, tmp_path: Path) -> SharedSettings:
    """Of this test alone: nothing is read from the environment or a `.env`."""
    return settings_for(redis_server.port, f"test-{os.getpid()}-{next(_namespaces)}", tmp_path / "files")


@pytest.fixture
def keys(settings: SharedSettings) -> Keys:
    return Keys(settings.redis_namespace)


@pytest.fixture(autouse=True)
def _no_key_leaks(request: pytest.FixtureRequest) -> Iterator[None]:
    """After a test that used `redis`: every key has a lifetime, is permanent or belongs to a task that lives."""
    if "redis" not in request.fixturenames:
        yield
        return
    settings: SharedSettings = request.getfixturevalue("settings")
    names = Keys(settings.redis_namespace)
    yield
    with redis_package.Redis(port=settings.redis_port) as client:
        leaked = leaked_keys(client, names)
        delete_namespace(client, names)
    assert leaked == [], "these keys would stay for ever"


@pytest.fixture
async def redis(settings: SharedSettings) -> AsyncIterator[Redis]:
    client = connect(settings)
    yield client
    await client.aclose()


@pytest.fixture
def queue(redis: Redis, keys: Keys, settings: SharedSettings) -> Queue:
    return Queue(redis, keys, settings)


@pytest.fixture
def registry(redis: Redis, keys: Keys, settings: SharedSettings) -> Registry:
    return Registry(redis, keys, heartbeat_ttl=15, retention=settings.agent_retention)


@pytest.fixture
def hand(queue: Queue, registry: Registry) -> Callable[..., Awaitable[Hand]]:
    """Makes registered agents: `await hand("gpu-1", serves=[NEEDS_A])`."""

    async def make(name: str = "gpu-1", *, session: str = "s1", serves: Collection[Needs] | None = None) -> Hand:
        made = Hand(queue, registry, name, session=session, serves=serves)
        await made.register()
        return made

    return make
