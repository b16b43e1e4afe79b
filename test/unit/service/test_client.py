"""One instance over HTTP, with scripted answers: every foreign error becomes one of ours."""

import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import pytest
import respx

from comfy_service.instance.client import BadAnswer, Instance, Place
from comfy_shared.errors import InstanceLost, OutputMissing, PromptRejected

URL = "http://comfyui.test:8188"
PROMPT = {"1": {"class_type": "EmptyImage", "inputs": {}}}
ID = "5f0f3c1e-0000-4000-8000-000000000001"
TRACE = '  File "/home/gpu/ComfyUI/execution.py", line 496, in execute\n'


@pytest.fixture
def http() -> Iterator[respx.Router]:
    """Scripted answers of the instance; a request that a test does not expect fails."""
    with respx.mock(base_url=URL, assert_all_called=False, using="httpx") as router:
        yield router


@pytest.fixture
async def instance(http: respx.Router) -> AsyncIterator[Instance]:
    instance = Instance([URL], patience=1)
    yield instance
    await instance.close()


class BrokenOff(httpx.AsyncByteStream):
    """A body whose connection is cut in the middle."""

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield b"half"
        raise httpx.ReadError("cut")


async def submit(instance: Instance) -> None:
    await instance.submit(PROMPT, prompt_id=ID, client_id="cid", extra_data={"comfy_agent": "gpu-1"})


def nowhere(http: respx.Router) -> None:
    http.get(f"/history/{ID}").respond(json={})
    http.get("/queue").respond(json={"queue_running": [], "queue_pending": []})


@pytest.mark.parametrize("error", [httpx.ConnectError, httpx.ReadTimeout, httpx.ReadError, httpx.RemoteProtocolError])
async def test_no_answer_is_a_lost_instance(
    http: respx.Router, instance: Instance, error: type[httpx.TransportError]
) -> None:
    http.get("/system_stats").mock(side_effect=error("down"))
    with pytest.raises(InstanceLost, match=r"GET /system_stats .*Error|Timeout") as caught:
        await instance.system_stats()
    assert caught.value.retryable


@pytest.mark.parametrize(
    "answer",
    [
        {"status_code": 500, "text": "500 Internal Server Error"},
        {"status_code": 200, "text": "<html>a proxy</html>"},
        {"status_code": 200, "json": []},
        {"status_code": 200, "text": "[" * 100_000},
        {"status_code": 200, "content": b"\xff\xfe"},
    ],
)
async def test_a_server_error_or_no_json_object_is_a_bad_answer(
    http: respx.Router, instance: Instance, answer: dict[str, Any]
) -> None:
    http.get("/object_info").respond(**answer)
    with pytest.raises(BadAnswer):
        await instance.object_info()


@pytest.mark.parametrize("stats", [{}, {"system": "Linux", "devices": []}, {"system": {}, "devices": 3}])
async def test_another_server_on_the_port_is_no_comfyui(
    http: respx.Router, instance: Instance, stats: dict[str, Any]
) -> None:
    """Its JSON was taken for an instance's, and reading it ended the agent."""
    http.get("/system_stats").respond(json=stats)
    with pytest.raises(BadAnswer, match="no ComfyUI"):
        await instance.system_stats()


async def test_a_prompt_is_posted_under_our_id_without_an_origin(http: respx.Router, instance: Instance) -> None:
    route = http.post("/prompt").respond(json={"prompt_id": ID, "number": 1, "node_errors": {}})
    await submit(instance)
    request = route.calls.last.request
    assert json.loads(request.content) == {
        "prompt": PROMPT,
        "prompt_id": ID,
        "client_id": "cid",
        "extra_data": {"comfy_agent": "gpu-1"},
    }
    assert "origin" not in request.headers


NODE_ERRORS = {
    "2": {
        "errors": [
            {
                "type": "exception_during_validation",
                "message": "Exception when validating node",
                "details": "'99'",
                "extra_info": {"exception_type": "KeyError", "traceback": [TRACE]},
            },
            {"type": "value_smaller_than_min", "message": "Value 0 smaller than min of 1", "details": "width"},
        ],
        "dependent_outputs": ["3"],
        "class_type": "EmptyImage",
    }
}
REJECTION = {
    "error": {
        "type": "prompt_outputs_failed_validation",
        "message": "Prompt outputs failed validation",
        "details": "",
        "extra_info": {"traceback": [TRACE]},
    },
    "node_errors": NODE_ERRORS,
}


async def test_a_rejection_is_readable_and_carries_no_server_path(http: respx.Router, instance: Instance) -> None:
    http.post("/prompt").respond(400, json=REJECTION)
    with pytest.raises(PromptRejected) as caught:
        await submit(instance)
    error = caught.value
    assert not error.retryable
    assert error.message == (
        "Prompt outputs failed validation. node 2: Exception when validating node: '99'. "
        "node 2: Value 0 smaller than min of 1: width"
    )
    assert error.details["type"] == "prompt_outputs_failed_validation"
    assert error.details["node_errors"]["2"]["class_type"] == "EmptyImage"
    assert [item["type"] for item in error.details["node_errors"]["2"]["errors"]] == [
        "exception_during_validation",
        "value_smaller_than_min",
    ]
    assert "/home/gpu" not in error.message + json.dumps(error.details)


@pytest.mark.parametrize(
    "body",
    [
        {"error": "a word", "node_errors": []},
        {"error": None},
        {"node_errors": {"2": "odd", "3": {"errors": None}, "4": {"errors": ["odd"]}}},
        {},
    ],
)
async def test_a_rejection_of_any_shape_is_one(http: respx.Router, instance: Instance, body: dict[str, Any]) -> None:
    """Errors that were no objects ended the run as a bug of ours."""
    http.post("/prompt").respond(400, json=body)
    with pytest.raises(PromptRejected):
        await submit(instance)


async def test_a_partly_accepted_prompt_is_removed_and_rejected(http: respx.Router, instance: Instance) -> None:
    """ComfyUI would leave out the bad branch and report success."""
    http.post("/prompt").respond(200, json={"prompt_id": ID, "number": 1, "node_errors": NODE_ERRORS})
    deleted = http.post("/queue", json={"delete": [ID]}).respond(200)
    stopped = http.post("/interrupt", json={"prompt_id": ID}).respond(200)
    with pytest.raises(PromptRejected, match="Value 0 smaller than min of 1"):
        await submit(instance)
    assert (deleted.call_count, stopped.call_count) == (1, 1)


LOST_ANSWERS = [
    pytest.param({"side_effect": httpx.ReadTimeout("late")}, id="no-answer"),
    # ComfyUI can answer 500 to a prompt that it queued; it was sent a second time.
    pytest.param({"return_value": httpx.Response(500)}, id="500"),
    pytest.param({"return_value": httpx.Response(200, text="not JSON")}, id="garbage"),
]


@pytest.mark.parametrize("answer", LOST_ANSWERS)
async def test_a_prompt_whose_answer_got_lost_is_looked_up_before_it_counts_as_not_sent(
    http: respx.Router, instance: Instance, answer: dict[str, Any]
) -> None:
    posted = http.post("/prompt").mock(**answer)
    http.get(f"/history/{ID}").respond(json={})
    http.get("/queue").respond(json={"queue_running": [[0, ID, PROMPT, {}, []]], "queue_pending": []})
    await submit(instance)
    assert posted.call_count == 1


@pytest.mark.parametrize("answer", LOST_ANSWERS)
async def test_a_lost_answer_is_told_when_the_prompt_is_nowhere(
    http: respx.Router, instance: Instance, answer: dict[str, Any]
) -> None:
    http.post("/prompt").mock(**answer)
    nowhere(http)
    with pytest.raises((InstanceLost, BadAnswer)):
        await submit(instance)


ENTRY = {"outputs": {}, "status": {"status_str": "success"}}


@pytest.mark.parametrize(
    ("history", "running", "waiting", "expected"),
    [
        ({ID: ENTRY}, [], [], Place.ENDED),
        ({}, [ID], [], Place.RUNNING),
        ({}, ["other"], ["another", ID], Place.WAITING),
        ({}, ["other"], ["another"], Place.NOWHERE),
        ({"other": ENTRY}, [], [], Place.NOWHERE),
    ],
)
async def test_history_and_queue_tell_where_a_prompt_is(
    http: respx.Router,
    instance: Instance,
    history: dict[str, Any],
    running: list[str],
    waiting: list[str],
    expected: Place,
) -> None:
    http.get(f"/history/{ID}").respond(json=history)
    items = [[[0, each, {}, {}, []] for each in ids] for ids in (running, waiting)]
    http.get("/queue").respond(json={"queue_running": items[0], "queue_pending": items[1]})
    assert await instance.whereabouts(ID) is expected


async def test_a_prompt_between_queue_and_history_is_not_nowhere(http: respx.Router, instance: Instance) -> None:
    """It is in neither for some milliseconds."""
    http.get(f"/history/{ID}").mock(side_effect=[httpx.Response(200, json={}), httpx.Response(200, json={ID: ENTRY})])
    http.get("/queue").respond(json={"queue_running": [], "queue_pending": []})
    assert await instance.whereabouts(ID) is Place.ENDED


@pytest.mark.parametrize(
    "queue",
    [
        {},
        {"queue_running": 5, "queue_pending": []},
        {"queue_running": [], "queue_pending": [[1]]},
        {"queue_running": [], "queue_pending": ["x"]},
    ],
)
async def test_a_queue_of_another_shape_is_a_bad_answer(
    http: respx.Router, instance: Instance, queue: dict[str, Any]
) -> None:
    """It ended the loop that watches the instance, and with it the agent."""
    http.get("/queue").respond(json=queue)
    with pytest.raises(BadAnswer):
        await instance.queue()


@pytest.mark.parametrize(
    ("answer", "name"),
    [
        ({"name": "a (1).png", "subfolder": "", "type": "input"}, "a (1).png"),
        ({"name": "a.png", "subfolder": "x/y", "type": "input"}, "x/y/a.png"),
    ],
)
async def test_an_upload_gives_the_name_that_a_node_has_to_take(
    http: respx.Router, instance: Instance, answer: dict[str, Any], name: str
) -> None:
    route = http.post("/upload/image").respond(json=answer)
    assert await instance.upload("a.png", b"bytes") == name
    body = route.calls.last.request.content
    assert b'name="image"; filename="a.png"' in body
    assert b"bytes" in body


@pytest.mark.parametrize(
    "answer", [{"status_code": 400}, {"json": {}}, {"json": {"name": 5}}, {"json": {"name": ""}}, {"text": "no JSON"}]
)
async def test_an_upload_without_a_name_is_a_bad_answer(
    http: respx.Router, instance: Instance, answer: dict[str, Any]
) -> None:
    """A missing name ended the run as a bug of ours."""
    http.post("/upload/image").respond(**answer)
    with pytest.raises(BadAnswer):
        await instance.upload("a.png", b"bytes")


FILE = {"filename": "a.png", "subfolder": "", "type": "output"}


@pytest.mark.parametrize("status", [400, 403, 404])
async def test_a_file_that_is_not_there_is_a_missing_output(
    http: respx.Router, instance: Instance, status: int
) -> None:
    http.get("/view", params=FILE).respond(status)
    with pytest.raises(OutputMissing, match=r"a\.png"):
        async with instance.view(FILE):
            pass


async def test_a_view_that_fails_is_a_bad_answer(http: respx.Router, instance: Instance) -> None:
    http.get("/view").respond(502)
    with pytest.raises(BadAnswer):
        async with instance.view(FILE):
            pass


async def read_all(instance: Instance) -> bytes:
    async with instance.view(FILE) as chunks:
        return b"".join([chunk async for chunk in chunks])


async def test_an_output_that_breaks_off_is_a_lost_instance(http: respx.Router, instance: Instance) -> None:
    http.get("/view").respond(200, stream=BrokenOff())
    with pytest.raises(InstanceLost, match="broke off"):
        await read_all(instance)


@respx.mock(using="httpx")
async def test_of_several_addresses_the_first_that_answers_is_used(respx_mock: respx.MockRouter) -> None:
    """One instance as seen from different networks; when it is lost, it is looked for again."""
    first, second = "http://first.test", "http://second.test"
    instance = Instance([first, second], patience=1)
    stats = httpx.Response(200, json={"system": {}, "devices": []})
    down = respx_mock.get(f"{first}/system_stats").mock(side_effect=httpx.ConnectError("down"))
    up = respx_mock.get(f"{second}/system_stats").mock(return_value=stats)
    await instance.system_stats()
    assert instance.url == second
    down.mock(return_value=stats, side_effect=None)
    up.mock(side_effect=httpx.ConnectError("down"))
    with pytest.raises(InstanceLost):
        await instance.system_stats()
    await instance.system_stats()
    assert instance.url == first
    await instance.close()
