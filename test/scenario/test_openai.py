"""The official `openai` package, unchanged, against the balancer over two simulated instances."""

import base64
import io
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import openai
import pytest
from PIL import Image

from test.cluster import ROOT, Cluster, wait_until

PICTURE = ROOT / "test" / "picture.png"
MAPPED = """
title: Mapped
parameters:
  words: {node_id: "6", input_name: text, type: text, max_length: 100}
  avoid: {node_id: "7", input_name: text, type: text}
  steps: {node_id: "3", input_name: steps, type: integer, minimum: 1, maximum: 50}
  start: {node_id: "3", input_name: seed, type: seed}
  w: {node_id: "5", input_name: width, type: integer, minimum: 64, maximum: 1024, step: 8}
  h: {node_id: "5", input_name: height, type: integer, minimum: 64, maximum: 1024, step: 8}
openai:
  {prompt: words, width: w, height: h, seed: start, quality: {parameter: steps, values: {low: 2, high: 6}}}
"""
MASKED = {
    "1": {"class_type": "LoadImage", "inputs": {"image": "a.png"}},
    "2": {"class_type": "LoadImageMask", "inputs": {"image": "b.png", "channel": "alpha"}},
    "3": {"class_type": "MaskToImage", "inputs": {"mask": ["2", 0]}},
    "4": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "masked"}},
    "5": {"class_type": "SaveImage", "inputs": {"images": ["3", 0], "filename_prefix": "mask"}},
}
MASKED_YAML = """
parameters:
  image: {node_id: "1", input_name: image, type: image, required: true}
  mask: {node_id: "2", input_name: image, type: mask, required: true}
"""
FAILING = {
    "1": {"class_type": "EmptyImage", "inputs": {"width": 16, "height": 16, "batch_size": 1, "color": 0}},
    "2": {"class_type": "Fail", "inputs": {"image": ["1", 0], "message": "failed on purpose"}},
    "3": {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": "x"}},
}
SLOW = FAILING | {"2": {"class_type": "SlowProgress", "inputs": {"image": ["1", 0], "steps": 400, "ms_per_step": 50}}}
ANY_TEXT = 'parameters: {color: {node_id: "1", input_name: color, type: seed, maximum: 16777215}}'


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("openai")
    workflows = folder / "workflows"
    shutil.copytree(ROOT / "workflows", workflows)
    shutil.copy(workflows / "first-workflow-api.json", workflows / "mapped-api.json")
    (workflows / "mapped.yaml").write_text(MAPPED)
    for name, graph, yaml in (("masked", MASKED, MASKED_YAML), ("fails", FAILING, ANY_TEXT), ("slow", SLOW, ANY_TEXT)):
        (workflows / f"{name}-api.json").write_text(json.dumps(graph))
        (workflows / f"{name}.yaml").write_text(yaml)
    options = ("--preview-method", "latent2rgb", "--step-seconds", "0.03")
    settings = {"WORKFLOWS_FOLDER": str(workflows)}
    with Cluster(folder, simulator_options=options, settings=settings) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def key(system: Cluster) -> str:
    command = [sys.executable, "-m", "comfy_balancer.cli", "keys", "create", "--owner", "anna"]
    made = subprocess.run(command, env=system.environment(), capture_output=True, text=True, timeout=20, check=True)
    return made.stdout.strip()


@pytest.fixture
def client(system: Cluster, key: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(api_key=key, base_url=f"{system.url}/v1", timeout=30) as made:
        yield made


def opened(text: str | None) -> Image.Image:
    picture = Image.open(io.BytesIO(base64.b64decode(text or "")))
    picture.load()
    return picture


def tasks_of(system: Cluster, **query: str) -> list[dict[str, object]]:
    with system.client() as client:
        found: list[dict[str, object]] = client.get("/api/v1/tasks", params=query).json()["tasks"]
        return found


def test_models_are_the_workflows(client: openai.OpenAI) -> None:
    names = [model.id for model in client.models.list()]
    assert {"first-workflow", "image-to-image", "smoke", "mapped"} <= set(names)
    assert client.models.retrieve("smoke").object == "model"
    with pytest.raises(openai.NotFoundError) as missing:
        client.models.retrieve("gpt-image-9")
    assert missing.value.code == "model_not_found"


def test_a_picture_from_a_text(client: openai.OpenAI, system: Cluster) -> None:
    made = client.images.generate(
        model="first-workflow", prompt="a red house", size="128x64", extra_body={"steps": 3, "seed": 7}
    )
    assert made.data is not None
    assert opened(made.data[0].b64_json).size == (128, 64)
    assert (made.size, made.output_format) == ("128x64", "png")
    task = tasks_of(system, workflow="first-workflow")[0]
    assert task["owner"] == "anna"
    wanted = {"text": "a red house", "width": 128, "height": 64, "steps": 3, "seed": 7}
    assert wanted.items() <= task["parameters"].items()  # type: ignore[attr-defined]


def test_n_pictures_are_n_tasks_with_seeds_of_their_own(client: openai.OpenAI, system: Cluster) -> None:
    before = len(tasks_of(system, workflow="mapped"))
    made = client.images.generate(
        model="mapped", prompt="x", n=3, size="64x64", quality="low", output_format="webp", extra_body={"seed": 5}
    )
    assert [opened(image.b64_json).format for image in made.data or ()] == ["WEBP"] * 3
    tasks = tasks_of(system, workflow="mapped")[: -before or None]
    parameters = [task["parameters"] for task in tasks]
    assert sorted(each["start"] for each in parameters) == [5, 6, 7]  # type: ignore[index]
    assert {each["steps"] for each in parameters} == {2}  # type: ignore[index]


@pytest.mark.parametrize(("format_", "name"), [("jpeg", "JPEG"), ("png", "PNG"), ("webp", "WEBP")])
def test_output_formats(client: openai.OpenAI, format_: str, name: str) -> None:
    made = client.images.generate(model="smoke", prompt="x", output_format=format_, output_compression=50)  # type: ignore[call-overload]
    assert opened(made.data[0].b64_json).format == name


def test_an_address_needs_no_log_in_and_leads_to_this_picture_only(client: openai.OpenAI, system: Cluster) -> None:
    made = client.images.generate(model="smoke", prompt="x", size="64x64", response_format="url")
    url = (made.data or [])[0].url or ""
    assert url.startswith(system.url)
    for _ in range(2):
        assert Image.open(io.BytesIO(httpx.get(url, trust_env=False).content)).size == (64, 64)
    assert httpx.post(url, trust_env=False).status_code == 401
    place, _, query = url.partition("?")
    for changed in (
        url.replace("owner=anna", "owner=admin"),
        url.replace("ends=", "ends=9"),
        url[:-1] + ("0" if url[-1] != "0" else "1"),
        f"{place.rpartition('/')[0]}?{query}",
        f"{system.url}/api/v1/tasks?{query}",
    ):
        assert httpx.get(changed, trust_env=False).status_code == 401, changed


def test_an_edit_with_a_mask(client: openai.OpenAI) -> None:
    mask = io.BytesIO()
    Image.new("RGBA", (32, 32), (0, 0, 0, 0)).save(mask, "PNG")
    mask.name = "mask.png"
    mask.seek(0)
    with PICTURE.open("rb") as picture:
        made = client.images.edit(model="masked", image=picture, mask=mask, prompt="x")
    assert len(made.data or ()) == 2
    with PICTURE.open("rb") as picture:
        made = client.images.edit(model="image-to-image", image=[picture], prompt="winter", extra_body={"steps": 2})
    assert opened((made.data or [])[0].b64_json).format == "PNG"


def test_a_stream_brings_partial_pictures_and_the_picture(client: openai.OpenAI) -> None:
    events = list(
        client.images.generate(model="first-workflow", prompt="x", size="64x64", stream=True, partial_images=2)
    )
    kinds = [event.type for event in events]
    assert kinds == ["image_generation.partial_image"] * 2 + ["image_generation.completed"]
    assert [event.partial_image_index for event in events[:2]] == [0, 1]  # type: ignore[union-attr]
    assert opened(events[0].b64_json).format == "JPEG"
    assert opened(events[-1].b64_json).size == (64, 64)
    assert events[-1].usage.total_tokens == 0  # type: ignore[union-attr]


def test_an_edit_streams_too(client: openai.OpenAI) -> None:
    with PICTURE.open("rb") as picture:
        stream = client.images.edit(
            model="image-to-image", image=picture, prompt="x", stream=True, partial_images=1, output_format="png"
        )
        events = list(stream)
    assert [event.type for event in events] == ["image_edit.partial_image", "image_edit.completed"]
    assert {opened(event.b64_json).format for event in events} == {"PNG"}


@pytest.mark.parametrize(
    ("fields", "kind", "param"),
    [
        ({"model": "nope"}, openai.NotFoundError, "model"),
        ({"model": "first-workflow", "size": "10x10"}, openai.BadRequestError, "size"),
        ({"model": "first-workflow", "size": "big"}, openai.BadRequestError, "size"),
        ({"model": "first-workflow", "n": 11}, openai.BadRequestError, "n"),
        ({"model": "first-workflow", "quality": "best"}, openai.BadRequestError, "quality"),
        ({"model": "mapped", "quality": "medium"}, openai.BadRequestError, "quality"),
        ({"model": "mapped", "prompt": "x" * 101}, openai.BadRequestError, "prompt"),
        ({"model": "first-workflow", "extra_body": {"step": 3}}, openai.BadRequestError, "step"),
        ({"model": "first-workflow", "extra_body": {"width": 3}, "size": "64x64"}, openai.BadRequestError, "width"),
        ({"model": "first-workflow", "extra_body": {"steps": "x"}}, openai.BadRequestError, "steps"),
        ({"model": "first-workflow", "prompt": ""}, openai.BadRequestError, "prompt"),
        ({"model": "first-workflow", "background": "transparent"}, openai.BadRequestError, "background"),
        ({"prompt": "no model"}, openai.BadRequestError, "model"),
    ],
)
def test_what_does_not_fit_is_refused_with_its_field(
    client: openai.OpenAI, system: Cluster, fields: dict[str, object], kind: type[openai.APIStatusError], param: str
) -> None:
    with pytest.raises(kind) as refused:
        client.images.generate(**({"prompt": "x"} | fields))  # type: ignore[call-overload]
    assert refused.value.param == param
    assert refused.value.request_id


def test_a_failed_task_is_an_error_that_is_not_repeated(client: openai.OpenAI, system: Cluster) -> None:
    with pytest.raises(openai.InternalServerError) as failed:
        client.images.generate(model="fails", prompt="x")
    assert "failed on purpose" in failed.value.message
    assert failed.value.code == "node_failed"
    assert len(tasks_of(system, workflow="fails")) == 1
    with pytest.raises(openai.APIError, match="failed on purpose"):
        list(client.images.generate(model="fails", prompt="x", stream=True))


def test_a_wrong_key_is_an_authentication_error(system: Cluster) -> None:
    stranger = openai.OpenAI(api_key="sk-wrong", base_url=f"{system.url}/v1")
    with stranger, pytest.raises(openai.AuthenticationError) as refused:
        stranger.models.list()
    assert refused.value.code == "invalid_api_key"


@pytest.mark.parametrize("stream", [False, True])
def test_who_hangs_up_leaves_no_task_running(client: openai.OpenAI, system: Cluster, stream: bool) -> None:
    with pytest.raises(openai.APITimeoutError):
        for _ in client.with_options(timeout=1, max_retries=0).images.generate(model="slow", prompt="x", stream=stream):
            pass
    wait_until(
        lambda: {task["status"] for task in tasks_of(system, workflow="slow")} == {"canceled"}, "it is canceled", 10
    )


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("images/generations", b"{", 400),
        ("images/generations", b"[]", 400),
        ("images/generations", b'{"prompt": 5, "model": "smoke"}', 400),
        ("images/generations", b'{"prompt": "x", "model": ["smoke"]}', 400),
        ("images/generations", b'{"prompt": "\\ud800", "model": "smoke", "n": true}', 400),
        ("images/edits", b"{}", 400),
        ("nothing", b"{}", 404),
        ("models", b"{}", 405),
    ],
)
def test_bad_bodies_get_an_error_in_openais_shape(
    system: Cluster, key: str, path: str, body: bytes, status: int
) -> None:
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    answer = httpx.post(f"{system.url}/v1/{path}", content=body, headers=headers, trust_env=False)
    assert answer.status_code == status, answer.text
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}


def test_a_file_that_is_no_picture_is_refused(client: openai.OpenAI, tmp_path: Path) -> None:
    for content in (b"", b"text", b"\x89PNG\r\n\x1a\n" + b"x" * 100):
        with pytest.raises(openai.BadRequestError) as refused:
            client.images.edit(model="image-to-image", image=("a.png", content), prompt="x")
        assert refused.value.param == "image"
    with pytest.raises(openai.BadRequestError) as refused:
        client.images.edit(model="image-to-image", image=[PICTURE, PICTURE], prompt="x")
    assert refused.value.param == "image"
    with pytest.raises(openai.BadRequestError) as refused:
        client.images.edit(model="image-to-image", image=PICTURE, mask=PICTURE, prompt="x")
    assert refused.value.param == "mask"
