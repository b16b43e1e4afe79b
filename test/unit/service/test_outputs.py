"""What a prompt made comes into the file store whole, under safe names, or the attempt says why not."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import pytest

from comfy_service.instance.client import Instance
from comfy_service.outputs import Collector, SocketImage, StoreFailed, TooMuch
from comfy_shared.errors import InstanceLost, OutputMissing, RunError, Unavailable
from comfy_shared.files import FileStore, Stored, open_store
from test.support.settings import settings_for
from test.unit.service.support import service_settings

Answer = bytes | RunError


class Files:
    """Stands for the instance: its files by name."""

    def __init__(self, files: Mapping[str, Answer]) -> None:
        self.files = files
        self.asked: list[dict[str, str]] = []

    @asynccontextmanager
    async def view(self, file: Mapping[str, Any]) -> AsyncIterator[AsyncIterator[bytes]]:
        self.asked.append(dict(file))
        answer = self.files[file["filename"]]
        if isinstance(answer, OutputMissing):
            raise answer
        yield self._chunks(answer)

    async def _chunks(self, answer: Answer) -> AsyncIterator[bytes]:
        yield b""
        if isinstance(answer, RunError):
            raise answer
        yield answer


class Failing(FileStore):
    """Refuses the first puts."""

    def __init__(self, store: FileStore, refusals: int) -> None:
        super().__init__(store._store)
        self.refusals = refusals

    async def put(self, key: str, data: bytes | AsyncIterator[bytes]) -> Stored:
        if self.refusals:
            self.refusals -= 1
            raise Unavailable("The file store is full.")
        return await super().put(key, data)


@pytest.fixture
def store(tmp_path: Path) -> FileStore:
    return open_store(settings_for(1, "unused", tmp_path / "files"))


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between two tries at a file store that is away."""

    async def at_once(_: float) -> None:
        return

    monkeypatch.setattr("comfy_service.outputs.asyncio.sleep", at_once)


def collector(files: Mapping[str, Answer], store: FileStore, *, largest: int = 100, most: int = 10) -> Collector:
    settings = service_settings(largest_output=largest, most_outputs=most)
    return Collector(cast("Instance", Files(files)), store, settings)


def entry(**shown: Any) -> dict[str, Any]:
    return {"outputs": {node.removeprefix("node"): value for node, value in shown.items()}}


def image(name: str, *, kind: str = "output") -> dict[str, Any]:
    return {"images": [{"filename": name, "subfolder": "", "type": kind}]}


async def stored(store: FileStore, key: str) -> bytes:
    return b"".join([chunk async for chunk in store.read(key)])


async def test_files_texts_and_socket_pictures_are_stored_in_order(store: FileStore) -> None:
    shown = entry(node9=image("a.png"), node4={"text": ["hello"]}, node5=image("t.png", kind="temp"))
    pictures = [SocketImage(node="7", data=b"\x89PNG", content_type="image/png")]
    made = collector({"a.png": b"AAA", "t.png": b"T"}, store)
    found = await made.collect("t1", 2, shown, pictures)
    assert [(each.name, each.node, each.kind, each.content_type, each.temporary) for each in found] == [
        ("a.png", "9", "images", "image/png", False),
        ("text-4.txt", "4", "text", "text/plain", False),
        ("t.png", "5", "images", "image/png", True),
        ("socket-7.png", "7", "images", "image/png", False),
    ]
    assert [each.key for each in found] == [f"outputs/t1/2/{each.name}" for each in found]
    assert [await stored(store, each.key) for each in found] == [b"AAA", b"hello", b"T", b"\x89PNG"]
    assert [each.size for each in found] == [3, 5, 1, 4]
    assert found[0].sha256 == "cb1ad2119d8fafb69566510ee712661f9f14b83385006ef92aec47f523a38358"


async def test_two_files_of_one_name_are_both_kept(store: FileStore) -> None:
    shown = entry(node1=image("a.png"), node2={"gifs": [{"filename": "a.png", "subfolder": "x", "type": "output"}]})
    found = await collector({"a.png": b"A"}, store).collect("t1", 1, shown, [])
    assert [each.name for each in found] == ["a.png", "a-2.png"]


@pytest.mark.parametrize(
    ("name", "content_type"),
    [
        # Python 3.11 and 3.12 know WEBP and others only where the machine has a mime.types: not in a slim image.
        ("a.webp", "image/webp"),
        ("a.flac", "audio/flac"),
        ("a.opus", "audio/ogg"),
        ("a.mkv", "video/x-matroska"),
        ("a.glb", "model/gltf-binary"),
        ("a.obj", "model/obj"),
        ("a.mp4", "video/mp4"),
        ("a.webm", "video/webm"),
        ("a.gif", "image/gif"),
        ("a.safetensors", "application/octet-stream"),
        ("a", "application/octet-stream"),
    ],
)
async def test_the_content_type_is_the_same_on_every_machine(store: FileStore, name: str, content_type: str) -> None:
    (found,) = await collector({name: b"A"}, store).collect("t1", 1, entry(node1=image(name)), [])
    assert found.content_type == content_type


async def test_nothing_made_is_nothing_stored(store: FileStore) -> None:
    assert await collector({}, store).collect("t1", 1, {}, []) == []


async def test_more_outputs_than_allowed_are_refused_before_any_is_stored(store: FileStore) -> None:
    shown = {"outputs": {"1": {"images": [{"filename": f"{i}.png"} for i in range(11)]}}}
    with pytest.raises(TooMuch, match="11 outputs; the limit is 10") as caught:
        await collector({}, store).collect("t1", 1, shown, [])
    assert not caught.value.retryable


async def test_an_output_that_is_too_large_is_refused_and_not_kept(store: FileStore) -> None:
    with pytest.raises(TooMuch, match="larger than 100 bytes"):
        await collector({"a.png": b"A" * 101}, store).collect("t1", 1, entry(node1=image("a.png")), [])
    assert not await store.exists("outputs/t1/1/a.png")


@pytest.mark.parametrize("error", [OutputMissing, InstanceLost])
async def test_a_file_that_cannot_be_had_fails_the_attempt(store: FileStore, error: type[RunError]) -> None:
    shown = entry(node1=image("a.png"), node2=image("b.png"))
    with pytest.raises(error):
        await collector({"a.png": b"A", "b.png": error()}, store).collect("t1", 1, shown, [])
    assert not await store.exists("outputs/t1/1/b.png")


async def test_a_file_store_that_comes_back_costs_only_time(store: FileStore) -> None:
    made = collector({"a.png": b"A"}, Failing(store, refusals=3))
    assert len(await made.collect("t1", 1, entry(node1=image("a.png")), [])) == 1


async def test_a_file_store_that_stays_away_is_told_and_worth_another_attempt(store: FileStore) -> None:
    made = collector({"a.png": b"A"}, Failing(store, refusals=4))
    with pytest.raises(StoreFailed, match="The file store is full") as caught:
        await made.collect("t1", 1, entry(node1=image("a.png")), [])
    assert caught.value.retryable


async def test_discarding_removes_this_attempt_and_no_other(store: FileStore) -> None:
    made = collector({"a.png": b"A"}, store)
    for number in (1, 2):
        await made.collect("t1", number, entry(node1=image("a.png")), [])
    await made.discard("t1", 1)
    assert not await store.exists("outputs/t1/1/a.png")
    assert await store.exists("outputs/t1/2/a.png")
