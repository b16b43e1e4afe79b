"""Comfy API v2, jobs: every answer is held to the contract's schemas."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from redis.asyncio import Redis

from comfy_shared.callers import Role
from comfy_shared.models import EventType, Progress, TaskError
from comfy_shared.partner import PartnerKeys
from comfy_shared.settings import SharedSettings
from test.comfy_v2 import contract
from test.integration.balancer_support import PROMPT, Balancer, picture, running
from test.integration.v2_support import (
    Client,
    client_of,
    complete,
    frames_of,
    reference,
    with_picture,
)
from test.support.agents import Hand, advance
from test.support.builders import output
from test.support.waiting import wait_until

LONG = "x" * 256


@pytest.fixture
async def balancer(redis: Redis, settings: SharedSettings, core_nodes: None) -> AsyncIterator[Balancer]:
    async with running(redis, settings, streams_limit=2) as made:
        yield made


@pytest.fixture
async def anna(balancer: Balancer) -> Client:
    return await client_of(balancer, "anna")


@pytest.fixture
async def hand(balancer: Balancer) -> Hand:
    return await balancer.hand()


class TestLife:
    async def test_a_job_goes_from_queued_to_succeeded(self, balancer: Balancer, anna: Client, hand: Hand) -> None:
        job = await anna.submit()
        assert (job["status"], job["outputs"], job["error"], job["queue_position"]) == ("queued", [], None, None)
        assert (await anna.job(job["id"]))["queue_position"] == 1
        await complete(hand, balancer, [output("a.png"), output("b.txt", kind="text", content_type="text/plain")], b"x")
        done = await anna.job(job["id"])
        assert (done["status"], done["progress"], done["queue_position"]) == ("succeeded", None, None)
        kept = [(item["name"], item["type"], item["size_bytes"], item["job_id"]) for item in done["outputs"]]
        assert kept == [("a.png", "image", 1, job["id"]), ("b.txt", "text", 1, job["id"])]
        assert done["completed_at"] >= done["started_at"] >= done["created_at"] == job["created_at"]
        assert done["metrics"]["execution_ms"] is not None

    async def test_a_running_job_tells_its_progress(self, anna: Client, hand: Hand) -> None:
        job = await anna.submit()
        attempt = await hand.take()
        seen = await anna.job(job["id"])
        assert (seen["status"], seen["progress"]["value"]) == ("running", 0.0)
        progress = Progress(
            fraction=0.5, node="1", node_class="KSampler", value=3, maximum=6, nodes_done=1, nodes_total=4
        )
        await hand.queue.report(attempt, EventType.PROGRESS, {}, progress=progress)
        assert (await anna.job(job["id"]))["progress"] == {
            "value": 0.5, "nodes_done": 1, "nodes_total": 4, "current_node": "1", "current_node_class": "KSampler",
            "step": 3, "steps": 6, "message": "KSampler 3/6",
        }  # fmt: skip

    async def test_a_failed_job_names_the_node(self, anna: Client, hand: Hand) -> None:
        job = await anna.submit()
        details = {"text": "no such file\n"}
        error = TaskError(code="node_failed", message="Node 1 failed", node="1", node_class="Fail", details=details)
        await hand.queue.fail(await hand.take(), error)
        failed = await anna.job(job["id"])
        assert failed["status"] == "failed"
        assert failed["error"] == {
            "code": "node_execution_error", "message": "no such file\n", "node_id": "1", "class_type": "Fail",
            "traceback": None,
        }  # fmt: skip

    async def test_cancel_works_in_every_state_and_twice(self, anna: Client, hand: Hand, balancer: Balancer) -> None:
        done = await anna.submit()
        await complete(hand, balancer, [output()], b"x")
        running, waiting = await anna.submit(), await anna.submit()
        await hand.take()
        for job, end in ((running, "canceled"), (waiting, "canceled"), (done, "succeeded")):
            for _ in range(2):
                answer = await anna.ask("POST", f"/jobs/{job['id']}/cancel")
                assert answer.status_code == 200
                assert contract.check(answer.json(), contract.JOB)["status"] == end

    async def test_the_graph_comes_back_with_the_names_of_files(self, anna: Client, hand: Hand) -> None:
        asset = await anna.asset(name="input/mine.png")
        job = await anna.submit(with_picture(reference(asset["id"])))
        got = await anna.read(f"/jobs/{job['id']}/workflow", contract.WORKFLOW)
        assert got == {"workflow": with_picture("input/mine.png"), "format": "api"}


class TestSubmit:
    async def test_a_key_is_good_for_one_job(self, anna: Client, hand: Hand) -> None:
        await anna.submit(key="k1")
        for body in ({"workflow": PROMPT}, {"workflow": PROMPT, "priority": 1}):
            refused = await anna.refused("POST", "/jobs", json=body, headers={"Idempotency-Key": "k1"})
            assert refused == (422, "idempotency_key_reuse")
        assert await hand.queue.redis.zcard(hand.queue.keys.queue) == 1

    async def test_a_key_of_a_refused_job_is_free(self, anna: Client, hand: Hand) -> None:
        body = {"workflow": {"1": {"class_type": "Nope", "inputs": {}}}}
        refused = await anna.refused("POST", "/jobs", json=body, headers={"Idempotency-Key": "k1"})
        assert refused == (422, "invalid_workflow")
        await anna.submit(key="k1")

    async def test_of_submits_at_once_with_one_key_one_is_accepted(self, anna: Client, hand: Hand) -> None:
        headers = {"Idempotency-Key": "k1"}
        body = {"workflow": PROMPT}
        answers = await asyncio.gather(*(anna.ask("POST", "/jobs", json=body, headers=headers) for _ in range(10)))
        assert sorted(answer.status_code for answer in answers) == [201] + [422] * 9

    async def test_another_owner_has_its_own_keys(self, balancer: Balancer, anna: Client, hand: Hand) -> None:
        berta = await client_of(balancer, "berta")
        assert (await anna.submit(key="k1"))["id"] != (await berta.submit(key="k1"))["id"]

    async def test_a_key_for_partner_nodes_is_kept_apart(self, balancer: Balancer, anna: Client, hand: Hand) -> None:
        job = await anna.submit(extra_data={"api_key_comfy_org": "comfyui-secret"})
        assert "secret" not in str(await anna.job(job["id"]))
        token = (await hand.take()).task.notes["partner"]
        assert await PartnerKeys(balancer.redis, balancer.keys).of(token) == "comfyui-secret"
        wrong = {"workflow": {"1": {"class_type": "Nope", "inputs": {}}}, "extra_data": {"api_key_comfy_org": "k"}}
        await anna.refused_job(**wrong)
        kept = [key async for key in balancer.redis.scan_iter(balancer.keys.partner("*"))]
        assert kept == [balancer.keys.partner(token).encode()]

    @pytest.mark.parametrize("key", ["", "x" * 256, "a b", "\x7f"])
    async def test_an_odd_key_is_refused(self, anna: Client, hand: Hand, key: str) -> None:
        refused = await anna.refused("POST", "/jobs", json={"workflow": PROMPT}, headers={"Idempotency-Key": key})
        assert refused == (400, "invalid_request")

    async def test_priorities_are_real(self, balancer: Balancer, hand: Hand) -> None:
        boss = await client_of(balancer, "boss", Role.ADMIN)
        jobs = [await boss.submit(priority=priority) for priority in (-3, 0, 1_000_000, 2)]
        assert [job["priority"] for job in jobs] == [-3, 0, 1_000_000, 2]
        taken = [(await hand.take()).id for _ in jobs]
        assert taken == [jobs[index]["id"] for index in (2, 3, 1, 0)]

    async def test_a_user_goes_before_nobody_by_priority(self, anna: Client, hand: Hand) -> None:
        first, second = await anna.submit(), await anna.submit(priority=1000)
        assert second["priority"] == 1000
        assert [(await hand.take()).id for _ in range(2)] == [first["id"], second["id"]]

    async def test_metadata_comes_back_as_it_was_given(self, anna: Client, hand: Hand) -> None:
        for metadata in ("a note\n" + "é" * 500, {"client": "acme", "batch": LONG}):
            job = await anna.submit(metadata=metadata)
            assert job["metadata"] == (await anna.job(job["id"]))["metadata"] == metadata
        assert "metadata" not in await anna.submit()

    @pytest.mark.parametrize(
        ("body", "code"),
        [
            ({}, (422, "invalid_workflow")),
            ({"workflow": None}, (422, "invalid_workflow")),
            ({"workflow": {}}, (422, "invalid_workflow")),
            ({"workflow": {"1": 7}}, (422, "invalid_workflow")),
            ({"workflow": {"1": {"class_type": "Nope", "inputs": {}}}}, (422, "invalid_workflow")),
            ({"workflow": {"1": {"class_type": "SaveImage", "inputs": {}}}}, (422, "invalid_workflow")),
            (
                {"workflow": {"1": {"class_type": "SaveImage", "inputs": {"images": ["9", 0]}}}},
                (422, "invalid_workflow"),
            ),
            ({"workflow": {"nodes": [], "links": []}}, (422, "workflow_format_ui")),
            ({"workflow": PROMPT, "webhook_url": "http://x.example"}, (422, "invalid_workflow")),
            ({"workflow": PROMPT, "inputs": {}}, (422, "invalid_workflow")),
            ({"workflow": PROMPT, "metadata": 1}, (422, "invalid_request")),
            ({"workflow": PROMPT, "metadata": "x" * 1025}, (422, "invalid_request")),
            ({"workflow": PROMPT, "metadata": {"a": 1}}, (422, "metadata_invalid")),
            ({"workflow": PROMPT, "metadata": {"a b": "1"}}, (422, "metadata_invalid")),
            ({"workflow": PROMPT, "metadata": {"a": "x\n"}}, (422, "metadata_invalid")),
            ({"workflow": PROMPT, "metadata": {"a": LONG + "x"}}, (422, "metadata_invalid")),
            ({"workflow": PROMPT, "metadata": {f"a{i}": "" for i in range(17)}}, (422, "metadata_invalid")),
            ({"workflow": PROMPT, "priority": True}, (422, "invalid_request")),
            ({"workflow": PROMPT, "priority": 1.5}, (422, "invalid_request")),
            ({"workflow": PROMPT, "priority": -1_000_001}, (422, "invalid_request")),
            ({"workflow": PROMPT, "extra_data": []}, (400, "invalid_request")),
            ({"workflow": PROMPT, "extra_data": {"x": 1}}, (400, "invalid_request")),
            ({"workflow": PROMPT, "extra_data": {"api_key_comfy_org": 1}}, (400, "invalid_request")),
            ({"workflow": PROMPT, "extra_data": {"api_key_comfy_org": "k" * 4097}}, (400, "invalid_request")),
            ({"workflow": with_picture("../../secret.png")}, (422, "invalid_workflow")),
            ({"workflow": with_picture("photo.png")}, (422, "invalid_workflow")),
        ],
    )
    async def test_what_does_not_fit_is_refused_and_leaves_nothing(
        self, balancer: Balancer, anna: Client, hand: Hand, body: Any, code: tuple[int, str]
    ) -> None:
        assert await anna.refused_job(**body) == code
        assert await balancer.traces() == []

    @pytest.mark.parametrize(
        "content", [b"", b"{", b"[]", b"7", b'"x"', b"\xff", b"{" * 100_000, b'{"workflow": ' + b"[" * 2000]
    )
    async def test_a_body_that_is_no_object_is_refused(self, anna: Client, content: bytes) -> None:
        headers = {"Content-Type": "application/json"}
        assert await anna.refused("POST", "/jobs", content=content, headers=headers) == (400, "invalid_request")

    async def test_the_node_at_fault_is_named(self, anna: Client, hand: Hand) -> None:
        graph = {**PROMPT, "a.b": {"class_type": "EmptyImge", "inputs": {}}}
        answer = await anna.ask("POST", "/jobs", json={"workflow": graph})
        error = answer.json()["error"]
        assert "EmptyImge" in error["message"]
        assert error["details"]["node_errors"]["a.b"]["errors"][0]["extra_info"]["nearest"] == ["EmptyImage"]

    async def test_a_full_queue_says_when_to_come_again(
        self, redis: Redis, settings: SharedSettings, core_nodes: None
    ) -> None:
        async with running(redis, settings, queue_limit=1) as small:
            anna = await client_of(small, "anna")
            await small.hand()
            await anna.submit()
            answer = await anna.ask("POST", "/jobs", json={"workflow": PROMPT})
            assert (answer.status_code, answer.json()["error"]["code"]) == (429, "queue_full")
            assert int(answer.headers["retry-after"]) > 0


class TestReferences:
    async def test_a_reference_becomes_a_file_of_the_task(self, anna: Client, hand: Hand) -> None:
        asset = await anna.asset()
        await anna.submit(with_picture(reference(asset["id"])))
        (file,) = (await hand.take()).task.inputs
        assert (file.node, file.input, file.extension, file.size) == ("1", "image", ".png", asset["size_bytes"])

    async def test_a_hash_helps_when_the_id_is_lost(self, anna: Client, hand: Hand) -> None:
        asset = await anna.asset()
        await anna.submit(with_picture(reference("lost", hash=asset["hash"])))
        await anna.submit(with_picture({"__type": "core/ASSET", "info": {"hash": asset["hash"]}}))

    async def test_an_input_that_takes_no_upload_gets_the_file_too(self, anna: Client, hand: Hand) -> None:
        asset = await anna.asset()
        graph = with_picture(reference(asset["id"]))
        graph["2"]["inputs"]["filename_prefix"] = reference(asset["id"])
        await anna.submit(graph)
        places = {(file.node, file.input) for file in (await hand.take()).task.inputs}
        assert places == {("1", "image"), ("2", "filename_prefix")}

    async def test_an_upload_is_known_by_its_name_to_its_owner(
        self, balancer: Balancer, anna: Client, hand: Hand
    ) -> None:
        await anna.asset(picture(9), "input/deep/mine.png")
        await anna.asset(picture(10), "mine.png")
        for name, size in (("deep/mine.png", len(picture(9))), ("mine.png", len(picture(10)))):
            job = await anna.submit(with_picture(name))
            assert [file.size for file in (await hand.take()).task.inputs] == [size]
            got = await anna.read(f"/jobs/{job['id']}/workflow", contract.WORKFLOW)
            assert got["workflow"] == with_picture(name)
        berta = await client_of(balancer, "berta")
        assert await berta.refused_job(workflow=with_picture("mine.png")) == (422, "invalid_workflow")

    async def test_an_input_that_takes_a_number_takes_no_reference(self, anna: Client, hand: Hand) -> None:
        graph = {**PROMPT, "1": {"class_type": "EmptyImage", "inputs": {**PROMPT["1"]["inputs"]}}}
        graph["1"]["inputs"]["width"] = reference((await anna.asset())["id"])
        assert await anna.refused_job(workflow=graph) == (422, "invalid_workflow")

    async def test_an_output_is_an_input_of_the_next_job(self, anna: Client, hand: Hand, balancer: Balancer) -> None:
        first = await anna.submit()
        await complete(hand, balancer, [output()], picture())
        (made,) = (await anna.job(first["id"]))["outputs"]
        second = await anna.submit(with_picture(reference(made["id"])))
        (file,) = (await hand.take()).task.inputs
        stored = await balancer.client.get(f"/api/v1/tasks/{first['id']}/outputs/{made['name']}")
        assert (file.extension, file.size) == (".png", len(stored.content))
        named = (await anna.read(f"/jobs/{second['id']}/workflow", contract.WORKFLOW))["workflow"]
        assert named["1"]["inputs"]["image"] == made["name"]

    @pytest.mark.parametrize(
        "lost",
        [
            reference("00000000-0000-0000-0000-000000000000"),
            reference("../../etc/passwd"),
            reference(7),
            reference("01m83n8xxt1me7canaqndb59s4-0"),
            reference("x" * 5000),
            {"__type": "core/ASSET"},
            {"__type": "core/ASSET", "info": "x"},
            {"__type": "core/ASSET", "info": {"hash": "blake3:" + "0" * 64}},
        ],
    )
    async def test_a_reference_that_leads_nowhere_is_refused(self, anna: Client, hand: Hand, lost: Any) -> None:
        answer = await anna.ask("POST", "/jobs", json={"workflow": with_picture(lost)})
        error = answer.json()["error"]
        assert (answer.status_code, error["code"], len(error["details"]["missing_ids"])) == (422, "missing_asset", 1)
        assert len(answer.content) < 2000

    async def test_a_reference_within_a_value_has_no_place(self, anna: Client, hand: Hand) -> None:
        asset = await anna.asset()
        for value in ([reference(asset["id"])], {"a": [reference(asset["id"])]}):
            assert await anna.refused_job(workflow=with_picture(value)) == (422, "invalid_workflow")

    async def test_a_file_that_is_no_picture_is_not_for_a_graph(self, anna: Client, hand: Hand) -> None:
        answer = await anna.upload(b"\x80\x04\x95 pickled", "model.bin", content_type="application/octet-stream")
        graph = with_picture(reference(answer.json()["id"]))
        assert await anna.refused_job(workflow=graph) == (422, "invalid_workflow")


class TestLists:
    async def test_the_newest_come_first_page_by_page(self, anna: Client, hand: Hand) -> None:
        ids = [(await anna.submit())["id"] for _ in range(5)]
        found: list[str] = []
        query = "?limit=2"
        while query:
            page = await anna.read(f"/jobs{query}", contract.JOB_LIST)
            found += [job["id"] for job in page["jobs"]]
            assert page["truncated"] is False
            query = f"?limit=2&cursor={page['next_cursor']}" if "next_cursor" in page else ""
        assert found == ids[::-1]

    async def test_a_status_is_picked(self, anna: Client, hand: Hand, balancer: Balancer) -> None:
        done, running, waiting = [(await anna.submit())["id"] for _ in range(3)]
        await complete(hand, balancer, [output()], b"x")
        await hand.take()

        async def ids(status: str) -> list[str]:
            page = await anna.read(f"/jobs?status={status}", contract.JOB_LIST)
            return [job["id"] for job in page["jobs"]]

        assert await ids("queued") == [waiting]
        assert await ids("running,succeeded") == [running, done]
        assert await ids("expired,canceling") == []
        assert await ids("") == [waiting, running, done]

    async def test_labels_are_picked(self, anna: Client, hand: Hand) -> None:
        mine = (await anna.submit(metadata={"client": "acme", "batch": "1"}))["id"]
        await anna.submit(metadata={"client": "acme"})
        page = await anna.read("/jobs?metadata[client]=acme&metadata[batch]=1", contract.JOB_LIST)
        assert [job["id"] for job in page["jobs"]] == [mine]

    @pytest.mark.parametrize(
        ("query", "code"),
        [
            ("limit=0", "invalid_request"),
            ("limit=101", "invalid_request"),
            ("limit=x", "invalid_request"),
            ("limit=" + "9" * 5000, "invalid_request"),
            ("status=done", "invalid_request"),
            ("cursor=nonsense", "invalid_cursor"),
            ("cursor=" + "A" * 300, "invalid_cursor"),
            ("metadata[a b]=1", "invalid_metadata_filter"),
            ("metadata[a]=%00", "invalid_metadata_filter"),
            ("metadata[a]=1&metadata[b]=1&metadata[c]=1&metadata[d]=1", "invalid_metadata_filter"),
        ],
    )
    async def test_an_odd_question_is_refused(self, anna: Client, query: str, code: str) -> None:
        assert await anna.refused("GET", f"/jobs?{query}") == (400, code)


class TestOwners:
    async def test_what_another_owner_has_does_not_exist(self, balancer: Balancer, anna: Client, hand: Hand) -> None:
        berta = await client_of(balancer, "berta")
        asset, job = await anna.asset(), await anna.submit()
        await complete(hand, balancer, [output()], picture(9))
        made = (await anna.job(job["id"]))["outputs"][0]["id"]
        for method, path in (
            ("GET", f"/jobs/{job['id']}"),
            ("GET", f"/jobs/{job['id']}/events"),
            ("GET", f"/jobs/{job['id']}/workflow"),
            ("POST", f"/jobs/{job['id']}/cancel"),
            ("GET", f"/assets/{asset['id']}"),
            ("GET", f"/assets/{asset['id']}/content"),
            ("DELETE", f"/assets/{asset['id']}"),
            ("GET", f"/assets/{made}"),
            ("GET", f"/assets/{made}/content"),
            ("DELETE", f"/assets/{made}"),
        ):
            unknown = path.replace(job["id"], "0" * 26).replace(asset["id"], "0" * 8 + asset["id"][8:])
            theirs, nobodys = await berta.ask(method, path), await berta.ask(method, unknown)
            assert theirs.status_code == nobodys.status_code == 404, path
            assert theirs.json()["error"]["code"] == nobodys.json()["error"]["code"] == "not_found"
        assert await berta.read("/jobs", contract.JOB_LIST) == {"jobs": [], "truncated": False}
        for lost in (asset["id"], made):
            refused = await berta.refused_job(workflow=with_picture(reference(lost, hash=asset["hash"])))
            assert refused == (422, "missing_asset")


class TestEvents:
    async def test_the_stream_of_a_job_that_ended_ends_with_its_status(
        self, balancer: Balancer, anna: Client, hand: Hand
    ) -> None:
        job = await anna.submit()
        await complete(hand, balancer, [output("a.png"), output("b.png")], b"x")
        answer = await anna.ask("GET", f"/jobs/{job['id']}/events")
        assert answer.headers["content-type"].startswith("text/event-stream")
        frames = frames_of(answer.text)
        assert [name for name, _ in frames] == ["output", "output", "status"]
        assert frames[-1][1] == {"status": "succeeded"}
        assert [data for name, data in frames if name == "output"] == (await anna.job(job["id"]))["outputs"]

    async def test_the_stream_tells_every_step_and_comes_to_an_end(
        self, balancer: Balancer, anna: Client, hand: Hand, redis: Redis
    ) -> None:
        job = await anna.submit()
        reading = asyncio.create_task(anna.ask("GET", f"/jobs/{job['id']}/events"))
        await asyncio.sleep(0)
        attempt = await hand.take()
        for step in range(3):
            await advance(redis, balancer.keys, 1)
            progress = Progress(fraction=step / 10, node="1", node_class="A", value=step, maximum=10, nodes_total=2)
            data = json.loads(json.dumps({name: getattr(progress, name) for name in Progress.__struct_fields__}))
            await hand.queue.report(attempt, EventType.PROGRESS, data, progress=progress)
        await hand.queue.complete(attempt, [output()])
        frames = frames_of((await asyncio.wait_for(reading, 10)).text)
        statuses = [data["status"] for name, data in frames if name == "status"]
        assert statuses in (["queued", "running", "succeeded"], ["running", "succeeded"], ["succeeded"])
        assert [name for name, _ in frames][-2:] == ["output", "status"]

    async def test_a_canceled_job_ends_its_stream(self, anna: Client, hand: Hand) -> None:
        job = await anna.submit()
        reading = asyncio.create_task(anna.ask("GET", f"/jobs/{job['id']}/events"))
        await anna.ask("POST", f"/jobs/{job['id']}/cancel")
        frames = frames_of((await asyncio.wait_for(reading, 10)).text)
        assert frames[-1] == ("status", {"status": "canceled"})

    async def test_one_owner_has_only_so_many_streams(self, balancer: Balancer, anna: Client, hand: Hand) -> None:
        job = await anna.submit()
        path = f"/jobs/{job['id']}/events"
        reading = [asyncio.create_task(anna.ask("GET", path)) for _ in range(2)]
        streams = balancer.app.state.streams
        await wait_until(lambda: streams.full("anna"), "both streams are open")
        answer = await anna.ask("GET", path)
        assert (answer.status_code, answer.json()["error"]["code"]) == (429, "too_many_streams")
        assert "retry-after" in answer.headers
        berta = await client_of(balancer, "berta")
        own = await berta.submit()
        await anna.ask("POST", f"/jobs/{job['id']}/cancel")
        await asyncio.wait_for(asyncio.gather(*reading), 10)
        assert not streams.full("anna")
        await berta.ask("POST", f"/jobs/{own['id']}/cancel")
        assert (await berta.ask("GET", f"/jobs/{own['id']}/events")).status_code == 200


class TestEdge:
    async def test_the_edge_speaks_the_doors_shape(self, balancer: Balancer, anna: Client) -> None:
        stranger = await balancer.client.get("/api/v2/jobs", auth=None)
        assert (stranger.status_code, stranger.json()["error"]["code"]) == (401, "unauthorized")
        contract.check(stranger.json(), contract.ERROR)
        headers = {"Content-Type": "text/plain"}
        assert await anna.refused("POST", "/jobs", content=b"{}", headers=headers) == (415, "invalid_request")
        headers = {"Content-Length": str(10**12), "Content-Type": "application/json"}
        assert await anna.refused("POST", "/jobs", content=b"{}", headers=headers) == (413, "payload_too_large")
        headers = {"Origin": "http://evil.example"}
        assert await anna.refused("POST", "/jobs", json={}, headers=headers) == (403, "forbidden_origin")
        assert await anna.refused("GET", "/nothing") == (404, "not_found")
        assert await anna.refused("PUT", "/jobs", json={}) == (405, "method_not_allowed")
        assert await anna.refused("GET", "/jobs/" + "x" * 3000) == (404, "not_found")
        assert (await anna.ask("GET", "/health")).json() == {"status": "healthy"}
