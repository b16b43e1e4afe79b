"""A task's story, live: server-sent events and a websocket over a real socket."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from redis.asyncio import Redis
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from comfy_shared.models import EventType
from comfy_shared.settings import SharedSettings
from test.integration.balancer_support import LOGIN, TASKS, Balancer, fields_of, publish, running, serving
from test.support.builders import output
from test.support.waiting import wait_until

HEADERS = {"Authorization": "Basic " + base64.b64encode(b"admin:admin").decode()}
WHOLE = ["queued", "claimed", "progress", "output", "completed"]


@pytest.fixture
async def balancer(redis: Redis, settings: SharedSettings) -> AsyncIterator[Balancer]:
    async with running(redis, settings) as made:
        yield made


@pytest.fixture
async def address(balancer: Balancer) -> AsyncIterator[str]:
    async with serving(balancer) as found:
        yield found


async def run(balancer: Balancer) -> None:
    """Runs the next task to its end."""
    attempt = await (await balancer.hand()).take()
    await balancer.queue.report(attempt, EventType.PROGRESS, {"fraction": 0.5, "node": "1\n\ndata: forged"})
    await balancer.queue.complete(attempt, [output()])


def parsed(text: str) -> list[dict[str, str]]:
    """The fields of each event of a stream, without its comments."""
    blocks = [block for block in text.split("\n\n") if block and not block.startswith(":")]
    return [dict(line.split(": ", 1) for line in block.split("\n")) for block in blocks]


class TestServerSentEvents:
    async def test_a_finished_story_is_told_whole_and_ends(self, balancer: Balancer) -> None:
        task = await balancer.submit()
        await run(balancer)
        answer = await balancer.client.get(task["links"]["events"])
        events = parsed(answer.text)
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert [event["event"] for event in events] == WHOLE
        assert [event["id"] for event in events] == ["1", "2", "3", "4", "5"]
        told = [json.loads(event["data"]) for event in events]
        assert [event["seq"] for event in told] == [1, 2, 3, 4, 5]
        assert told[3]["data"]["output"]["url"] == f"{task['links']['outputs']}/picture.png"
        assert "key" not in told[3]["data"]["output"], "where the file lies is nobody's business"

    async def test_a_reader_goes_on_where_it_left_off(self, balancer: Balancer) -> None:
        task = await balancer.submit()
        await run(balancer)
        url = task["links"]["events"]
        for answer in (
            await balancer.client.get(url, headers={"Last-Event-ID": "3"}),
            await balancer.client.get(url, params={"after": 3}),
            await balancer.client.get(url, params={"after": 0}, headers={"Last-Event-ID": "3"}),
        ):
            assert [event["id"] for event in parsed(answer.text)] == ["4", "5"]

    async def test_who_has_all_is_told_not_to_come_again(self, balancer: Balancer) -> None:
        """204 ends the reconnecting of a browser's EventSource."""
        task = await balancer.submit()
        await run(balancer)
        answer = await balancer.client.get(task["links"]["events"], headers={"Last-Event-ID": "5"})
        assert (answer.status_code, answer.content) == (204, b"")

    async def test_live_events_follow_the_past_ones(self, balancer: Balancer, address: str) -> None:
        task = await balancer.submit()
        seen = []
        async with (
            httpx.AsyncClient(base_url=f"http://{address}", auth=LOGIN) as client,
            client.stream("GET", task["links"]["events"]) as stream,
        ):
            async for line in stream.aiter_lines():
                if line.startswith("event: "):
                    seen.append(line.removeprefix("event: "))
                    if len(seen) == 1:
                        runs = asyncio.create_task(run(balancer))
        await runs
        assert seen == WHOLE

    async def test_a_story_goes_on_after_a_retry_by_hand(self, balancer: Balancer) -> None:
        task = await balancer.submit()
        await balancer.client.post(task["links"]["cancel"])
        await balancer.client.post(task["links"]["retry"])
        await run(balancer)
        events = parsed((await balancer.client.get(task["links"]["events"])).text)
        assert [event["event"] for event in events] == ["queued", "canceled", *WHOLE]

    @pytest.mark.parametrize("place", ["x", "-1", "1.5", "9" * 40, "1 2"])
    async def test_a_bad_place_is_refused(self, balancer: Balancer, place: str) -> None:
        task = await balancer.submit()
        answer = await balancer.client.get(task["links"]["events"], headers={"Last-Event-ID": place})
        assert (answer.status_code, fields_of(answer)) == (422, ["Last-Event-ID"])
        answer = await balancer.client.get(task["links"]["events"], params={"after": place})
        assert (answer.status_code, fields_of(answer)) == (422, ["after"])


async def frames(socket: ClientConnection) -> list[dict[str, Any]]:
    """All frames until the server closes."""
    found = [json.loads(frame) async for frame in socket]
    assert socket.close_code == 1000
    return found


class TestWebsocket:
    async def test_it_tells_the_same_story_and_closes(self, balancer: Balancer, address: str) -> None:
        task = await balancer.submit()
        async with connect(f"ws://{address}{task['links']['websocket']}", additional_headers=HEADERS) as socket:
            assert json.loads(await socket.recv())["type"] == "queued"
            await socket.send("frames of the client are ignored")
            await run(balancer)
            assert [frame["type"] for frame in await frames(socket)] == WHOLE[1:]

    async def test_it_begins_after_a_number(self, balancer: Balancer, address: str) -> None:
        task = await balancer.submit()
        await run(balancer)
        url = f"ws://{address}{task['links']['websocket']}"
        for after, rest in ((3, [4, 5]), (5, []), (99, [])):
            async with connect(f"{url}?after={after}", additional_headers=HEADERS) as socket:
                assert [frame["seq"] for frame in await frames(socket)] == rest

    async def test_an_unknown_task_is_a_404_before_it_opens(self, address: str) -> None:
        with pytest.raises(InvalidStatus) as refused:
            await connect(f"ws://{address}{TASKS}/{'0' * 26}/ws", additional_headers=HEADERS)
        response = refused.value.response
        assert (response.status_code, response.headers["content-type"]) == (404, "application/problem+json")

    async def test_a_bad_number_opens_nothing(self, balancer: Balancer, address: str) -> None:
        task = await balancer.submit()
        with pytest.raises((InvalidStatus, ConnectionClosed)):
            async with connect(
                f"ws://{address}{task['links']['websocket']}?after=x", additional_headers=HEADERS
            ) as socket:
                await socket.recv()

    async def test_a_client_that_leaves_is_forgotten(self, balancer: Balancer, address: str) -> None:
        task = await balancer.submit()
        url = f"ws://{address}{task['links']['websocket']}"
        async with connect(url, additional_headers=HEADERS) as socket:
            await socket.recv()
        await run(balancer)
        async with connect(url, additional_headers=HEADERS) as socket:
            assert [frame["type"] for frame in await frames(socket)] == WHOLE


class TestCatalog:
    async def test_workflows_are_listed_and_described(self, balancer: Balancer) -> None:
        listed = (await balancer.client.get("/api/v1/workflows")).json()["workflows"]
        assert [workflow["name"] for workflow in listed] == ["first-workflow", "image-to-image", "smoke"]
        whole = (await balancer.client.get("/api/v1/workflows/smoke")).json()
        assert [parameter["name"] for parameter in whole["parameters"]] == ["width", "height", "color"]
        assert whole["schema"]["properties"]["width"]["maximum"] == 2048

    async def test_a_damaged_workflow_hides_no_other(
        self, balancer: Balancer, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """Row S13."""
        await balancer.redis.set(balancer.keys.workflow("smoke"), b"\x80\x04\x95 pickle")
        listed = (await balancer.client.get("/api/v1/workflows")).json()["workflows"]
        assert [workflow["name"] for workflow in listed] == ["first-workflow", "image-to-image"]
        assert (await balancer.client.get("/api/v1/workflows/smoke")).status_code == 503
        assert '"workflow.damaged"' in capsys.readouterr().out

    async def test_a_published_workflow_is_known_without_a_restart(self, balancer: Balancer) -> None:
        assert (await balancer.client.get("/api/v1/workflows/sdxl")).status_code == 404
        await publish(balancer.redis, balancer.keys, "sdxl")

        async def known() -> bool:
            return (await balancer.client.get("/api/v1/workflows/sdxl")).status_code == 200

        await wait_until(known, "the workflow is known")


class TestAgents:
    async def test_an_agent_is_shown_drained_and_resumed(self, balancer: Balancer) -> None:
        await balancer.hand("gpu-1")
        listed = (await balancer.client.get("/api/v1/agents")).json()["agents"]
        assert [(agent["id"], agent["state"], agent["alive"]) for agent in listed] == [("gpu-1", "ready", True)]
        drained = await balancer.client.post("/api/v1/agents/gpu-1/drain")
        assert (drained.status_code, drained.json()["state"], drained.json()["draining"]) == (200, "draining", True)
        await balancer.client.post("/api/v1/agents/gpu-1/resume")
        assert (await balancer.client.get("/api/v1/agents/gpu-1")).json()["state"] == "ready"

    async def test_a_damaged_agent_hides_no_other(self, balancer: Balancer) -> None:
        """Rows S13 and S18."""
        await balancer.hand("gpu-1")
        await balancer.hand("gpu-2")
        await balancer.redis.hset(balancer.keys.agent("gpu-1"), "record", b"\xff\xfe")
        listed = (await balancer.client.get("/api/v1/agents")).json()["agents"]
        assert [agent["id"] for agent in listed] == ["gpu-2"]
        await balancer.submit()
