"""One instance over HTTP, with scripted answers: every foreign error becomes one of ours."""

import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from comfy_service.instance.client import BadAnswer, Instance, Place
from comfy_shared.errors import InstanceLost, OutputMissing, PromptRejected
from test.unit.service.scripted import Reply, Session

URL = "http://comfyui.test:8188"
PROMPT = {"1": {"class_type": "EmptyImage", "inputs": {}}}
ID = "5f0f3c1e-0000-4000-8000-000000000001"
TRACE = '  File "/home/gpu/ComfyUI/execution.py", line 496, in execute\n'


@pytest.fixture
def http(monkeypatch: pytest.MonkeyPatch) -> Session:
    """Scripted answers of the instance."""
    session = Session()
    monkeypatch.setattr("comfy_service.instance.client.ClientSession", lambda **_: session)
    return session


@pytest.fixture
async def instance(http: Session) -> AsyncIterator[Instance]:
    instance = Instance([URL], patience=1)
    yield instance
    await instance.close()


async def submit(instance: Instance) -> None:
    await instance.submit(PROMPT, prompt_id=ID, client_id="cid", extra_data={"comfy_agent": "gpu-1"})


def nowhere(http: Session) -> None:
    http.on("GET", f"/history/{ID}", Reply(json_value={}))
    http.on("GET", "/queue", Reply(json_value={"queue_running": [], "queue_pending": []}))


NO_ANSWERS = [
    aiohttp.ClientConnectionError("down"),
    aiohttp.ServerTimeoutError("late"),
    aiohttp.ServerDisconnectedError("cut"),
    TimeoutError("late"),
    ConnectionResetError("cut"),
]


@pytest.mark.parametrize("error", [*NO_ANSWERS, aiohttp.ClientPayloadError("half")], ids=repr)
@pytest.mark.parametrize("in_the_body", [False, True])
async def test_no_answer_is_a_lost_instance(
    http: Session, instance: Instance, error: Exception, in_the_body: bool
) -> None:
    http.on("GET", "/system_stats", Reply(text="{", broken=error) if in_the_body else error)
    with pytest.raises(InstanceLost, match=r"GET /system_stats .*Error|Timeout") as caught:
        await instance.system_stats()
    assert caught.value.retryable


@pytest.mark.parametrize(
    "answer",
    [
        Reply(500, text="500 Internal Server Error"),
        Reply(text="<html>a proxy</html>"),
        Reply(json_value=[]),
        Reply(text="[" * 100_000),
        Reply(content=b"\xff\xfe"),
    ],
)
async def test_a_server_error_or_no_json_object_is_a_bad_answer(
    http: Session, instance: Instance, answer: Reply
) -> None:
    http.on("GET", "/object_info", answer)
    with pytest.raises(BadAnswer):
        await instance.object_info()


@pytest.mark.parametrize("stats", [{}, {"system": "Linux", "devices": []}, {"system": {}, "devices": 3}])
async def test_another_server_on_the_port_is_no_comfyui(
    http: Session, instance: Instance, stats: dict[str, Any]
) -> None:
    """Its JSON was taken for an instance's, and reading it ended the agent."""
    http.on("GET", "/system_stats", Reply(json_value=stats))
    with pytest.raises(BadAnswer, match="no ComfyUI"):
        await instance.system_stats()


async def test_a_prompt_is_posted_under_our_id_without_an_origin(http: Session, instance: Instance) -> None:
    route = http.on("POST", "/prompt", Reply(json_value={"prompt_id": ID, "number": 1, "node_errors": {}}))
    await submit(instance)
    request = route.calls[-1]
    assert json.loads(request.body) == {
        "prompt": PROMPT,
        "prompt_id": ID,
        "client_id": "cid",
        "extra_data": {"comfy_agent": "gpu-1"},
    }
    assert request.headers == {"Content-Type": "application/json"}


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


async def test_a_rejection_is_readable_and_carries_no_server_path(http: Session, instance: Instance) -> None:
    http.on("POST", "/prompt", Reply(400, json_value=REJECTION))
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
async def test_a_rejection_of_any_shape_is_one(http: Session, instance: Instance, body: dict[str, Any]) -> None:
    """Errors that were no objects ended the run as a bug of ours."""
    http.on("POST", "/prompt", Reply(400, json_value=body))
    with pytest.raises(PromptRejected):
        await submit(instance)


async def test_a_partly_accepted_prompt_is_removed_and_rejected(http: Session, instance: Instance) -> None:
    """ComfyUI would leave out the bad branch and report success."""
    http.on("POST", "/prompt", Reply(json_value={"prompt_id": ID, "number": 1, "node_errors": NODE_ERRORS}))
    deleted = http.on("POST", "/queue", Reply())
    stopped = http.on("POST", "/interrupt", Reply())
    with pytest.raises(PromptRejected, match="Value 0 smaller than min of 1"):
        await submit(instance)
    assert [json.loads(call.body) for call in deleted.calls] == [{"delete": [ID]}]
    assert [json.loads(call.body) for call in stopped.calls] == [{"prompt_id": ID}]


LOST_ANSWERS = [
    pytest.param(aiohttp.ServerTimeoutError("late"), id="no-answer"),
    # ComfyUI can answer 500 to a prompt that it queued; it was sent a second time.
    pytest.param(Reply(500), id="500"),
    pytest.param(Reply(text="not JSON"), id="garbage"),
    pytest.param(Reply(text="{", broken=aiohttp.ClientPayloadError("half")), id="half"),
]


@pytest.mark.parametrize("answer", LOST_ANSWERS)
async def test_a_prompt_whose_answer_got_lost_is_looked_up_before_it_counts_as_not_sent(
    http: Session, instance: Instance, answer: Reply | Exception
) -> None:
    posted = http.on("POST", "/prompt", answer)
    http.on("GET", f"/history/{ID}", Reply(json_value={}))
    queue = {"queue_running": [[0, ID, PROMPT, {}, []]], "queue_pending": []}
    http.on("GET", "/queue", Reply(json_value=queue))
    await submit(instance)
    assert len(posted.calls) == 1


@pytest.mark.parametrize("answer", LOST_ANSWERS)
async def test_a_lost_answer_is_told_when_the_prompt_is_nowhere(
    http: Session, instance: Instance, answer: Reply | Exception
) -> None:
    http.on("POST", "/prompt", answer)
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
    http: Session,
    instance: Instance,
    history: dict[str, Any],
    running: list[str],
    waiting: list[str],
    expected: Place,
) -> None:
    http.on("GET", f"/history/{ID}", Reply(json_value=history))
    items = [[[0, each, {}, {}, []] for each in ids] for ids in (running, waiting)]
    http.on("GET", "/queue", Reply(json_value={"queue_running": items[0], "queue_pending": items[1]}))
    assert await instance.whereabouts(ID) is expected


async def test_a_prompt_between_queue_and_history_is_not_nowhere(http: Session, instance: Instance) -> None:
    """It is in neither for some milliseconds."""
    http.on("GET", f"/history/{ID}", Reply(json_value={}), Reply(json_value={ID: ENTRY}))
    http.on("GET", "/queue", Reply(json_value={"queue_running": [], "queue_pending": []}))
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
    http: Session, instance: Instance, queue: dict[str, Any]
) -> None:
    """It ended the loop that watches the instance, and with it the agent."""
    http.on("GET", "/queue", Reply(json_value=queue))
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
    http: Session, instance: Instance, answer: dict[str, Any], name: str
) -> None:
    route = http.on("POST", "/upload/image", Reply(json_value=answer))
    assert await instance.upload("a.png", b"bytes") == name
    body = route.calls[-1].body
    assert b'name="image"; filename="a.png"' in body
    assert b"bytes" in body


@pytest.mark.parametrize(
    "answer",
    [
        Reply(400),
        Reply(json_value={}),
        Reply(json_value={"name": 5}),
        Reply(json_value={"name": ""}),
        Reply(text="no JSON"),
    ],
)
async def test_an_upload_without_a_name_is_a_bad_answer(http: Session, instance: Instance, answer: Reply) -> None:
    """A missing name ended the run as a bug of ours."""
    http.on("POST", "/upload/image", answer)
    with pytest.raises(BadAnswer):
        await instance.upload("a.png", b"bytes")


FILE = {"filename": "a.png", "subfolder": "", "type": "output"}


@pytest.mark.parametrize("status", [400, 403, 404])
async def test_a_file_that_is_not_there_is_a_missing_output(http: Session, instance: Instance, status: int) -> None:
    http.on("GET", "/view", Reply(status))
    with pytest.raises(OutputMissing, match=r"a\.png"):
        async with instance.view(FILE):
            pass
    assert http.queries == [FILE]


async def test_a_view_that_fails_is_a_bad_answer(http: Session, instance: Instance) -> None:
    http.on("GET", "/view", Reply(502))
    with pytest.raises(BadAnswer):
        async with instance.view(FILE):
            pass


async def read_all(instance: Instance) -> bytes:
    async with instance.view(FILE) as chunks:
        return b"".join([chunk async for chunk in chunks])


async def test_an_output_that_breaks_off_is_a_lost_instance(http: Session, instance: Instance) -> None:
    http.on("GET", "/view", Reply(content=b"half", broken=aiohttp.ClientPayloadError("cut")))
    with pytest.raises(InstanceLost, match="broke off"):
        await read_all(instance)


async def test_the_name_of_a_file_is_asked_for_as_it_is(http: Session, instance: Instance) -> None:
    http.on("GET", "/view", Reply(content=b"whole"))
    odd = {"filename": "a+b & c#\u00fc%20.png", "subfolder": "x/y z", "type": "output"}
    async with instance.view(odd) as chunks:
        assert [chunk async for chunk in chunks] == [b"whole"]
    assert http.queries == [odd]


async def test_of_several_addresses_the_first_that_answers_is_used(http: Session) -> None:
    """One instance as seen from different networks; when it is lost, it is looked for again."""
    first, second = "http://first.test", "http://second.test"
    instance = Instance([first, second], patience=1)
    stats, down = Reply(json_value={"system": {}, "devices": []}), aiohttp.ClientConnectionError("down")
    http.on("GET", f"{first}/system_stats", down)
    http.on("GET", f"{second}/system_stats", stats)
    await instance.system_stats()
    assert instance.url == second
    http.on("GET", f"{first}/system_stats", stats)
    http.on("GET", f"{second}/system_stats", down)
    with pytest.raises(InstanceLost):
        await instance.system_stats()
    await instance.system_stats()
    assert instance.url == first
    await instance.close()
