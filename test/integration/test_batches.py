"""A sweep or a list of tasks as one batch: counted in the transitions, followed, canceled, put back, and
shown on a sheet."""

import asyncio
import io
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import pytest
from PIL import Image
from redis.asyncio import Redis

from comfy_balancer.login.check import Credentials
from comfy_shared.callers import Caller, Role
from comfy_shared.files import open_store
from comfy_shared.models import EventType, Progress, TaskError
from comfy_shared.output_options import OutputOptions, PictureFormat
from comfy_shared.settings import SharedSettings
from test.integration.balancer_support import SMOKE, TASKS, Balancer, fields_of, picture, running
from test.support.agents import Hand, advance
from test.support.builders import output
from test.support.waiting import wait_until

BATCHES = "/api/v1/batches"
GRID: dict[str, Any] = {"workflow": "smoke", "parameters": {"width": [64, 128], "height": [32, 48, 64]}}


@pytest.fixture
async def balancer(redis: Redis, settings: SharedSettings) -> AsyncIterator[Balancer]:
    async with running(redis, settings) as made:
        yield made


@contextmanager
def asking(balancer: Balancer, owner: str, role: Role = Role.USER) -> Iterator[None]:
    """As if another had logged in."""

    async def caller(*_: object) -> Caller:
        return Caller(owner=owner, role=role)

    with mock.patch.object(Credentials, "__call__", caller):
        yield


async def state(balancer: Balancer, batch: dict[str, Any]) -> dict[str, Any]:
    answer = await balancer.client.get(batch["links"]["self"])
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def complete(balancer: Balancer, hand: Hand, color: int = 90) -> str:
    """The next task is done, with a picture; its id."""
    attempt = await hand.take()
    data = picture(300, 200, color=color)
    stored = await open_store(balancer.settings).put(f"outputs/{attempt.id}/{attempt.number}/picture.png", data)
    one = output(key=stored.key, size=stored.size, sha256=stored.sha256)
    await balancer.queue.complete(attempt, [one])
    return attempt.id


def nonzero(batch: dict[str, Any]) -> dict[str, int]:
    return {status: number for status, number in batch["counts"].items() if number}


class TestSubmit:
    async def test_a_list_among_the_parameters_makes_a_batch(self, balancer: Balancer) -> None:
        answer = await balancer.client.post(TASKS, json=GRID)
        batch = answer.json()
        assert answer.status_code == 202, answer.text
        assert answer.headers["location"] == f"{BATCHES}/{batch['id']}" == batch["links"]["self"]
        assert (batch["total"], batch["axes"], batch["status"], batch["progress"]) == (
            6, ["width", "height"], "pending", 0,
        )  # fmt: skip
        sizes = [(task["parameters"]["width"], task["parameters"]["height"]) for task in batch["tasks"]]
        assert sizes == [(width, height) for width in (64, 128) for height in (32, 48, 64)]
        assert len({task["parameters"]["color"] for task in batch["tasks"]}) == 1, "the open seed is drawn once"
        assert {task["batch"] for task in batch["tasks"]} == {batch["id"]}
        assert [task["id"] for task in (await state(balancer, batch))["tasks"]] == [
            task["id"] for task in batch["tasks"]
        ]
        listed = (await balancer.client.get(TASKS, params={"batch": batch["id"]})).json()["tasks"]
        assert len(listed) == 6

    async def test_a_list_of_seeds_and_zipped_lists(self, balancer: Balancer) -> None:
        body = {"workflow": "smoke", "parameters": {"width": [64, 65], "color": [-1, -1]}, "sweep": "zip"}
        batch = (await balancer.client.post(TASKS, json=body)).json()
        assert [task["parameters"]["width"] for task in batch["tasks"]] == [64, 65]
        assert len({task["parameters"]["color"] for task in batch["tasks"]}) == 2

    async def test_a_list_of_tasks_is_a_batch_too_and_its_sweeps_are_of_it(self, balancer: Balancer) -> None:
        answer = await balancer.client.post(f"{TASKS}/batch", json={"tasks": [SMOKE, GRID, SMOKE]})
        batch = answer.json()
        assert (batch["total"], len(batch["tasks"]), batch["workflow"]) == (8, 8, "smoke")

    async def test_the_typed_route_takes_lists_and_options_too(self, balancer: Balancer) -> None:
        path = "/api/v1/workflows/smoke/run"
        options: dict[str, Any] = {"sweep": "zip", "format": "webp", "quality": 70}
        answer = await balancer.client.post(path, json={"width": [64, 65], "height": [32, 33]}, params=options)
        batch = answer.json()
        assert (answer.status_code, batch["total"], batch["axes"]) == (202, 2, ["width", "height"]), answer.text
        assert answer.headers["location"] == batch["links"]["self"]
        wish = (await balancer.queue.get(batch["tasks"][0]["id"])).output_options
        assert wish == OutputOptions(format=PictureFormat.WEBP, quality=70)
        bad = await balancer.client.post(path, json={"width": [64, 5]})
        assert fields_of(bad) == ["width.1"]
        assert [(error["parameter"], error["node"]) for error in bad.json()["errors"]] == [("width", "2")]
        assert fields_of(await balancer.client.post(path, json={}, params={"quality": 7})) == ["quality"]

    async def test_one_value_that_does_not_fit_refuses_all_and_is_named(self, balancer: Balancer) -> None:
        bad = {"workflow": "smoke", "parameters": {"width": [64, 5], "height": [32, "x", 64], "colour": [1, 2]}}
        answer = await balancer.client.post(TASKS, json=bad)
        assert answer.status_code == 422
        assert set(fields_of(answer)) == {
            "parameters.width.1", "parameters.height.1", "parameters.colour.0", "parameters.colour.1",
        }  # fmt: skip
        answer = await balancer.client.post(f"{TASKS}/batch", json={"tasks": [SMOKE, bad]})
        assert "tasks.1.parameters.width.1" in fields_of(answer)
        assert await balancer.traces() == []

    @pytest.mark.parametrize(
        ("parameters", "sweep", "field"),
        [
            ({"width": []}, "product", "parameters.width"),
            ({"width": [64, 65], "height": [64]}, "zip", "parameters.height"),
            ({"width": [64] * 40, "height": [64] * 40}, "product", "parameters.width"),
            ({"width": [[64]]}, "product", "parameters.width.0"),
            ({"width": 64}, "grid", "sweep"),
        ],
    )
    async def test_a_sweep_that_cannot_be_is_refused(
        self, balancer: Balancer, parameters: dict[str, Any], sweep: str, field: str
    ) -> None:
        body = {"workflow": "smoke", "parameters": parameters, "sweep": sweep}
        for path in (TASKS, f"{TASKS}/check"):
            answer = await balancer.client.post(path, json=body)
            assert (answer.status_code, fields_of(answer)) == (422, [field])
        assert await balancer.traces() == []

    async def test_the_same_key_is_the_same_batch(self, balancer: Balancer) -> None:
        answers = [await balancer.client.post(TASKS, json=GRID, headers={"Idempotency-Key": "k"}) for _ in range(2)]
        first, again = (answer.json() for answer in answers)
        assert (first["id"], [task["id"] for task in first["tasks"]]) == (
            again["id"], [task["id"] for task in again["tasks"]],
        )  # fmt: skip
        assert answers[1].headers["idempotent-replayed"] == "true"
        assert len((await balancer.client.get(BATCHES)).json()["batches"]) == 1

    async def test_a_sweep_waits_for_all_of_it(self, balancer: Balancer) -> None:
        hand = await balancer.hand()
        body = {"workflow": "smoke", "parameters": {"width": [64, 65]}}
        call = asyncio.create_task(balancer.client.post(TASKS, json=body, params={"wait": 10}))

        async def queued() -> bool:
            return bool(await balancer.redis.zcard(balancer.keys.queue) == 2)

        await wait_until(queued, "both wait")
        for _ in range(2):
            await complete(balancer, hand)
        answer = await call
        assert (answer.status_code, answer.json()["status"]) == (200, "completed")
        assert [len(task["outputs"]) for task in answer.json()["tasks"]] == [1, 1]

    async def test_a_joined_task_counts_as_its_leader_ends(self, balancer: Balancer) -> None:
        hand = await balancer.hand()
        one = SMOKE | {"parameters": {"width": 64, "color": 7}, "reuse": True}
        batch = (await balancer.client.post(f"{TASKS}/batch", json={"tasks": [one, one]})).json()
        assert nonzero(batch) == {"pending": 2}
        await complete(balancer, hand)
        assert nonzero(await state(balancer, batch)) == {"completed": 2}
        after = (await balancer.client.post(f"{TASKS}/batch", json={"tasks": [one]})).json()
        assert (after["status"], nonzero(after)) == ("completed", {"completed": 1})


class TestLife:
    async def test_each_step_of_a_task_is_counted(self, balancer: Balancer) -> None:
        hand = await balancer.hand()
        batch = (await balancer.client.post(TASKS, json=GRID)).json()
        attempt = await hand.take()
        await balancer.queue.report(attempt, EventType.PROGRESS, {}, progress=Progress(fraction=0.5))
        seen = await state(balancer, batch)
        assert (nonzero(seen), seen["status"]) == ({"pending": 5, "running": 1}, "running")
        assert seen["progress"] == pytest.approx(0.5 / 6, abs=1e-3)
        await balancer.queue.release(attempt, "for now")
        assert nonzero(await state(balancer, batch)) == {"pending": 6}
        again = await hand.take()
        await balancer.queue.fail(again, TaskError(code="node_failed", message="It went wrong."))
        await complete(balancer, hand)
        seen = await state(balancer, batch)
        assert (nonzero(seen), seen["progress"]) == ({"pending": 4, "completed": 1, "failed": 1}, round(2 / 6, 4))

    async def test_cancel_takes_what_has_not_ended(self, balancer: Balancer) -> None:
        hand = await balancer.hand()
        batch = (await balancer.client.post(TASKS, json=GRID)).json()
        await complete(balancer, hand)
        await hand.take()
        for _ in range(2):
            answer = await balancer.client.post(batch["links"]["cancel"])
            assert (answer.status_code, answer.json()["status"]) == (200, "canceled")
            assert nonzero(answer.json()) == {"completed": 1, "canceled": 5}
        assert await balancer.redis.zcard(balancer.keys.queue) == 0

    async def test_retry_puts_the_failed_ones_back_and_no_other(self, balancer: Balancer) -> None:
        hand = await balancer.hand()
        batch = (await balancer.client.post(TASKS, json=GRID)).json()
        refused = await balancer.client.post(batch["links"]["retry"])
        assert (refused.status_code, refused.json()["code"]) == (409, "conflict")
        for _ in range(2):
            await balancer.queue.fail(await hand.take(), TaskError(code="node_failed", message="It went wrong."))
        await complete(balancer, hand)
        await balancer.client.post(batch["links"]["cancel"])
        answer = await balancer.client.post(batch["links"]["retry"])
        assert (answer.status_code, nonzero(answer.json())) == (202, {"pending": 2, "completed": 1, "canceled": 3})
        for _ in range(2):
            await complete(balancer, hand)
        assert nonzero(await state(balancer, batch)) == {"completed": 3, "canceled": 3}

    async def test_events_tell_the_state_to_the_end(self, balancer: Balancer) -> None:
        hand = await balancer.hand()
        batch = (await balancer.client.post(TASKS, json={**GRID, "parameters": {"width": [64, 65]}})).json()
        told: list[dict[str, Any]] = []

        async def follow() -> None:
            async with balancer.client.stream("GET", batch["links"]["events"]) as stream:
                async for line in stream.aiter_lines():
                    if line.startswith("data:"):
                        told.append(json.loads(line[5:]))

        following = asyncio.create_task(follow())
        for _ in range(2):
            await complete(balancer, hand)
        await following
        assert (told[-1]["status"], told[-1]["progress"], "tasks" in told[-1]) == ("completed", 1, False)
        assert [entry["progress"] for entry in told] == sorted(entry["progress"] for entry in told)

    async def test_a_list_of_batches_leads_from_page_to_page(self, balancer: Balancer) -> None:
        made = [(await balancer.client.post(TASKS, json=GRID)).json()["id"] for _ in range(5)]
        found: list[str] = []
        cursor: dict[str, str] = {}
        while True:
            page = (await balancer.client.get(BATCHES, params={"limit": 2, **cursor})).json()
            assert len(page["batches"]) <= 2
            found += [batch["id"] for batch in page["batches"]]
            if page["next"] is None:
                break
            cursor = {"cursor": page["next"]}
        assert sorted(found) == sorted(made)
        assert fields_of(await balancer.client.get(BATCHES, params={"cursor": "x"})) == ["cursor"]

    async def test_a_batch_goes_with_the_last_of_its_tasks(self, redis: Redis, settings: SharedSettings) -> None:
        async with running(redis, settings, purge_seconds=0.05) as balancer:
            hand = await balancer.hand()
            batch = (await balancer.client.post(TASKS, json={**GRID, "parameters": {"width": [64, 65]}})).json()
            for _ in range(2):
                await complete(balancer, hand)
            sheet = await balancer.client.get(batch["links"]["contact_sheet"])
            assert sheet.status_code == 200
            assert any("thumbnails" in trace for trace in await balancer.traces())
            await advance(redis, balancer.keys, settings.task_retention + 1)

            async def gone() -> bool:
                return (await balancer.client.get(batch["links"]["self"])).status_code == 404

            await wait_until(gone, "the batch is forgotten")

            async def clean() -> bool:
                return not [
                    trace for trace in await balancer.traces() if "/thumbnails/" in trace or "/outputs/" in trace
                ]

            await wait_until(clean, "its thumbnails and its sheet are gone too")
            assert [key async for key in redis.scan_iter(f"{balancer.keys.base}batch*")] == []

    async def test_broken_bytes_in_a_batch_stop_nobody(self, balancer: Balancer) -> None:
        hand = await balancer.hand()
        first = (await balancer.client.post(TASKS, json={**GRID, "parameters": {"width": [64]}})).json()
        second = (await balancer.client.post(TASKS, json={**GRID, "parameters": {"width": [64]}})).json()
        await balancer.redis.hset(balancer.keys.batch_prefix + first["id"], mapping={"axes": "{", "pending": "\xff"})
        await balancer.redis.set(balancer.keys.batch_prefix + second["id"], "x")
        for _ in range(2):
            await complete(balancer, hand)
        assert (await balancer.client.get(first["links"]["self"])).status_code == 503
        assert (await balancer.client.get(second["links"]["self"])).status_code == 404
        assert (await balancer.client.get(BATCHES)).json()["batches"] == []

    async def test_a_task_that_is_set_aside_counts_as_failed(self, balancer: Balancer) -> None:
        hand = await balancer.hand()
        batch = (await balancer.client.post(TASKS, json={**GRID, "parameters": {"width": [64, 65]}})).json()
        await balancer.redis.hset(balancer.keys.task(batch["tasks"][0]["id"]), "attempt", "broken")
        assert (await complete(balancer, hand)) == batch["tasks"][1]["id"]
        seen = await state(balancer, batch)
        assert (nonzero(seen), seen["status"], len(seen["tasks"])) == ({"completed": 1, "failed": 1}, "failed", 1)


class TestOwners:
    async def test_another_owners_batch_is_not_there(self, balancer: Balancer) -> None:
        with asking(balancer, "ann"):
            batch = (await balancer.client.post(TASKS, json=GRID)).json()
            assert (batch["owner"], (await balancer.client.get(BATCHES)).json()["batches"][0]["id"]) == (
                "ann", batch["id"],
            )  # fmt: skip
        with asking(balancer, "bob"):
            links = batch["links"]
            for method, path in (
                ("GET", links["self"]), ("GET", links["events"]), ("GET", links["contact_sheet"]),
                ("POST", links["cancel"]), ("POST", links["retry"]),
            ):  # fmt: skip
                answer = await balancer.client.request(method, path)
                assert (answer.status_code, answer.json()["code"]) == (404, "not-found"), path
            assert (await balancer.client.get(BATCHES)).json()["batches"] == []
            assert (await balancer.client.get(TASKS, params={"batch": batch["id"]})).json()["tasks"] == []
        with asking(balancer, "root", Role.ADMIN):
            assert (await balancer.client.get(batch["links"]["self"])).status_code == 200

    @pytest.mark.parametrize("batch_id", ["x", "%00", "0" * 26, "a" * 300, "01M83N8XXTBATCHECA7QNDB59S"])
    async def test_an_id_that_is_none_is_not_there(self, balancer: Balancer, batch_id: str) -> None:
        for path in ("", "/contact-sheet", "/events"):
            answer = await balancer.client.get(f"{BATCHES}/{batch_id}{path}")
            assert answer.status_code in (404, 405), answer.text


class TestSheet:
    async def test_the_sheet_shows_what_there_is(self, balancer: Balancer) -> None:
        hand = await balancer.hand()
        batch = (await balancer.client.post(TASKS, json=GRID)).json()
        for color in (200, 250):
            await complete(balancer, hand, color)
        await balancer.queue.fail(await hand.take(), TaskError(code="x", message="It went wrong."))
        answer = await balancer.client.get(batch["links"]["contact_sheet"], params={"size": 100})
        assert (answer.status_code, answer.headers["content-type"]) == (200, "image/png")
        sheet = Image.open(io.BytesIO(answer.content)).convert("RGB")
        assert sheet.width == 3 * 108 + 8, "three columns, as the last list is long"
        reds = [sheet.getpixel((8 + 50 + column * 108, 79)) for column in range(2)]
        assert [abs(red[0] - color) < 6 for red, color in zip(reds, (200, 250), strict=True)] == [True, True]  # type: ignore[index]  # pixels of three

    @pytest.mark.parametrize("kind", ["png", "jpeg", "webp"])
    async def test_formats_columns_and_pages(self, balancer: Balancer, kind: str) -> None:
        batch = (await balancer.client.post(TASKS, json=GRID)).json()
        wishes: dict[str, Any] = {"format": kind, "columns": 1, "start": 4, "size": 64}
        answer = await balancer.client.get(batch["links"]["contact_sheet"], params=wishes)
        sheet = Image.open(io.BytesIO(answer.content))
        assert (sheet.format, sheet.width) == (kind.upper(), 64 + 16)
        assert sheet.height < 3 * 120, "two of the six"

    async def test_what_does_not_fit_is_refused(self, balancer: Balancer) -> None:
        batch = (await balancer.client.post(TASKS, json={**GRID, "parameters": {"width": list(range(64, 264))}})).json()
        wrong: list[dict[str, Any]] = [{"format": "gif"}, {"size": 9}, {"size": 4000}, {"columns": -1}, {"start": 200}]
        for wish in (*wrong, {"size": 512}):
            answer = await balancer.client.get(batch["links"]["contact_sheet"], params=wish)
            assert (answer.status_code, [field.rpartition(".")[2] for field in fields_of(answer)]) == (422, [*wish])

    async def test_a_sheet_of_ended_tasks_is_drawn_once(
        self, balancer: Balancer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        hand = await balancer.hand()
        batch = (await balancer.client.post(TASKS, json={**GRID, "parameters": {"width": [64]}})).json()
        await complete(balancer, hand)
        first = await balancer.client.get(batch["links"]["contact_sheet"])
        monkeypatch.setattr("comfy_balancer.sheets.draw", None)
        again = await balancer.client.get(batch["links"]["contact_sheet"])
        assert (again.status_code, again.content) == (200, first.content)

    async def test_a_picture_that_is_gone_or_none_is_an_empty_cell(self, balancer: Balancer) -> None:
        hand = await balancer.hand()
        batch = (await balancer.client.post(TASKS, json={**GRID, "parameters": {"width": [64, 65, 66]}})).json()
        store = open_store(balancer.settings)
        for name in ("gone.png", "broken.png", "text.txt"):
            attempt = await hand.take()
            key = f"outputs/{attempt.id}/1/{name}"
            if name != "gone.png":
                await store.put(key, b"no picture")
            kind = "image/png" if name.endswith("png") else "text/plain"
            await balancer.queue.complete(attempt, [output(name, key=key, content_type=kind)])
        assert (await balancer.client.get(batch["links"]["contact_sheet"])).status_code == 200
