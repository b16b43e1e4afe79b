"""The agent's own routes, on a real process: each operates its one ComfyUI, all behind the log-in, and no others."""

import base64
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from test.cluster import ROOT, Cluster, wait_until
from test.scenario.conftest import SHORT

PICTURE = (ROOT / "test" / "picture.png").read_bytes()


@pytest.fixture(scope="module")
def shared_system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with Cluster(tmp_path_factory.mktemp("service"), agents=1, settings=SHORT) as cluster:
        yield cluster


@pytest.fixture
def service(shared_system: Cluster) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=shared_system.agent_url(1), auth=shared_system.auth, trust_env=False) as client:
        yield client


@pytest.mark.parametrize(
    ("path", "key"),
    [
        ("/system_stats", "system"),
        ("/queue", "queue_running"),
        ("/object_info/KSampler", "KSampler"),
        ("/object_info", "SaveImage"),
        ("/logs", "entries"),
        ("/agent", "record"),
        ("/task", "tasks"),
    ],
)
def test_what_the_instance_says_is_passed_on(service: httpx.Client, path: str, key: str) -> None:
    answer = service.get(path)
    assert answer.status_code == 200
    assert key in answer.json()


def test_models_and_embeddings(service: httpx.Client) -> None:
    assert "checkpoints" in service.get("/models").json()
    assert "v1-5-pruned-emaonly-fp16.safetensors" in service.get("/models/checkpoints").json()
    assert service.get("/models/nope").status_code == 404
    assert service.get("/embeddings").json() == []


def test_an_upload_can_be_viewed_whole_and_in_part(service: httpx.Client) -> None:
    answer = service.post("/upload/image", files={"image": ("view.png", PICTURE)})
    assert answer.json() == {"name": "view.png", "subfolder": "", "type": "input"}
    whole = service.get("/view", params={"filename": "view.png", "type": "input"})
    assert whole.content == PICTURE
    assert whole.headers["content-type"] == "image/png"
    assert whole.headers["x-content-type-options"] == "nosniff"
    part = service.get("/view", params={"filename": "view.png", "type": "input"}, headers={"range": "bytes=0-3"})
    assert (part.status_code, part.content) == (206, PICTURE[:4])


def test_a_mask_belongs_to_an_uploaded_image(service: httpx.Client) -> None:
    service.post("/upload/image", files={"image": ("original.png", PICTURE)})
    form = {"original_ref": json.dumps({"filename": "original.png"})}
    answer = service.post("/upload/mask", files={"image": ("mask.png", PICTURE)}, data=form)
    assert answer.json()["name"] == "mask.png"


@pytest.mark.parametrize(
    ("method", "path", "options", "field"),
    [
        ("POST", "/interrupt", {"json": {}}, "prompt_id"),
        ("POST", "/free", {"json": {"unload": True}}, "unload"),
        ("GET", "/view", {"params": {"filename": "../x.png"}}, "filename"),
        ("GET", "/view", {"params": {"filename": "x.png", "subfolder": "a/../.."}}, "subfolder"),
        ("GET", "/view", {"params": {"filename": "x.png", "type": "models"}}, "type"),
        ("GET", "/history", {"params": {"max_items": "abc"}}, "max_items"),
        ("POST", "/upload/image", {"files": {"image": ("..\\x.png", b"x")}}, "image"),
        ("POST", "/upload/mask", {"files": {"image": ("x.png", b"x")}, "data": {"original_ref": "{"}}, "original_ref"),
    ],
)
def test_bad_input_is_named(
    service: httpx.Client,
    method: str,
    path: str,
    options: dict[str, Any],
    field: str,
) -> None:
    answer = service.request(method, path, **options)
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
    assert field in [problem["field"].rpartition(".")[2] for problem in answer.json()["errors"]]


@pytest.mark.parametrize(
    "path",
    [
        "/manager/queue/start",
        "/experiment/models",
        "/userdata",
        "/settings",
        "/internal/logs",
        "/prompt",
        "/history/%2e%2e",
    ],
)
def test_nothing_else_of_comfyui_is_reachable(service: httpx.Client, path: str) -> None:
    """FAULTS.md S12: only the listed routes."""
    assert service.get(path).status_code == 404
    assert service.post(path, json={}).status_code in (404, 405)


def test_every_route_but_the_health_ones_needs_the_log_in(shared_system: Cluster, service: httpx.Client) -> None:
    """FAULTS.md S1, for this tier."""
    paths = [
        *service.get("/openapi.json").json()["paths"],
        "/",
        "/docs",
        "/docs/swagger-ui.css",
        "/openapi.json",
        "/no",
    ]
    wrong = "Basic " + base64.b64encode(b"admin:wrong").decode()
    with httpx.Client(base_url=shared_system.agent_url(1), trust_env=False) as stranger:
        for path in paths:
            for method in ("GET", "HEAD", "OPTIONS", "POST", "DELETE"):
                for headers in ({}, {"authorization": wrong}):
                    status = stranger.request(method, path, headers=headers).status_code
                    healthy = path in ("/healthz", "/readyz") and method in ("GET", "HEAD")
                    assert status == (200 if healthy else 401), (method, path)
        assert stranger.get("//healthz").status_code == 401
        assert stranger.get("/%68ealthz").status_code == 401


def test_drain_and_resume(service: httpx.Client) -> None:
    assert service.post("/drain").status_code == 202
    assert service.get("/agent").json()["draining"] is True
    assert service.post("/resume").status_code == 202
    assert service.get("/agent").json()["draining"] is False


def test_an_absent_instance_is_told_as_503(shared_system: Cluster, service: httpx.Client) -> None:
    instance = shared_system.processes["comfyui-1"]
    instance.kill()
    try:
        answer = service.get("/queue")
        assert answer.status_code == 503
        assert answer.json()["code"] == "instance-away"
        assert int(answer.headers["retry-after"]) > 0
    finally:
        instance.start()
        wait_until(lambda: service.get("/queue").status_code == 200, "the instance is back")


def test_the_default_log_in_is_refused_in_production(shared_system: Cluster, tmp_path: Path) -> None:
    """FAULTS.md S2, for both programs."""
    for program in ("comfy_service", "comfy_balancer"):
        environment = {**shared_system.environment(), "COMFY_ENV": "production"}
        environment |= {"API_USERNAME": "admin", "API_PASSWORD": "admin"}
        command = [sys.executable, "-m", program]
        ended = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=20)
        assert ended.returncode != 0
        assert "refusing to start" in ended.stderr
        assert len(ended.stderr.strip().splitlines()) == 1
