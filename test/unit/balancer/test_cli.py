"""comfyctl: what it prints, what it refuses, and with which exit code."""

import io
import json
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, PngImagePlugin

from comfy_balancer.cli import main
from comfy_shared.workflows import load_workflow

FIXTURES = Path(__file__).parents[2] / "fixtures" / "conversion"
OBJECT_INFO = str(FIXTURES / "object_info.json")


@pytest.fixture
def pair() -> dict[str, Any]:
    return dict(json.loads((FIXTURES / "text-to-image.json").read_text()))


@pytest.fixture
def saved(tmp_path: Path, pair: dict[str, Any]) -> str:
    path = tmp_path / "graph.json"
    path.write_text(json.dumps(pair["ui"]))
    return str(path)


def test_convert_prints_the_prompt(saved: str, pair: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["workflow", "convert", saved, "--object-info", OBJECT_INFO]) == 0
    assert json.loads(capsys.readouterr().out) == pair["api"]


def test_it_is_a_module_too(saved: str, pair: dict[str, Any]) -> None:
    command = [sys.executable, "-m", "comfy_balancer.cli", "workflow", "convert", saved, "--object-info", OBJECT_INFO]
    done = subprocess.run(command, capture_output=True, check=True)
    assert json.loads(done.stdout) == pair["api"]


def test_a_picture_that_carries_its_graph_is_a_graph(
    tmp_path: Path, pair: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    info = PngImagePlugin.PngInfo()
    info.add_text("workflow", json.dumps(pair["ui"]))
    path = tmp_path / "picture.png"
    Image.new("RGB", (2, 2)).save(path, pnginfo=info)
    assert main(["workflow", "convert", str(path), "--object-info", OBJECT_INFO]) == 0
    assert json.loads(capsys.readouterr().out) == pair["api"]


def test_object_info_comes_from_an_instance_by_its_address(
    saved: str, pair: dict[str, Any], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def answer(url: str, timeout: float) -> io.BytesIO:
        asked.append(url)
        return io.BytesIO(Path(OBJECT_INFO).read_bytes())

    monkeypatch.setattr(urllib.request, "urlopen", answer)
    assert main(["workflow", "convert", saved, "--object-info", "http://gpu-1:8188/"]) == 0
    assert main(["workflow", "convert", saved, "--object-info", "http://gpu-1:8188/object_info"]) == 0
    assert asked == ["http://gpu-1:8188/object_info"] * 2
    assert json.loads(capsys.readouterr().out.split("\n}\n")[0] + "}") == pair["api"]


@pytest.mark.parametrize("kind", ["ui", "api"])
def test_infer_prints_a_parameter_file_that_loads(
    tmp_path: Path, pair: dict[str, Any], kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of the editor's graph as of the API graph; the workflow is then complete without object info."""
    (tmp_path / "graph.json").write_text(json.dumps(pair[kind]))
    assert main(["workflow", "infer", str(tmp_path / "graph.json"), "--object-info", OBJECT_INFO]) == 0
    (tmp_path / "mine.yaml").write_text(capsys.readouterr().out)
    (tmp_path / "mine-api.json").write_text(json.dumps(pair["api"]))
    parameters = {each.name: each for each in load_workflow(tmp_path, "mine").parameters}
    assert {"text", "negative_text", "steps", "seed"} <= set(parameters)
    assert (parameters["steps"].default, parameters["steps"].maximum) == (25, 100)


def test_an_unknown_class_is_named_with_its_node(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "graph.json"
    path.write_text(json.dumps({"nodes": [{"id": 12, "type": "NoSuchNode"}], "links": []}))
    assert main(["workflow", "convert", str(path), "--object-info", OBJECT_INFO]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err == f"comfyctl: {path}: node 12 (NoSuchNode): object info has no such class\n"
    assert main(["workflow", "convert", str(path), "--object-info", OBJECT_INFO, "--keep-unknown"]) == 0


@pytest.mark.parametrize(
    ("graph", "message"),
    [
        (None, "No such file or directory"),
        (b"{", "this is not JSON"),
        (b"[" * 100_000, "this is not JSON"),
        (b"[]", "this is not an editor's graph"),
        (b"\x89PNG\r\n\x1a\n", "the picture carries no graph"),
    ],
)
def test_what_is_no_graph_is_refused_in_one_line(
    tmp_path: Path, graph: bytes | None, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "graph.json"
    if graph is not None:
        path.write_bytes(graph)
    assert main(["workflow", "convert", str(path), "--object-info", OBJECT_INFO]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1


@pytest.mark.parametrize("info", ["[]", '{"a": 1}', "nothing"])
def test_what_is_no_object_info_is_refused(
    tmp_path: Path, saved: str, info: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "info.json").write_text(info)
    assert main(["workflow", "convert", saved, "--object-info", str(tmp_path / "info.json")]) == 2
    assert "info.json: this is not" in capsys.readouterr().err


def test_an_instance_that_does_not_answer_is_named(
    saved: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(url: str, timeout: float) -> None:
        raise urllib.error.URLError(ConnectionRefusedError(111, "Connection refused"))

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    assert main(["workflow", "convert", saved, "--object-info", "http://gpu-1:8188"]) == 2
    assert "http://gpu-1:8188/object_info: [Errno 111] Connection refused" in capsys.readouterr().err


@pytest.mark.parametrize("words", [[], ["workflow"], ["workflow", "convert"], ["workflow", "infer"]])
def test_every_command_has_help(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([*words, "--help"])
    assert ended.value.code == 0
    assert "usage: comfyctl" in capsys.readouterr().out
