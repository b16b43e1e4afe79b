"""Small pictures of outputs: made on demand, kept at the usual sizes, refused where there is no picture."""

import io
from collections.abc import AsyncIterator

import pytest
from PIL import Image
from redis.asyncio import Redis

from comfy_shared.settings import SharedSettings
from test.integration.balancer_support import TASKS, Balancer, fields_of, running
from test.integration.test_batches import asking, complete
from test.support.builders import output


@pytest.fixture
async def balancer(redis: Redis, settings: SharedSettings) -> AsyncIterator[Balancer]:
    async with running(redis, settings) as made:
        yield made


class TestThumbnails:
    async def made(self, balancer: Balancer) -> str:
        await balancer.submit()
        task_id = await complete(balancer, await balancer.hand())
        return f"{TASKS}/{task_id}/outputs/picture.png/thumbnail"

    async def test_a_thumbnail_is_made_once_and_kept(self, balancer: Balancer, monkeypatch: pytest.MonkeyPatch) -> None:
        url = await self.made(balancer)
        first = await balancer.client.get(url)
        assert (first.status_code, first.headers["content-type"]) == (200, "image/webp")
        assert Image.open(io.BytesIO(first.content)).size == (256, 171)
        monkeypatch.setattr("comfy_balancer.thumbnails.thumbnail", None)
        again = await balancer.client.get(url)
        assert again.content == first.content
        unchanged = await balancer.client.get(url, headers={"If-None-Match": first.headers["etag"]})
        assert unchanged.status_code == 304

    async def test_odd_sizes_are_made_and_not_kept(self, balancer: Balancer) -> None:
        url = await self.made(balancer)
        answer = await balancer.client.get(url, params={"size": 99, "format": "jpeg"})
        assert Image.open(io.BytesIO(answer.content)).size == (99, 66)
        assert not any("/thumbnails/" in trace for trace in await balancer.traces())

    async def test_what_has_none_is_said(self, balancer: Balancer) -> None:
        url = await self.made(balancer)
        for wish in ({"size": 5}, {"size": 99999}, {"format": "svg"}):
            answer = await balancer.client.get(url, params=wish)
            assert answer.status_code == 422
            fields_of(answer)
        assert (await balancer.client.get(url.replace("picture.png", "x.png"))).status_code == 404
        with asking(balancer, "bob"):
            assert (await balancer.client.get(url)).status_code == 404
        await balancer.submit()
        attempt = await (await balancer.hand()).take()
        await balancer.queue.complete(attempt, [output("a.txt", content_type="text/plain")])
        answer = await balancer.client.get(f"{TASKS}/{attempt.id}/outputs/a.txt/thumbnail")
        assert fields_of(answer) == ["name"]
