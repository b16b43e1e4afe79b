"""Inputs that are no uploads: another task's output, a data URL, a URL that the balancer fetches."""

import base64
import hashlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
from redis.asyncio import Redis

from comfy_shared.files import input_key, open_store
from comfy_shared.models import Output, TaskError
from comfy_shared.settings import SharedSettings
from test.integration.balancer_support import TASKS, WITH_FILE, Balancer, fields_of, picture, running
from test.integration.test_batches import asking
from test.integration.test_fetching import ENDLESS, Answer, moved, ok, served
from test.support.builders import output

IMAGE = "parameters.image"
HELD = {"hold": "true"}  # the agent of these tests has no sampler
CHECK = f"{TASKS}/check"


@pytest.fixture
async def balancer(redis: Redis, settings: SharedSettings) -> AsyncIterator[Balancer]:
    async with running(redis, settings, fetch_private="127.0.0.0/8", fetch_limit=5000, fetch_timeout=2) as made:
        yield made


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def data_url(data: bytes, kind: str = "image/png") -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def wish(image: Any, **more: Any) -> dict[str, Any]:
    return {"workflow": "image-to-image", "parameters": {"image": image}, **more}


async def refused(balancer: Balancer, image: Any) -> str:
    """What is said against an image, which is refused without a trace."""
    before = await balancer.traces()
    answer = await balancer.client.post(TASKS, json=wish(image), params=HELD)
    assert (answer.status_code, fields_of(answer)) == (422, [IMAGE]), answer.text
    assert await balancer.traces() == before
    return str(answer.json()["errors"][0]["message"])


async def stored_inputs(balancer: Balancer) -> list[str]:
    return [trace.rpartition("/")[2] for trace in await balancer.traces() if "/inputs/" in trace]


async def ended(balancer: Balancer, data: bytes | None, **changes: Any) -> tuple[str, Output]:
    """A completed task with one output; of `None` the file is gone."""
    await balancer.submit()
    attempt = await (await balancer.hand()).take()
    one = output(key=f"outputs/{attempt.id}/1/picture.png", size=len(data or b""), sha256=sha256(data or b"gone"))
    if data is not None:
        await open_store(balancer.settings).put(one.key, data)
    await balancer.queue.complete(attempt, [one])
    return attempt.id, one


class TestTasks:
    async def test_an_output_becomes_the_input_stored_once(self, balancer: Balancer) -> None:
        data = picture(color=5)
        task_id, _ = await ended(balancer, data)
        for _ in range(2):
            task = await balancer.submit(wish(f"task:{task_id}/picture.png"), params=HELD)
            (file,) = (await balancer.queue.get(task["id"])).inputs
            assert (file.sha256, file.extension, file.size) == (sha256(data), ".png", len(data))
            assert task["parameters"]["image"] == sha256(data)
        assert await stored_inputs(balancer) == [f"{sha256(data)}.png"]

    async def test_a_prompt_takes_one_where_it_takes_an_upload_and_only_there(self, balancer: Balancer) -> None:
        data = picture(color=6)
        task_id, _ = await ended(balancer, data)
        reference = f"task:{task_id}/picture.png"
        prompt = WITH_FILE | {
            "1": {"class_type": "LoadImage", "inputs": {"image": reference}},
            "3": {"class_type": "CLIPTextEncode", "inputs": {"text": reference}},
        }
        task = await balancer.submit({"prompt": prompt})
        stored = (await balancer.client.get(task["links"]["prompt"])).json()
        assert stored["1"]["inputs"]["image"] == sha256(data)
        assert stored["3"]["inputs"]["text"] == reference

    async def test_a_sweep_over_pictures_of_each_kind(self, balancer: Balancer) -> None:
        pictures = [picture(color=color) for color in (1, 2, 3)]
        task_id, _ = await ended(balancer, pictures[0])
        stored = await balancer.client.post("/api/v1/inputs", files={"file": ("a", pictures[1])})
        images = [f"task:{task_id}/picture.png", stored.json()["sha256"], data_url(pictures[2])]
        batch = (await balancer.client.post(TASKS, json=wish(images), params=HELD)).json()
        assert [task["parameters"]["image"] for task in batch["tasks"]] == [sha256(data) for data in pictures]

    async def test_a_task_that_is_not_completed_is_told_with_its_status(self, balancer: Balancer) -> None:
        waiting = await balancer.submit()
        assert "is pending" in await refused(balancer, f"task:{waiting['id']}/a.png")
        hand = await balancer.hand()
        attempt = await hand.take()
        assert "is running" in await refused(balancer, f"task:{waiting['id']}/a.png")
        await balancer.queue.fail(attempt, TaskError(code="x", message="It went wrong."))
        assert "is failed" in await refused(balancer, f"task:{waiting['id']}/a.png")

    async def test_an_output_that_is_not_there_is_told(self, balancer: Balancer) -> None:
        task_id, _ = await ended(balancer, picture())
        assert "has no output pictures.png" in await refused(balancer, f"task:{task_id}/pictures.png")
        answer = await balancer.client.post(TASKS, json=wish(f"task:{task_id}/pictures.png"), params=HELD)
        assert answer.json()["errors"][0]["nearest"] == ["picture.png"]
        gone, _ = await ended(balancer, None)
        assert "is gone" in await refused(balancer, f"task:{gone}/picture.png")
        assert "no task" in await refused(balancer, f"task:{'0' * 26}/picture.png")

    @pytest.mark.parametrize(
        "reference", ["task:", "task:x/y", "task:../../x", "TASK:a/b", f"task:{'0' * 26}", f"task:{'0' * 26}/a/b"]
    )
    async def test_what_names_no_output_is_told(self, balancer: Balancer, reference: str) -> None:
        assert "task:ID/NAME" in await refused(balancer, reference)

    async def test_another_owners_output_is_not_there(self, balancer: Balancer) -> None:
        task_id, _ = await ended(balancer, picture())
        with asking(balancer, "bob"):
            assert "no task" in await refused(balancer, f"task:{task_id}/picture.png")

    async def test_an_output_is_checked_like_an_upload(self, balancer: Balancer) -> None:
        task_id, _ = await ended(balancer, b"<svg onload=alert(1)>")
        assert "known format" in await refused(balancer, f"task:{task_id}/picture.png")


class TestDataUrls:
    async def test_its_bytes_are_the_file(self, balancer: Balancer) -> None:
        data = picture(color=9, kind="JPEG")
        task = await balancer.submit(wish(data_url(data, "image/png")))
        (file,) = (await balancer.queue.get(task["id"])).inputs
        assert (file.sha256, file.extension) == (sha256(data), ".jpg"), "known by its bytes, not by what it says"

    @pytest.mark.parametrize(
        ("url", "reason"),
        [
            ("data:image/png;base64,!!!!", "base64 is damaged"),
            ("data:image/png;base64,abc", "base64 is damaged"),
            ("data:image/png;base64,", "empty"),
            ("data:image/png,abc", "data:TYPE;base64"),
            ("data:", "data:TYPE;base64"),
            (data_url(b"<svg/>", "image/svg+xml"), "known format"),
            (data_url(picture()[:50]), "damaged"),
        ],
    )
    async def test_what_is_no_picture_is_refused(self, balancer: Balancer, url: str, reason: str) -> None:
        assert reason in await refused(balancer, url)

    async def test_its_size_is_limited(self, redis: Redis, settings: SharedSettings) -> None:
        async with running(redis, settings, file_limit=1000) as small:
            answer = await small.client.post(TASKS, json=wish(data_url(picture(), "image/png") + "A" * 2000))
            assert (answer.status_code, answer.json()["code"]) == (413, "too-large")
            assert await small.traces() == []

    async def test_the_files_of_one_call_are_limited_together(self, redis: Redis, settings: SharedSettings) -> None:
        async with running(redis, settings, form_limit=250) as small:
            images = [data_url(picture(color=color)) for color in range(4)]
            answer = await small.client.post(TASKS, json=wish(images))
            assert (answer.status_code, answer.json()["code"]) == (413, "too-large")
            assert await small.traces() == []


class TestUrls:
    async def test_a_url_is_fetched_over_a_redirect(self, balancer: Balancer) -> None:
        data = picture(color=11)

        def answer(head: bytes) -> list[bytes | float]:
            return ok(data) if b"/real.png" in head else moved("/real.png")

        async with served(answer) as server:
            task = await balancer.submit(wish(f"http://127.0.0.1:{server.port}/a.png?token=secret"))
        (file,) = (await balancer.queue.get(task["id"])).inputs
        assert (file.sha256, file.extension) == (sha256(data), ".png")
        store = open_store(balancer.settings)
        assert await store.size(input_key(file.sha256, ".png")) == len(data)
        assert "secret" not in str((await balancer.client.get(task["links"]["self"])).json())

    async def test_nothing_is_fetched_for_a_task_that_is_refused_anyway(self, balancer: Balancer) -> None:
        async with served(lambda _: ok(picture())) as server:
            url = f"http://127.0.0.1:{server.port}/"
            answer = await balancer.client.post(
                TASKS, json={"workflow": "image-to-image", "parameters": {"image": url, "steps": 100_000}}
            )
            assert fields_of(answer) == ["parameters.steps"]
            assert server.heads == []

    async def test_the_same_url_is_fetched_once_for_a_sweep(self, balancer: Balancer) -> None:
        async with served(lambda _: ok(picture())) as server:
            url = f"http://127.0.0.1:{server.port}/"
            body = {"workflow": "image-to-image", "parameters": {"image": [url, url], "steps": [1, 2, 3]}}
            answer = await balancer.client.post(TASKS, json=body)
            assert (answer.status_code, len(answer.json()["tasks"])) == (202, 6)
            assert len(server.heads) == 1

    @pytest.mark.parametrize(
        ("answer", "reason"),
        [
            (lambda _: ok(b"<html>"), "known format"),
            (lambda _: ENDLESS, "larger than 5000 bytes"),
            (lambda _: [5.0], "did not answer whole within 2 s"),
            (lambda _: [b"HTTP/1.1 500 Oh\r\nContent-Length: 0\r\n\r\n"], "status 500"),
            (lambda _: moved("http://10.0.0.1/"), "not public"),
            (lambda _: moved("/"), "redirects more than 3 times"),
        ],
    )
    async def test_what_cannot_be_fetched_is_told(self, balancer: Balancer, answer: Answer, reason: str) -> None:
        async with served(answer) as server:
            assert reason in await refused(balancer, f"http://127.0.0.1:{server.port}/")

    @pytest.mark.parametrize(
        "url",
        [
            "http://10.0.0.1/a.png", "http://[::1]/", "http://169.254.169.254/latest/meta-data/", "http://100.64.0.1/",
            "http://0x7f.1/", "http://2130706433/", "http://127.0.0.1./", "http://user:pw@8.8.8.8/", "http://8.8.8.8:22/",
            "HTTP://[::ffff:7f00:1]/", "https://[64:ff9b::7f00:1]/", "http://224.0.0.1/", "http:/x", "https://",
        ],
    )  # fmt: skip
    async def test_no_way_into_our_network(self, balancer: Balancer, url: str) -> None:
        """Row S10."""
        assert (await refused(balancer, url)).startswith("the URL ")

    async def test_by_default_loopback_is_not_called(self, redis: Redis, settings: SharedSettings) -> None:
        async with running(redis, settings) as strict, served(lambda _: ok(picture())) as server:
            for host in ("127.0.0.1", "localhost"):
                assert "not public" in await refused(strict, f"http://{host}:{server.port}/")
            assert server.heads == []

    async def test_urls_of_one_call_are_counted(self, balancer: Balancer) -> None:
        urls = [f"http://127.0.0.1:1/{number}" for number in range(40)]
        answer = await balancer.client.post(TASKS, json=wish(urls))
        assert (answer.status_code, fields_of(answer)) == (422, [f"{IMAGE}.32"])

    async def test_a_check_loads_and_stores_nothing(self, balancer: Balancer) -> None:
        await balancer.hand()
        answer = await balancer.client.post(CHECK, json={"prompt": WITH_FILE | {
            "1": {"class_type": "LoadImage", "inputs": {"image": data_url(picture())}}}})  # fmt: skip
        assert answer.json() == {"ok": True, "agents": ["gpu-1"], "lane": answer.json()["lane"]}
        assert await balancer.traces() == []

    @pytest.mark.parametrize("value", ["ftp://x/", "file:///etc/passwd", "HTTPx", "../a.png", "blob:x", 5, None, {}])
    async def test_anything_else_is_no_file(self, balancer: Balancer, value: Any) -> None:
        await refused(balancer, value)
