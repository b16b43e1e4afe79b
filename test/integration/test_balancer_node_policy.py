"""Row S5 over HTTP: what is checked is exactly what is forwarded."""

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from redis.asyncio import Redis

from comfy_balancer.login.api_keys import ApiKeys
from comfy_shared.callers import Role
from comfy_shared.keys import Keys
from comfy_shared.settings import SharedSettings
from test.integration import balancer_support
from test.integration.balancer_support import PROMPT, SMOKE, TASKS, Balancer, fields_of, running

DENIED = {"9": {"class_type": "LoadImageOutput", "inputs": {}}}


@pytest.fixture
async def balancer(redis: Redis, settings: SharedSettings, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Balancer]:
    modules = {name: entry | {"python_module": "nodes"} for name, entry in balancer_support.OBJECT_INFO.items()}
    custom: dict[str, Any] = {"Mine": {"input": {}, "output_node": True, "python_module": "custom_nodes.mine"}}
    risky: dict[str, Any] = {"LoadImageOutput": {"input": {}, "python_module": "nodes"}}
    monkeypatch.setattr(balancer_support, "OBJECT_INFO", modules | custom | risky)
    async with running(redis, settings) as made:
        await made.hand()
        yield made


@pytest.fixture
async def user(redis: Redis, keys: Keys) -> dict[str, str]:
    return {"x-api-key": await ApiKeys(redis, keys).create("anna", Role.USER)}


async def post(balancer: Balancer, user: dict[str, str], body: object, path: str = TASKS) -> httpx.Response:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    headers = user | {"Content-Type": "application/json"}
    return await balancer.client.request("POST", path, content=content, auth=None, headers=headers)


async def test_a_denied_class_is_named_with_its_node_and_nothing_is_stored(
    balancer: Balancer, user: dict[str, str]
) -> None:
    body = {"prompt": PROMPT | DENIED}
    for path in (TASKS, f"{TASKS}/check", f"{TASKS}?hold=true"):
        answer = await post(balancer, user, body, path)
        assert (answer.status_code, fields_of(answer)) == (422, ["prompt.9.class_type"])
        assert "LoadImageOutput" in answer.json()["detail"]
    batch = await post(balancer, user, {"tasks": [{"prompt": PROMPT}, body]}, f"{TASKS}/batch")
    assert fields_of(batch) == ["tasks.1.prompt.9.class_type"]
    assert await balancer.traces() == []


async def test_a_custom_class_is_the_operators_decision(
    balancer: Balancer, user: dict[str, str], redis: Redis, settings: SharedSettings
) -> None:
    body = {"prompt": {"1": {"class_type": "Mine", "inputs": {}}}}
    assert fields_of(await post(balancer, user, body)) == ["prompt.1.class_type"]
    assert (await balancer.client.post(TASKS, json=body)).status_code == 202
    async with running(redis, settings, nodes_allowed_user="module:nodes,Mine") as generous:
        assert (await post(generous, user, body)).status_code == 202


async def test_what_a_user_may_name_runs(balancer: Balancer, user: dict[str, str]) -> None:
    assert (await post(balancer, user, {"prompt": PROMPT})).status_code == 202


async def test_a_workflows_graph_is_the_operators(
    balancer: Balancer, user: dict[str, str], redis: Redis, settings: SharedSettings
) -> None:
    async with running(redis, settings, nodes_allowed_user="Nothing") as strict:
        assert (await post(strict, user, {"prompt": PROMPT})).status_code == 422
        assert (await post(strict, user, SMOKE | {"parameters": {}})).status_code == 202


@pytest.mark.parametrize(
    "sent",
    [
        b'{"prompt": {"9": {"class_type": "LoadImageOutput", "inputs": {}}}, "prompt": %s}',
        b'{"prompt": {"2": {"class_type": "LoadImageOutput", "inputs": {}}, %s}}',
        b'{"prompt": {"1": {"class_type": "LoadImageOutput", "class_type": "EmptyImage", "inputs": '
        b'{"width": "../x", "width": 64, "height": 64, "batch_size": 1, "color": 0}}, %s}}',
        b'{"prompt": {"1": {"class_type": "EmptyImage", "class\\u005ftype": "EmptyImage", "inputs": {}, "inputs": '
        b'{"width": 64, "height": 64, "batch_size": 1, "color": 0}}, %s}}',
    ],
)
async def test_of_a_key_that_stands_twice_only_what_was_checked_goes_on(
    balancer: Balancer, user: dict[str, str], sent: bytes
) -> None:
    whole = json.dumps(PROMPT).encode()
    rest = json.dumps({"2": PROMPT["2"]})[1:-1].encode()
    if b'"1"' not in sent:
        rest = whole if b'"prompt": %s' in sent else whole[1:-1]
    answer = await post(balancer, user, sent % rest)
    assert answer.status_code == 202, answer.text
    task = await balancer.queue.get(answer.json()["id"])
    assert json.loads(task.prompt) == PROMPT
    for smuggled in (b"LoadImageOutput", b"../x"):
        assert smuggled not in task.prompt


@pytest.mark.parametrize(
    "sent",
    [
        b'{"prompt": %s, "prompt": {"9": {"class_type": "LoadImageOutput", "inputs": {}}}}',
        b'{"prompt": {"1": {"class_type": "EmptyImage", "class_type": "LoadImageOutput", "inputs": {}}}}',
        b'{"prompt": {"1": {"class_type": "EmptyImage", "class\\u005ftype": "LoadImage\\u004futput", "inputs": {}}}}',
    ],
)
async def test_the_one_that_counts_is_the_one_that_is_checked(
    balancer: Balancer, user: dict[str, str], sent: bytes
) -> None:
    answer = await post(balancer, user, sent.replace(b"%s", json.dumps(PROMPT).encode()))
    assert "LoadImageOutput" in answer.json()["detail"]
    assert await balancer.traces() == []


async def test_a_name_through_a_link_is_named(balancer: Balancer, user: dict[str, str]) -> None:
    """Row S6."""
    prompt = PROMPT | {
        "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": ["3", 0]}},
        "3": {"class_type": "CLIPTextEncode", "inputs": {"text": "../../x"}},
    }
    assert fields_of(await post(balancer, user, {"prompt": prompt})) == ["prompt.2.inputs.filename_prefix"]
