"""Bad input: a problem document that names the field; nothing enqueued, nothing stored."""

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from redis.asyncio import Redis

from comfy_shared.settings import SharedSettings
from test.integration.balancer_support import (
    PROMPT,
    SMOKE,
    TASKS,
    WITH_FILE,
    Balancer,
    fields_of,
    picture,
    running,
)

JSON = {"Content-Type": "application/json"}
UNKNOWN_FILE = WITH_FILE | {"1": {"class_type": "LoadImage", "inputs": {"image": "ab" * 32}}}


@pytest.fixture
async def balancer(redis: Redis, settings: SharedSettings) -> AsyncIterator[Balancer]:
    async with running(redis, settings) as made:
        await made.hand()
        yield made


def chain(length: int) -> dict[str, Any]:
    """A graph of so many nodes, each after the other."""
    graph = {str(n): {"class_type": "ImageBlur", "inputs": {"image": [str(n - 1), 0]}} for n in range(1, length)}
    return {"0": PROMPT["1"], **graph}


def nested(depth: int) -> str:
    deep = "[" * depth + "]" * depth
    inputs = f'{{"images": ["2", 0], "filename_prefix": "x", "x": {deep}}}'
    empty = '{"class_type": "EmptyImage", "inputs": {"width": 64, "height": 64, "batch_size": 1, "color": 0}}'
    return f'{{"prompt": {{"1": {{"class_type": "SaveImage", "inputs": {inputs}}}, "2": {empty}}}}}'


def changed(node: str, name: str, value: Any) -> dict[str, Any]:
    inputs = {**PROMPT[node]["inputs"], name: value}
    return {"prompt": PROMPT | {node: {**PROMPT[node], "inputs": inputs}}}


MISFITS: list[tuple[str, Any, str]] = [
    ("unknown workflow", {"workflow": "smok"}, "workflow"),
    ("workflow and prompt", SMOKE | {"prompt": PROMPT}, "workflow"),
    ("neither", {}, "workflow"),
    ("unknown field", SMOKE | {"prioritty": 1}, "prioritty"),
    ("unknown parameter", {"workflow": "smoke", "parameters": {"widht": 64}}, "parameters.widht"),
    ("wrong type", {"workflow": "smoke", "parameters": {"width": "wide"}}, "parameters.width"),
    ("boolean for a number", {"workflow": "smoke", "parameters": {"width": True}}, "parameters.width"),
    ("out of range", {"workflow": "smoke", "parameters": {"width": 100_000}}, "parameters.width"),
    ("integer beyond 64 bits", {"workflow": "smoke", "parameters": {"width": 10**30}}, "parameters.width"),
    ("missing file", {"workflow": "image-to-image"}, "parameters.image"),
    ("a path for a file", {"workflow": "image-to-image", "parameters": {"image": "a.png"}}, "parameters.image"),
    ("unknown file", {"prompt": UNKNOWN_FILE}, "prompt.1.inputs.image"),
    ("parameters of a prompt", {"prompt": PROMPT, "parameters": {"a": 1}}, "parameters"),
    ("priority too high", SMOKE | {"priority": 10}, "priority"),
    ("priority no integer", SMOKE | {"priority": 1.5}, "priority"),
    ("timeout of nothing", SMOKE | {"timeout": 0}, "timeout"),
    ("timeout too long", SMOKE | {"timeout": 90_000}, "timeout"),
    ("no attempts", SMOKE | {"max_attempts": 0}, "max_attempts"),
    ("label's name", SMOKE | {"labels": {"a b": "c"}}, "labels.a b"),
    ("label's value", SMOKE | {"labels": {"a": "c\nd"}}, "labels.a"),
    ("label no text", SMOKE | {"labels": {"a": 1}}, "labels"),
    ("too many labels", SMOKE | {"labels": {str(n): "" for n in range(17)}}, "labels"),
    ("prompt empty", {"prompt": {}}, "prompt"),
    ("prompt no object", {"prompt": [1]}, "prompt"),
    ("editor's graph", {"prompt": {"nodes": [], "links": []}}, "prompt"),
    ("node no object", {"prompt": PROMPT | {"3": "SaveImage"}}, "prompt.3"),
    ("node without class", {"prompt": PROMPT | {"3": {"inputs": {}}}}, "prompt.3.class_type"),
    ("node without inputs", {"prompt": PROMPT | {"3": {"class_type": "SaveImage"}}}, "prompt.3.inputs"),
    ("unknown class", {"prompt": PROMPT | {"3": {"class_type": "SaveImag", "inputs": {}}}}, "prompt.3.class_type"),
    ("link to nowhere", changed("2", "images", ["9", 0]), "prompt.2.inputs.images"),
    ("link to a negative slot", changed("2", "images", ["1", -1]), "prompt.2.inputs.images"),
    ("integer beyond 64 bits in a prompt", changed("1", "color", 2**64), "prompt.1.inputs.color"),
    ("path in a prompt", changed("2", "filename_prefix", "../x"), "prompt.2.inputs.filename_prefix"),
    ("no output node", {"prompt": chain(3)}, "prompt"),
    ("raw prompt without its file", {"prompt": WITH_FILE}, "prompt.1.inputs.image"),
    ("too many nodes", {"prompt": PROMPT | chain(5001)}, "prompt"),
    ("model that no agent has", {"workflow": "first-workflow"}, "parameters.model"),
]


@pytest.mark.parametrize(("body", "field"), [case[1:] for case in MISFITS], ids=[case[0] for case in MISFITS])
async def test_a_misfit_is_named_and_leaves_nothing(balancer: Balancer, body: Any, field: str) -> None:
    answer = await balancer.client.post(TASKS, json=body)
    assert answer.status_code == 422, answer.text
    assert field in fields_of(answer)
    assert await balancer.traces() == []


async def test_a_circle_of_links_is_refused(balancer: Balancer) -> None:
    graph = {
        "1": {"class_type": "ImageBlur", "inputs": {"image": ["2", 0]}},
        "2": {"class_type": "ImageBlur", "inputs": {"image": ["1", 0]}},
        "3": {"class_type": "SaveImage", "inputs": {"images": ["2", 0]}},
    }
    answer = await balancer.client.post(TASKS, json={"prompt": graph})
    assert fields_of(answer) == ["prompt.1"]
    assert await balancer.traces() == []


async def test_the_nearest_names_are_told(balancer: Balancer) -> None:
    answer = await balancer.client.post(
        TASKS, json={"prompt": PROMPT | {"3": {"class_type": "LoadImag", "inputs": {}}}}
    )
    assert "LoadImage" in answer.json()["errors"][0]["nearest"]


async def test_a_model_that_no_agent_has_names_its_input(balancer: Balancer) -> None:
    prompt = {
        "1": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "c.safetensors"}},
        "2": PROMPT["2"],
    }
    answer = await balancer.client.post(TASKS, json={"prompt": prompt | {"2": {**PROMPT["2"], "inputs": {}}}})
    assert fields_of(answer) == ["prompt.1.inputs.ckpt_name"]


async def test_a_model_in_a_folder_of_windows_is_no_path_trick(balancer: Balancer) -> None:
    prompt = {
        "1": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "sd\\b.safetensors"}},
        "2": {"class_type": "EmptyImage", "inputs": {"width": 64, "height": 64, "batch_size": 1, "color": 0}},
        "3": {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": "b"}},
    }
    await balancer.submit({"prompt": prompt})


BOMBS: list[tuple[str, bytes, int]] = [
    ("no JSON", b"{broken", 400),
    ("empty", b"", 400),
    ("trailing bytes", b"{} {}", 400),
    ("no UTF-8", b'{"workflow": "\xff\xfe"}', 400),
    ("a list", b"[]", 422),
    ("a number", b"1", 422),
    ("NaN", b'{"workflow": "smoke", "parameters": {"width": NaN}}', 400),
    ("Infinity", b'{"workflow": "smoke", "parameters": {"width": -Infinity}}', 400),
    ("a number beyond all", b'{"workflow": "smoke", "parameters": {"width": 1e999}}', 422),
    ("a lone surrogate", rb'{"workflow": "smoke", "labels": {"a": "\ud800"}}', 400),
    ("a hundred thousand lists", b'{"parameters": {"a": ' + b"[" * 100_000, 422),
    ("a hundred thousand objects", b'{"prompt": ' + b'{"a":' * 100_000, 422),
    (
        "a million values",
        b'{"prompt": {"1": {"class_type": "SaveImage", "inputs": {"a": [' + b"1," * 10**6 + b"1]}}}}",
        422,
    ),
    ("65 levels", nested(65).encode(), 422),
    ("ten thousand digits", b'{"workflow": "smoke", "parameters": {"width": 1' + b"0" * 10_000 + b"}}", 422),
]


@pytest.mark.parametrize(("body", "status"), [case[1:] for case in BOMBS], ids=[case[0] for case in BOMBS])
async def test_a_json_bomb_is_refused(balancer: Balancer, body: bytes, status: int) -> None:
    """Row S9."""
    answer = await balancer.client.post(TASKS, content=body, headers=JSON)
    assert answer.status_code == status, answer.text
    fields_of(answer)
    assert len(answer.content) < 4096
    assert await balancer.traces() == []


async def test_a_graph_of_unknown_nodes_is_explained_for_the_first_only(balancer: Balancer) -> None:
    """Row S9: looking for similar names costs milliseconds for each."""
    graph = {str(n): {"class_type": f"NoSuchNode{n}", "inputs": {}} for n in range(5000)}
    answer = await balancer.client.post(TASKS, json={"prompt": graph})
    assert answer.status_code == 422
    assert 1 <= len(fields_of(answer)) <= 16


async def test_a_graph_of_allowed_depth_and_size_passes(balancer: Balancer) -> None:
    graph = chain(4999) | {
        "save": {"class_type": "SaveImage", "inputs": {"images": ["4998", 0], "filename_prefix": "x"}}
    }
    await balancer.submit({"prompt": graph})
    answer = await balancer.client.post(TASKS, content=nested(60).encode(), headers=JSON)
    assert answer.status_code == 202, answer.text


async def test_a_batch_is_all_or_nothing_and_names_the_task(balancer: Balancer) -> None:
    tasks = [SMOKE, SMOKE, SMOKE, {"workflow": "smoke", "parameters": {"width": 1}}]
    answer = await balancer.client.post(f"{TASKS}/batch", json={"tasks": tasks})
    assert fields_of(answer) == ["tasks.3.parameters.width"]
    for tasks, field in (
        ([SMOKE, {"priority": 12}], "tasks.1.priority"),
        ([SMOKE, {"x": 1}], "tasks.1.x"),
        ([], "tasks"),
        ([SMOKE] * 1001, "tasks"),
        ([{"prompt": UNKNOWN_FILE}], "tasks.0.prompt.1.inputs.image"),
    ):
        answer = await balancer.client.post(f"{TASKS}/batch", json={"tasks": tasks})
        assert (answer.status_code, fields_of(answer)) == (422, [field])
    assert await balancer.traces() == []


@pytest.mark.parametrize("key", ["", "a b", "x" * 256, "\x7f"])
async def test_an_idempotency_key_is_visible_ascii(balancer: Balancer, key: str) -> None:
    answer = await balancer.client.post(TASKS, json=SMOKE, headers={"Idempotency-Key": key})
    assert fields_of(answer) == ["Idempotency-Key"]
    assert await balancer.traces() == []


@pytest.mark.parametrize(
    ("params", "field"),
    [
        ({"limit": 0}, "limit"),
        ({"limit": 201}, "limit"),
        ({"limit": "x"}, "limit"),
        ({"status": "done"}, "status"),
        ({"cursor": "nonsense"}, "cursor"),
        ({"cursor": "é"}, "cursor"),
        ({"label": "novalue"}, "label"),
        ({"created_after": "yesterday"}, "created_after"),
        ({"created_before": "9" * 400}, "created_before"),
    ],
)
async def test_a_bad_question_names_its_parameter(balancer: Balancer, params: dict[str, Any], field: str) -> None:
    answer = await balancer.client.get(TASKS, params=params)
    assert (answer.status_code, fields_of(answer)) == (422, [field])


async def test_a_bad_wait_is_refused_before_anything_is_enqueued(balancer: Balancer) -> None:
    for wait in ("-1", "301", "x", "nan"):
        answer = await balancer.client.post(TASKS, params={"wait": wait}, json=SMOKE)
        assert (answer.status_code, fields_of(answer)) == (422, ["wait"])
    assert await balancer.traces() == []


async def test_unknown_addresses_and_methods_are_problems(balancer: Balancer) -> None:
    cases = [("GET", "/nope", 404), ("GET", "/api/v1", 404), ("DELETE", TASKS, 405), ("PUT", "/healthz", 405)]
    cases += [("GET", "/redoc", 404), ("GET", "/docs/../openapi.json", 200), ("GET", "/docs/x.js", 404)]
    cases += [("GET", "/api/v1/workflows/nope", 404), ("GET", "/api/v1/agents/nope", 404)]
    cases += [("POST", "/api/v1/agents/nope/drain", 404), ("POST", "/api/v1/agents/nope/resume", 404)]
    for method, path, status in cases:
        answer = await balancer.client.request(method, path)
        assert answer.status_code == status, (method, path)
        if status >= 400:
            fields_of(answer)


class TestBodies:
    @pytest.mark.parametrize(
        "content_type",
        [
            "text/plain",
            "application/x-www-form-urlencoded",
            "application/jsonx",
            "application/json; charset=utf-16",
            "",
        ],
    )
    async def test_another_content_type_is_refused(self, balancer: Balancer, content_type: str) -> None:
        body = b'{"workflow": "smoke"}'
        answer = await balancer.client.post(TASKS, content=body, headers={"Content-Type": content_type})
        assert answer.status_code == 415
        fields_of(answer)
        assert await balancer.traces() == []

    async def test_json_may_name_its_charset(self, balancer: Balancer) -> None:
        headers = {"Content-Type": 'Application/JSON; charset="UTF-8"'}
        assert (await balancer.client.post(TASKS, content=b'{"workflow":"smoke"}', headers=headers)).status_code == 202

    async def test_a_form_is_taken_only_where_files_are(self, balancer: Balancer) -> None:
        task = await balancer.submit()
        paths = [f"{TASKS}/batch", task["links"]["cancel"], task["links"]["retry"], "/api/v1/agents/gpu-1/drain"]
        for path in paths:
            answer = await balancer.client.post(path, files={"task": ("", b"{}")})
            assert answer.status_code == 415, path

    async def test_a_compressed_body_is_refused(self, balancer: Balancer) -> None:
        answer = await balancer.client.post(TASKS, content=b"x", headers=JSON | {"Content-Encoding": "gzip"})
        assert answer.status_code == 415

    async def test_a_body_over_the_limit_is_refused_whether_told_or_streamed(
        self, redis: Redis, settings: SharedSettings
    ) -> None:
        async with running(redis, settings, json_limit=1000, form_limit=5000) as small:

            async def drip() -> AsyncIterator[bytes]:
                for _ in range(100):
                    yield b" " * 100

            told = await small.client.post(TASKS, content=b" " * 1001, headers=JSON)
            streamed = await small.client.post(TASKS, content=drip(), headers=JSON)
            form = await small.client.post("/api/v1/inputs", files={"file": ("a.png", b"x" * 6000)})
            for answer in (told, streamed, form):
                assert (answer.status_code, answer.json()["code"]) == (413, "too-large")
            assert await small.traces() == []


class TestUnavailable:
    async def test_without_redis_nothing_is_accepted_and_the_client_is_told_to_come_again(
        self, balancer: Balancer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def away(*_: object, **__: object) -> object:
            raise ConnectionError("redis is at 10.0.0.7")

        monkeypatch.setattr("redis.asyncio.Redis.execute_command", away)
        answer = await balancer.client.post(TASKS, json=SMOKE)
        ready = await balancer.client.get("/readyz")
        alive = await balancer.client.get("/healthz")
        monkeypatch.undo()
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "2")
        assert (ready.status_code, alive.status_code) == (503, 200)
        assert "10.0.0.7" not in answer.text + ready.text

    async def test_an_unexpected_error_shows_nothing_and_is_logged_once(
        self, balancer: Balancer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        async def broken(*_: object, **__: object) -> object:
            raise RuntimeError("secret-of-the-house")

        monkeypatch.setattr("comfy_balancer.service.TaskService.get", broken)
        answer = await balancer.client.get(f"{TASKS}/{'0' * 26}")
        fields_of(answer)
        assert answer.status_code == 500
        assert "secret" not in answer.text
        assert "Traceback" not in answer.text
        lines = [line for line in capsys.readouterr().out.splitlines() if '"http.failed"' in line]
        assert len(lines) == 1
        assert answer.headers["x-request-id"] in lines[0]


class TestPictureParts:
    async def test_a_file_that_nothing_takes_is_named(self, balancer: Balancer) -> None:
        for body, part in (
            ('{"workflow": "smoke"}', "image"),
            ('{"workflow": "smoke"}', "width"),
            ('{"prompt": {"1": {"class_type": "SaveImage", "inputs": {}}}}', "1.images"),
        ):
            answer = await _form(balancer, body, {part: picture()})
            assert (answer.status_code, fields_of(answer)) == (422, [part])
        assert await balancer.traces() == []

    async def test_a_form_needs_its_task(self, balancer: Balancer) -> None:
        answer = await balancer.client.post(TASKS, files={"image": ("a.png", picture())})
        assert fields_of(answer) == ["task"]
        answer = await _form(balancer, '{"priority": 99}', {"image": picture()})
        assert fields_of(answer) == ["task.priority"]
        answer = await balancer.client.post(TASKS, data={"task": "{}", "width": "3"}, files={"x": ("a", b"")})
        assert fields_of(answer)[0] in ("width", "x")
        assert await balancer.traces() == []

    async def test_a_broken_form_is_refused(self, balancer: Balancer) -> None:
        for content_type in ("multipart/form-data", "multipart/form-data; boundary=x"):
            answer = await balancer.client.post(TASKS, content=b"nonsense", headers={"Content-Type": content_type})
            assert answer.status_code in (400, 422), answer.text
            fields_of(answer)
        assert await balancer.traces() == []


async def _form(balancer: Balancer, task: str, files: dict[str, bytes]) -> httpx.Response:
    parts = {name: ("../../evil.php", data, "text/html") for name, data in files.items()}
    return await balancer.client.post(TASKS, data={"task": task}, files=parts)
