"""Reading and switching the scheduling policy."""

from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis

from comfy_shared.queue import Queue
from comfy_shared.settings import SharedSettings
from test.integration.balancer_support import Balancer, running


@pytest.fixture
async def balancer(redis: Redis, settings: SharedSettings) -> AsyncIterator[Balancer]:
    async with running(redis, settings) as made:
        yield made


async def test_the_policy_is_lane_until_it_is_switched(balancer: Balancer, queue: Queue) -> None:
    assert (await balancer.client.get("/api/v1/policy")).json() == {"policy": "lane"}
    answer = await balancer.client.put("/api/v1/policy", json={"policy": "fifo"})
    assert (answer.status_code, answer.json()) == (200, {"policy": "fifo"})
    assert await queue.policy() == "fifo"
    assert (await balancer.client.get("/api/v1/policy")).json() == {"policy": "fifo"}


async def test_an_unknown_policy_is_refused_by_name(balancer: Balancer, queue: Queue) -> None:
    answer = await balancer.client.put("/api/v1/policy", json={"policy": "random"})
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"] == "policy"
    assert await queue.policy() == "lane"
