"""The life of a task as a client of the balancer sees it."""

import asyncio
import json
from collections.abc import AsyncIterator
from functools import partial
from typing import Any
from unittest import mock

import pytest
from redis.asyncio import Redis

from comfy_balancer.login.check import Credentials
from comfy_shared.callers import Caller, Role
from comfy_shared.files import open_store
from comfy_shared.models import EventType, Progress, Status
from comfy_shared.settings import SharedSettings
from test.integration.balancer_support import PROMPT, SMOKE, TASKS, Balancer, running
from test.support.agents import advance
from test.support.builders import output, problem
from test.support.waiting import wait_until


@pytest.fixture
async def balancer(redis: Redis, settings: SharedSettings) -> AsyncIterator[Balancer]:
    async with running(redis, settings) as made:
        yield made


class TestSubmit:
    async def test_a_workflow_task_is_accepted_with_its_links(self, balancer: Balancer) -> None:
        answer = await balancer.client.post(TASKS, json=SMOKE | {"labels": {"project": "x"}, "priority": 9})
        task = answer.json()
        assert answer.status_code == 202
        assert answer.headers["location"] == f"{TASKS}/{task['id']}" == task["links"]["self"]
        assert (task["status"], task["owner"], task["workflow"]) == ("pending", "admin", "smoke")
        assert (task["position"], task["priority"], task["attempt"]) == (0, 9, 0)
        assert task["parameters"]["width"] == 64
        assert task["parameters"]["color"] >= 0, "the drawn seed is told"
        assert list(task["timestamps"]) == ["pending"]

    async def test_the_answer_of_a_submit_is_the_record_that_get_reads(self, balancer: Balancer) -> None:
        task = await balancer.submit()
        assert (await balancer.client.get(task["links"]["self"])).json() == task

    async def test_what_is_stored_is_what_was_checked(self, balancer: Balancer) -> None:
        """A key that stands twice cannot show one value to the checks and another to ComfyUI."""
        body = (
            b'{"prompt": {"1": {"class_type": "Evil", "inputs": {}}, "1": {"class_type": "SaveImage", "inputs": {}}}}'
        )
        answer = await balancer.client.post(TASKS, content=body, headers={"Content-Type": "application/json"})
        prompt = await balancer.client.get(answer.json()["links"]["prompt"])
        assert prompt.content == b'{"1":{"class_type":"SaveImage","inputs":{}}}'

    async def test_a_raw_prompt_is_accepted(self, balancer: Balancer) -> None:
        await balancer.hand()
        task = await balancer.submit({"prompt": PROMPT})
        assert task["workflow"] is None
        assert (await balancer.client.get(task["links"]["prompt"])).json() == PROMPT

    async def test_a_prompt_like_one_before_is_accepted_as_it_is_and_no_other(self, balancer: Balancer) -> None:
        """It is recognised, not checked whole; what an agent would refuse is refused all the same."""
        await balancer.hand()
        tries: list[tuple[dict[str, Any], dict[str, Any], int]] = [
            ({"color": 1}, {}, 202),
            ({"color": 2}, {"labels": {"n": "1"}}, 202),
            ({"color": 3}, {"timeout": 10**9}, 422),
            ({"color": -1}, {}, 422),
            ({"color": "many"}, {}, 422),
            ({"color": 4}, {"require": {"pool": "none"}}, 422),
            ({"color": 99, "width": 32}, {}, 202),
        ]
        for number, (inputs, options, status) in enumerate(tries):
            graph = json.loads(json.dumps(PROMPT))
            graph["1"]["inputs"] |= inputs
            answer = await balancer.client.post(TASKS, json={"prompt": graph, **options})
            assert answer.status_code == status, (number, answer.text)
            if status == 202:
                task = answer.json()
                assert (await balancer.client.get(task["links"]["self"])).json() == task
                assert (await balancer.client.get(task["links"]["prompt"])).json() == graph

    async def test_who_may_not_go_first_may_not_with_a_known_prompt(
        self, redis: Redis, settings: SharedSettings
    ) -> None:
        ann = mock.AsyncMock(return_value=Caller(owner="ann", role=Role.USER))
        async with running(redis, settings, nodes_allowed_user="*") as balancer:
            await balancer.hand()
            with mock.patch.object(Credentials, "__call__", ann):
                bodies = [{"prompt": PROMPT, "priority": priority} for priority in (5, 6, 0, 9)]
                answers = [await balancer.client.post(TASKS, json=body) for body in bodies]
        assert [answer.status_code for answer in answers] == [202, 422, 202, 422]

    async def test_a_batch_is_accepted_in_its_order(self, balancer: Balancer) -> None:
        bodies = [SMOKE | {"labels": {"n": str(number)}} for number in range(20)]
        answer = await balancer.client.post(f"{TASKS}/batch", json={"tasks": bodies})
        assert answer.status_code == 202
        assert [task["labels"]["n"] for task in answer.json()["tasks"]] == [str(number) for number in range(20)]
        assert [task["position"] for task in answer.json()["tasks"]] == list(range(20))

    async def test_a_full_queue_is_told_with_a_time_to_come_again(self, redis: Redis, settings: SharedSettings) -> None:
        async with running(redis, settings, queue_limit=1) as balancer:
            await balancer.submit()
            answer = await balancer.client.post(TASKS, json=SMOKE)
            assert (answer.status_code, answer.json()["code"]) == (429, "queue-full")
            assert answer.headers["retry-after"] == "2"


class TestIdempotency:
    async def test_the_same_key_and_body_is_the_same_task(self, balancer: Balancer) -> None:
        first = await balancer.client.post(TASKS, json=SMOKE, headers={"Idempotency-Key": "k1"})
        again = await balancer.client.post(TASKS, json=SMOKE, headers={"Idempotency-Key": "k1"})
        assert "idempotent-replayed" not in first.headers
        assert again.headers["idempotent-replayed"] == "true"
        assert (again.status_code, again.json()) == (202, first.json())
        assert await balancer.redis.zcard(balancer.keys.queue) == 1

    async def test_another_body_under_the_key_is_refused(self, balancer: Balancer) -> None:
        headers = {"Idempotency-Key": "k1"}
        await balancer.submit(headers=headers)
        answer = await balancer.client.post(TASKS, json=SMOKE | {"priority": 1}, headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (409, "idempotency-conflict")

    async def test_a_batch_has_a_key_too(self, balancer: Balancer) -> None:
        body = {"tasks": [SMOKE, SMOKE]}
        answers = [
            await balancer.client.post(f"{TASKS}/batch", json=body, headers={"Idempotency-Key": "k"}) for _ in range(2)
        ]
        assert answers[0].json() == answers[1].json()
        assert await balancer.redis.zcard(balancer.keys.queue) == 2


class TestWait:
    async def test_the_finished_task_is_the_answer(self, balancer: Balancer) -> None:
        hand = await balancer.hand()
        waiting = asyncio.create_task(balancer.client.post(TASKS, params={"wait": 20}, json=SMOKE))

        async def there() -> bool:
            return bool(await balancer.redis.zcard(balancer.keys.queue))

        await wait_until(there, "the task is there")
        attempt = await hand.take()
        await balancer.queue.complete(attempt, [output()])
        answer = await waiting
        assert (answer.status_code, answer.json()["status"]) == (200, "completed")
        assert [item["name"] for item in answer.json()["outputs"]] == ["picture.png"]

    async def test_when_the_time_is_up_the_state_is_the_answer(self, balancer: Balancer) -> None:
        answer = await balancer.client.post(TASKS, params={"wait": 0.05}, json=SMOKE)
        assert (answer.status_code, answer.json()["status"]) == (202, "pending")


class TestOneTask:
    async def test_progress_and_attempt_are_shown(self, balancer: Balancer) -> None:
        task = await balancer.submit()
        hand = await balancer.hand()
        attempt = await hand.take()
        progress = Progress(fraction=0.5, node="3", node_class="KSampler", value=10, maximum=20, nodes_total=7)
        await balancer.queue.report(attempt, EventType.PROGRESS, {}, progress=progress)
        seen = (await balancer.client.get(task["links"]["self"])).json()
        assert (seen["status"], seen["attempt"], seen["agent"], seen["position"]) == ("running", 1, "gpu-1", None)
        assert (seen["progress"]["node"], seen["progress"]["value"], seen["progress"]["maximum"]) == ("3", 10, 20)
        assert list(seen["timestamps"]) == ["pending", "running"]

    async def test_a_failed_task_says_why_and_can_be_put_back(self, balancer: Balancer) -> None:
        task = await balancer.submit()
        hand = await balancer.hand()
        await balancer.queue.fail(await hand.take(), problem("node_failed", node="2"))
        seen = (await balancer.client.get(task["links"]["self"])).json()
        assert (seen["status"], seen["error"]["code"], seen["error"]["node"]) == ("failed", "node_failed", "2")
        assert list(seen["timestamps"]) == ["pending", "running", "failed"]
        again = await balancer.client.post(task["links"]["retry"])
        assert (again.status_code, again.json()["status"]) == (202, "pending")
        assert (await hand.take()).number == 2

    async def test_cancel_is_final_and_may_be_repeated(self, balancer: Balancer) -> None:
        task = await balancer.submit()
        for _ in range(2):
            answer = await balancer.client.post(task["links"]["cancel"])
            assert (answer.status_code, answer.json()["status"]) == (200, "canceled")
        await balancer.client.post(task["links"]["retry"])
        assert (await balancer.client.get(task["links"]["self"])).json()["status"] == "pending"

    async def test_a_completed_task_can_be_neither_canceled_nor_put_back(self, balancer: Balancer) -> None:
        task = await balancer.submit()
        await balancer.queue.complete(await (await balancer.hand()).take(), [])
        for action in ("cancel", "retry"):
            answer = await balancer.client.post(task["links"][action])
            assert (answer.status_code, answer.json()["code"]) == (409, "conflict")

    async def test_an_unknown_task_is_a_404_on_every_route(self, balancer: Balancer) -> None:
        for unknown in ("0" * 26, "nope", "..", "x" * 300, "{comfy}:queue"):
            for rest in ("", "/prompt", "/events", "/outputs", "/outputs/a.png"):
                answer = await balancer.client.get(f"{TASKS}/{unknown}{rest}")
                assert answer.status_code == 404, (unknown, rest)
                assert answer.headers["content-type"] == "application/problem+json"
            for action in ("cancel", "retry"):
                assert (await balancer.client.post(f"{TASKS}/{unknown}/{action}")).status_code == 404


class TestList:
    async def test_pages_show_every_task_once_newest_first(self, balancer: Balancer) -> None:
        answer = await balancer.client.post(f"{TASKS}/batch", json={"tasks": [SMOKE] * 7})
        await balancer.submit({"prompt": PROMPT})
        ids = [task["id"] for task in answer.json()["tasks"]]
        seen: list[str] = []
        cursor: str | None = None
        for _ in range(4):
            params: dict[str, Any] = {"workflow": "smoke", "limit": 2} | ({"cursor": cursor} if cursor else {})
            page = (await balancer.client.get(TASKS, params=params)).json()
            seen += [task["id"] for task in page["tasks"]]
            cursor = page["next"]
        assert cursor is None
        assert seen == sorted(ids, reverse=True)

    async def test_each_filter_holds(self, balancer: Balancer) -> None:
        one = await balancer.submit(SMOKE | {"labels": {"a": "1", "b": "x=y"}})
        two = await balancer.submit(SMOKE | {"labels": {"a": "1"}})
        await balancer.client.post(two["links"]["cancel"])

        async def found(**params: Any) -> list[str]:
            page = (await balancer.client.get(TASKS, params=params)).json()
            return [task["id"] for task in page["tasks"]]

        assert await found(status="pending") == [one["id"]]
        assert await found(status="canceled", label="a=1") == [two["id"]]
        assert await found(label="a=1") == [two["id"], one["id"]]
        assert await found(label=["a=1", "b=x=y"]) == [one["id"]]
        assert await found(owner="nobody") == []
        assert await found(workflow="smoke", owner="admin") == [two["id"], one["id"]]
        assert await found(created_after=two["created"], created_before="9999-01-01") == (
            [two["id"], one["id"]] if one["created"] == two["created"] else [two["id"]]
        )
        assert await found(created_before="2020-01-01T00:00:00Z") == []

    async def test_a_damaged_record_hides_nothing_else(self, balancer: Balancer) -> None:
        """Row S13: hostile bytes under a key are logged and left out."""
        good, bad, worse = [await balancer.submit() for _ in range(3)]
        await balancer.redis.hset(balancer.keys.task(bad["id"]), "status", b"\xff\x80")
        await balancer.redis.delete(balancer.keys.task(worse["id"]))
        await balancer.redis.set(balancer.keys.task(worse["id"]), b"\x80\x04", ex=60)
        answer = await balancer.client.get(TASKS)
        assert [task["id"] for task in answer.json()["tasks"]] == [good["id"]]
        assert (await balancer.client.get(bad["links"]["self"])).status_code == 503
        for one in (bad, worse):  # or they would be in the way of the leak check
            await balancer.redis.delete(balancer.keys.task(one["id"]), balancer.keys.story(one["id"]))
        await balancer.redis.delete(balancer.keys.index("all"), balancer.keys.index("owner", "admin"))
        await balancer.redis.delete(balancer.keys.index("status", "open"), balancer.keys.index("workflow", "smoke"))

    async def test_long_parameter_values_are_left_out_of_lists(self, balancer: Balancer) -> None:
        parameters = {"text": "a cat " * 100, "steps": 4}
        task = await balancer.submit({"workflow": "first-workflow", "parameters": parameters})
        listed = (await balancer.client.get(TASKS)).json()["tasks"][0]
        assert "text" not in listed["parameters"]
        assert listed["parameters"]["steps"] == 4
        assert task["parameters"]["text"] == parameters["text"]


class TestHousekeeping:
    async def test_a_lapsed_lease_is_swept_by_the_balancer(self, balancer: Balancer) -> None:
        task = await balancer.submit()
        await (await balancer.hand()).take()
        swept = await balancer.redis.get(balancer.keys.swept)
        await wait_until(partial(_differs, balancer, swept), "a sweep was after the claim")
        await advance(balancer.redis, balancer.keys, balancer.settings.lease_seconds / 2 - 1)
        for _ in range(2):  # a jump of more than half a lease would look like an absence of all balancers
            swept = await balancer.redis.get(balancer.keys.swept)
            await wait_until(partial(_differs, balancer, swept), "a sweep saw the new time")
            await advance(balancer.redis, balancer.keys, balancer.settings.lease_seconds / 2 - 1)

        async def waits() -> bool:
            return (await balancer.queue.get(task["id"])).status is Status.PENDING

        await wait_until(waits, "the task waits again")

    async def test_a_task_past_its_retention_is_gone_with_its_files(
        self, redis: Redis, settings: SharedSettings
    ) -> None:
        async with running(redis, settings, purge_seconds=0.05) as balancer:
            task = await balancer.submit()
            attempt = await (await balancer.hand()).take()
            files = open_store(settings)
            key = f"outputs/{task['id']}/1/picture.png"
            await files.put(key, b"abc")
            await balancer.queue.complete(attempt, [output(key=key)])
            assert (await balancer.client.get(f"{task['links']['outputs']}/picture.png")).content == b"abc"
            await advance(redis, balancer.keys, settings.task_retention + 1)

            async def gone() -> bool:
                return not await files.exists(key)

            await wait_until(gone, "the file is deleted")
            assert (await balancer.client.get(task["links"]["self"])).status_code == 404


async def _differs(balancer: Balancer, before: bytes | str | None) -> bool:
    return await balancer.redis.get(balancer.keys.swept) != before
