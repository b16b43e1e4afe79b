"""What a task may ask of its outputs, from the submit to the agent, and what is refused."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from redis.asyncio import Redis

from comfy_shared.output_options import OutputOptions, PictureFormat
from comfy_shared.settings import SharedSettings
from test.integration.balancer_support import SMOKE, TASKS, Balancer, fields_of, running


@pytest.fixture
async def balancer(redis: Redis, settings: SharedSettings) -> AsyncIterator[Balancer]:
    async with running(redis, settings) as made:
        yield made


async def test_the_options_reach_whoever_claims_the_task(balancer: Balancer) -> None:
    wish = {"format": "avif", "quality": 50, "max_size": 640, "strip_metadata": True}
    await balancer.submit(SMOKE | {"output": wish})
    attempt = await (await balancer.hand()).take()
    assert attempt.task.output_options == OutputOptions(
        format=PictureFormat.AVIF, quality=50, max_size=640, strip_metadata=True
    )
    await balancer.submit()
    assert (await (await balancer.hand("gpu-2")).take()).task.output_options is None


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"format": "bmp"}, "output.format"),
        ({"format": "WEBP"}, "output.format"),
        ({"format": "webp", "quality": 0}, "output.quality"),
        ({"format": "webp", "quality": 101}, "output.quality"),
        ({"format": "webp", "quality": 80.5}, "output.quality"),
        ({"format": "png", "quality": 80}, "output.quality"),
        ({"quality": 80}, "output.quality"),
        ({"max_size": 1}, "output.max_size"),
        ({"max_size": 10**9}, "output.max_size"),
        ({"strip_metadata": "yes"}, "output.strip_metadata"),
        ({"resize": 5}, "output.resize"),
        ([], "output"),
        ("webp", "output"),
    ],
)
async def test_options_that_cannot_be_are_refused_by_name(balancer: Balancer, options: Any, field: str) -> None:
    answer = await balancer.client.post(TASKS, json=SMOKE | {"output": options})
    assert (answer.status_code, fields_of(answer)) == (422, [field])
    assert await balancer.traces() == []


async def test_tasks_share_a_result_only_when_they_ask_the_same_of_it(balancer: Balancer) -> None:
    one = {"workflow": "smoke", "parameters": {"color": 1}, "reuse": True}
    small = one | {"output": {"max_size": 64}}
    first, other = await balancer.submit(one), await balancer.submit(small)
    assert (first["reused"], other["reused"]) == (None, None)
    assert (await balancer.submit(small))["reused"] == other["id"]
    assert (await balancer.submit(one))["reused"] == first["id"]
