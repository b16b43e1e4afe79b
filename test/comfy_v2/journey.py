"""What a user of the official SDK (`comfy-sdk`) does, from the first upload to the last download: the same script for
every server of the contract.

Each step leaves what it was answered, as JSON, under a name. `differences` compares the answers of two servers field
for field: ids and times count as equal when both are there, and what only the first has is an extra field.
"""

import json
import re
import time
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

import httpx
from comfy_sdk import Comfy, ComfyError

from test.comfy_v2.picture import PICTURE

TIMES = frozenset({"created_at", "started_at", "completed_at", "expires_at", "url_expires_at"})
IDS = frozenset({"id", "job_id"})
URLS = frozenset({"url", "self", "events", "cancel"})
Answer = dict[str, Any]


def picture_graph(prefix: str, image: Any = "x") -> Answer:
    """Loads an uploaded picture and saves it inverted."""
    return {
        "10": {"class_type": "LoadImage", "inputs": {"image": image}},
        "11": {"class_type": "ImageInvert", "inputs": {"image": ["10", 0]}},
        "13": {"class_type": "SaveImage", "inputs": {"filename_prefix": prefix, "images": ["11", 0]}},
    }


def slow_graph(prefix: str, *, steps: int, color: int) -> Answer:
    """Shows progress for `steps` tenths of a second."""
    empty = {"width": 64, "height": 64, "batch_size": 1, "color": color}
    return {
        "1": {"class_type": "EmptyImage", "inputs": empty},
        "2": {"class_type": "SlowProgress", "inputs": {"image": ["1", 0], "steps": steps, "ms_per_step": 100.0}},
        "3": {"class_type": "SaveImage", "inputs": {"filename_prefix": prefix, "images": ["2", 0]}},
    }


def failing_graph() -> Answer:
    """A node raises."""
    return {
        "1": {
            "class_type": "EmptyImage",
            "inputs": {"width": 64, "height": 64, "batch_size": 1, "color": 3},
        },
        "2": {"class_type": "Fail", "inputs": {"image": ["1", 0], "message": "failed on purpose"}},
        "3": {"class_type": "SaveImage", "inputs": {"filename_prefix": "never", "images": ["2", 0]}},
    }


class Journey:
    """One user at one server; `run` does everything and returns the answers."""

    def __init__(self, client: Comfy, mark: str) -> None:
        self._client = client
        self._mark = mark  # makes file names of this run its own
        self._answers: dict[str, Any] = {}

    def run(self) -> dict[str, Any]:
        self._upload()
        self._render()
        self._follow()
        self._cancel()
        self._fail()
        self._refused()
        self._refused_assets()
        told = json.dumps(self._answers, default=str).replace(self._mark, "MARK")
        answers: dict[str, Any] = json.loads(told)
        return answers

    def _note(self, name: str, answer: Any) -> None:
        self._answers[name] = answer

    def _ask(self, name: str, method: str, path: str, **options: Any) -> Any:
        """One call without the SDK's models: status, and the body."""
        answer = self._client._low.raw_request(method, path, **options)
        body = answer.json() if answer.content else None
        self._note(name, {"status": answer.status_code, "body": body})
        return body

    def _post(self, name: str, fields: dict[str, str], files: dict[str, Any]) -> Any:
        form = httpx.Request("POST", "http://form", data=fields, files=files)
        return self._ask(
            name, "POST", "/assets", content=form.read(), headers={"Content-Type": form.headers["Content-Type"]}
        )

    def _raises(self, name: str, call: Callable[[], object]) -> None:
        """What the SDK raises."""
        try:
            self._note(name, {"returned": repr(type(call()))})
        except ComfyError as error:
            self._note(name, {"class": type(error).__name__, "code": error.code, "status": error.http_status})

    def _upload(self) -> None:
        assets = self._client.assets
        asset = assets.from_bytes(PICTURE, filename=f"{self._mark}.png")
        self._note("upload: new", {"id": asset.commit(), "hash": asset.hash, "created_new": asset._created_new})
        again = assets.from_bytes(PICTURE, filename="other-name.png")
        self._note("upload: known", {"id": again.commit(), "created_new": again._created_new})
        self._note("upload: the same asset", again.commit() == asset.commit())
        self._note("upload: name", {"file_path": assets.get(asset.commit())._file_path})
        self._ask("asset", "GET", f"/assets/{asset.commit()}")
        self._note("asset: bytes", self._load(asset.commit()) == PICTURE)
        self._note("asset: range", self._load(asset.commit(), range=(2, 9)) == PICTURE[2:10])
        self._ask("asset: from hash", "POST", "/assets/from-hash", json={"hash": asset.hash})
        self._note("asset: by hash", self._client._low.head_asset_by_hash(asset.hash))
        self._asset = asset

    def _load(self, asset_id: str, range: tuple[int, int] | None = None) -> bytes:
        with self._client._low.get_asset_content(asset_id, range=range) as answer:
            return b"".join(answer.iter_bytes())

    def _render(self) -> None:
        workflow = self._client.workflows.from_json(picture_graph(f"{self._mark}-picture"))
        workflow.set_input("10", "image", self._asset)
        job = self._client.submit(workflow)
        self._note("job: submitted", {"status": job.status, "outputs": len(job.outputs), "metadata": job.metadata})
        job.result()
        self._ask("job: done", "GET", f"/jobs/{job.id}")
        self._note("job: outputs of a node", [(item.name, item.type) for item in job.get_outputs("13")])
        data = job.outputs[0].to_bytes()
        self._note("job: output", {"bytes": data[:8].hex(), "range": job.outputs[0].to_bytes(range=(1, 3)).hex()})
        self._note("job: link", job.outputs[0].get_download_url().expires_at)
        graph = job.get_workflow()
        self._note("job: workflow", {"format": graph.format, "graph": graph.graph})
        self._ask("output as asset", "GET", f"/assets/{job.outputs[0].id}")
        self._ask("job: canceled too late", "POST", f"/jobs/{job.id}/cancel")
        self._note("job: again by id", self._client.jobs.get(job.id).status)
        listed = list(self._client.list_jobs())
        self._note("list", [(item.id == job.id, item.status, item.metadata) for item in listed])
        self._ask("list: raw", "GET", "/jobs?limit=1")
        self._ask("list: by status", "GET", "/jobs?status=failed,queued")
        self._raw_submit()
        self._by_name()

    def _by_name(self) -> None:
        graph = picture_graph(f"{self._mark}-named", f"{self._mark}.png")
        job = self._client.run(self._client.workflows.from_json(graph))
        self._note("job by a file's name", [(item.name, item.type) for item in job.outputs])

    def _raw_submit(self) -> None:
        body = {
            "workflow": picture_graph(f"{self._mark}-raw", self._asset.as_reference()),
            "metadata": "a note",
            "priority": -3,
        }
        submitted = self._ask("raw: submitted", "POST", "/jobs", json=body)
        self._client.jobs.get(submitted["id"]).result()
        self._ask("raw: done", "GET", f"/jobs/{submitted['id']}")

    def _follow(self) -> None:
        job = self._client.submit(
            self._client.workflows.from_json(slow_graph(f"{self._mark}-follow", steps=20, color=1))
        )
        events: list[Any] = list(job.events())
        kinds = [type(event).__name__ for event in events]
        self._note("events: kinds", sorted(set(kinds)))
        self._note("events: an output before the end", "OutputReady" in kinds[:-1])
        self._note("events: the last", vars(events[-1]))
        steps = [event for event in events if type(event).__name__ == "Progress"]
        self._note("events: progress", any((item.current_node, item.steps) == ("2", 20) for item in steps))
        self._note("events: never backward", [event.value for event in steps] == sorted(event.value for event in steps))
        outputs = [event.output for event in events if type(event).__name__ == "OutputReady"]
        self._note("events: outputs", [(item.node_id, item.name, item.type, item.content_type) for item in outputs])

    def _cancel(self) -> None:
        job = self._client.submit(
            self._client.workflows.from_json(slow_graph(f"{self._mark}-cancel", steps=100, color=2))
        )
        while job.refresh().status != "running":
            time.sleep(0.05)
        running = self._ask("cancel: running", "GET", f"/jobs/{job.id}")
        running["progress"] = sorted(running["progress"])[-1:]  # how far it is, is a matter of time
        self._note("cancel: asked", job.cancel().status in ("canceling", "canceled"))
        self._note("cancel: end", job.wait(timeout=20).status)
        self._ask("cancel: job", "GET", f"/jobs/{job.id}")

    def _fail(self) -> None:
        job = self._client.submit(self._client.workflows.from_json(failing_graph()))
        self._raises("fail: raised", job.result)
        self._ask("fail: job", "GET", f"/jobs/{job.id}")

    def _refused(self) -> None:
        client, graph = self._client, picture_graph(f"{self._mark}-key", self._asset.as_reference())
        key = {"Idempotency-Key": f"key-{self._mark}"}
        first = self._ask("idempotency: first", "POST", "/jobs", json={"workflow": graph}, headers=key)
        self._ask("idempotency: again", "POST", "/jobs", json={"workflow": graph}, headers=key)
        self._ask("idempotency: empty", "POST", "/jobs", json={"workflow": graph}, headers={"Idempotency-Key": ""})
        client.jobs.get(first["id"]).wait(timeout=30)
        unknown = {"1": {"class_type": "NoSuchNode", "inputs": {}}}
        self._raises("unknown class", lambda: client.submit(client.workflows.from_json(unknown)))
        lacking = {"1": {"class_type": "SaveImage", "inputs": {"filename_prefix": "x"}}}
        self._raises("missing input", lambda: client.submit(client.workflows.from_json(lacking)))
        endless = {"1": {"class_type": "EmptyImage", "inputs": {"width": 8, "height": 8, "batch_size": 1, "color": 0}}}
        self._raises("no outputs", lambda: client.submit(client.workflows.from_json(endless)))
        self._raises("unknown job", lambda: client.jobs.get("00000000-0000-0000-0000-000000000000"))
        self._ask("unknown job: cancel", "POST", "/jobs/nope/cancel")
        self._ask("unknown job: events", "GET", "/jobs/nope/events")
        self._ask("unknown job: workflow", "GET", "/jobs/nope/workflow")
        lost = {"__type": "core/ASSET", "info": {"id": "00000000-0000-0000-0000-000000000000"}}
        for name, body in {
            "editor's graph": {"workflow": {"nodes": [], "links": []}},
            "no workflow": {},
            "workflow is a list": {"workflow": []},
            "webhook": {"workflow": graph, "webhook_url": "http://x.example/"},
            "inputs": {"workflow": graph, "inputs": {}},
            "metadata number": {"workflow": graph, "metadata": 7},
            "metadata long": {"workflow": graph, "metadata": "x" * 1025},
            "priority text": {"workflow": graph, "priority": "high"},
            "priority too high": {"workflow": graph, "priority": 10_000_000},
            "extra data": {"workflow": graph, "extra_data": {"other": 1}},
            "extra data key": {"workflow": graph, "extra_data": {"api_key_comfy_org": None}},
            "lost reference": {"workflow": picture_graph("x", lost)},
            "empty reference": {"workflow": picture_graph("x", {"__type": "core/ASSET"})},
        }.items():
            self._ask(f"refused: {name}", "POST", "/jobs", json=body)
        self._ask("refused: no JSON", "POST", "/jobs", content=b"{", headers={"Content-Type": "application/json"})
        for query in ("limit=0", "limit=101", "limit=x", "status=odd"):
            self._ask(f"list: {query}", "GET", f"/jobs?{query}")

    def _refused_assets(self) -> None:
        client = self._client
        nothing = "blake3:" + "0" * 64
        self._raises("unknown asset", lambda: client.assets.get("00000000-0000-0000-0000-000000000000"))
        self._ask("unknown blob", "POST", "/assets/from-hash", json={"hash": nothing})
        self._note("unknown blob: head", client._low.head_asset_by_hash(nothing))
        self._ask("from-hash: no hash", "POST", "/assets/from-hash", json={})
        files = {"file": ("a.png", PICTURE, "image/png")}
        for name, fields in {
            "wrong hash": {"content_type": "image/png", "file_path": "a.png", "expected_hash": nothing},
            "no path": {"content_type": "image/png"},
            "path up": {"content_type": "image/png", "file_path": "../a.png"},
            "absolute path": {"content_type": "image/png", "file_path": "/etc/a.png"},
            "other root": {"content_type": "image/png", "file_path": "custom_nodes/a.png"},
            "model": {"content_type": "image/png", "file_path": "checkpoints/a.safetensors"},
        }.items():
            changed = {"file": ("a.png", PICTURE + name.encode(), "image/png")}
            self._post(f"upload: {name}", fields, changed)
        fields = {"content_type": "image/png", "file_path": "a.png", "expected_hash": self._asset.hash}
        self._post("upload: known, in full", fields, files)
        self._raises("delete", lambda: client.assets.delete(self._asset.commit()))
        self._raises("delete: again", lambda: client.assets.delete(self._asset.commit()))


def differences(ours: Any, theirs: Any, place: str = "") -> Iterator[str]:
    """Where `theirs` has a field that `ours` lacks or answers otherwise."""
    if isinstance(theirs, dict) and isinstance(ours, dict):
        for name, value in theirs.items():
            where = f"{place}.{name}" if place else name
            if name not in ours:
                yield f"{where}: only they have it: {value!r}"
            elif name in TIMES:
                continue
            elif name in IDS and isinstance(value, str):
                if not isinstance(ours[name], str) or not ours[name]:
                    yield f"{where}: {ours[name]!r} is no id"
            elif name in URLS:
                if _path(ours[name]) != _path(value):
                    yield f"{where}: {ours[name]!r} is not {value!r}"
            else:
                yield from differences(ours[name], value, where)
    elif isinstance(theirs, list) and isinstance(ours, list) and len(theirs) == len(ours):
        for index, (one, other) in enumerate(zip(ours, theirs, strict=True)):
            yield from differences(one, other, f"{place}[{index}]")
    elif ours != theirs:
        yield f"{place}: {ours!r} is not {theirs!r}"


def _path(url: str) -> str:
    """A link without origin and ids."""
    parts = urlsplit(url)
    assert parts.scheme == "http", url
    assert parts.netloc, url
    return re.sub(r"/(jobs|assets)/[^/]+", r"/\1/ID", parts.path)
