"""Comfy API v2 for tests: calls whose answers are held to the contract, and an owner beside the operator."""

from collections.abc import Sequence
from typing import Any

import httpx
import msgspec
from blake3 import blake3

from comfy_balancer.login.api_keys import ApiKeys
from comfy_shared.callers import Role
from comfy_shared.files import open_store
from comfy_shared.models import Output
from test.comfy_v2 import contract
from test.integration.balancer_support import PROMPT, Balancer, picture
from test.support.agents import Hand

API = "/api/v2"


class Client:
    """One owner at one balancer."""

    def __init__(self, balancer: Balancer, key: str) -> None:
        self.balancer = balancer
        self._headers = {"Authorization": f"Bearer {key}"}

    async def ask(self, method: str, path: str, **options: Any) -> httpx.Response:
        headers = self._headers | options.pop("headers", {})
        return await self.balancer.client.request(method, API + path, auth=None, headers=headers, **options)

    async def read(self, path: str, schema: dict[str, Any], status: int = 200) -> Any:
        """A body that keeps to the contract."""
        answer = await self.ask("GET", path)
        assert answer.status_code == status, answer.text
        return contract.check(answer.json(), schema)

    async def submit(self, workflow: Any = PROMPT, *, key: str | None = None, **fields: Any) -> dict[str, Any]:
        """A job that is accepted."""
        headers = {"Idempotency-Key": key} if key else {}
        answer = await self.ask("POST", "/jobs", json={"workflow": workflow, **fields}, headers=headers)
        assert answer.status_code == 201, answer.text
        job: dict[str, Any] = contract.check(answer.json(), contract.JOB)
        return job

    async def job(self, job_id: str) -> dict[str, Any]:
        found: dict[str, Any] = await self.read(f"/jobs/{job_id}", contract.JOB)
        return found

    async def refused(self, method: str, path: str, **options: Any) -> tuple[int, str]:
        """Status and code of a refusal that keeps to the contract."""
        answer = await self.ask(method, path, **options)
        assert answer.headers["content-type"] == "application/json", answer.text
        contract.check(answer.json(), contract.ERROR)
        return answer.status_code, answer.json()["error"]["code"]

    async def refused_job(self, **body: Any) -> tuple[int, str]:
        return await self.refused("POST", "/jobs", json=body)

    async def upload(
        self, data: bytes, name: str = "photo.png", *, content_type: str = "image/png", **fields: str
    ) -> httpx.Response:
        texts = {"content_type": content_type, "file_path": name, **fields}
        return await self.ask("POST", "/assets", data=texts, files={"file": (name, data, content_type)})

    async def asset(self, data: bytes | None = None, name: str = "photo.png") -> dict[str, Any]:
        """An upload that is taken."""
        answer = await self.upload(picture() if data is None else data, name)
        assert answer.status_code in (200, 201), answer.text
        asset: dict[str, Any] = contract.check(answer.json(), contract.ASSET)
        return asset


async def client_of(balancer: Balancer, owner: str, role: Role = Role.USER) -> Client:
    """A client with a key of its own."""
    return Client(balancer, await ApiKeys(balancer.redis, balancer.keys).create(owner, role))


def hash_of(data: bytes) -> str:
    return "blake3:" + blake3(data).hexdigest()


def reference(asset_id: object, **hints: str) -> dict[str, Any]:
    """What the SDKs put into a graph."""
    return {"__type": "core/ASSET", "info": {"id": asset_id, **hints}}


def with_picture(value: object) -> dict[str, Any]:
    return {
        "1": {"class_type": "LoadImage", "inputs": {"image": value}},
        "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "test"}},
    }


async def complete(hand: Hand, balancer: Balancer, outputs: Sequence[Output], data: bytes) -> None:
    """Runs the next task to its end; each output has the same bytes."""
    attempt = await hand.take()
    files = open_store(balancer.settings)
    kept = []
    for output in outputs:
        key = f"outputs/{attempt.id}/1/{output.name}"
        stored = await files.put(key, data)
        kept.append(msgspec.structs.replace(output, key=key, size=stored.size, sha256=stored.sha256))
    await hand.queue.complete(attempt, kept)


def frames_of(text: str) -> list[tuple[str, Any]]:
    """The events of a stream, held to the contract: (name, data)."""
    found = []
    for block in text.split("\n\n"):
        lines = [line for line in block.split("\n") if line and not line.startswith(":")]
        if lines:
            assert [line.partition(": ")[0] for line in lines] == ["event", "data"], block
            name = lines[0].partition(": ")[2]
            found.append(
                (name, contract.check(msgspec.json.decode(lines[1].partition(": ")[2]), contract.EVENTS[name]))
            )
    return found
