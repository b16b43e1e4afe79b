"""Input files are put on the instance once per content and named in a copy of the prompt."""

import hashlib
from pathlib import Path
from typing import cast

import pytest

from comfy_service.inputs import InputMissing, InputPlacer, InputUnreadable
from comfy_service.instance.client import Instance
from comfy_shared.errors import Unavailable
from comfy_shared.files import FileStore, input_key, open_store
from comfy_shared.models import InputFile
from test.support.settings import settings_for

SHA = hashlib.sha256(b"cat").hexdigest()
PROMPT = {
    "1": {"class_type": "LoadImage", "inputs": {"image": "what the client wrote", "x": 1}},
    "2": {"class_type": "LoadImage", "inputs": {"image": "other"}},
}


class Uploads:
    """Stands for the instance: takes files and gives them names of its own."""

    def __init__(self) -> None:
        self.taken: list[tuple[str, bytes]] = []

    async def upload(self, name: str, data: bytes) -> str:
        self.taken.append((name, data))
        return f"named-{len(self.taken)}.png"


@pytest.fixture
def uploads() -> Uploads:
    return Uploads()


@pytest.fixture
async def store(tmp_path: Path) -> FileStore:
    store = open_store(settings_for(1, "unused", tmp_path / "files"))
    await store.put(input_key(SHA, ".png"), b"cat")
    return store


def placer_of(uploads: Uploads, store: FileStore) -> InputPlacer:
    return InputPlacer(cast("Instance", uploads), store)


def file(node: str, sha256: str = SHA) -> InputFile:
    return InputFile(node=node, input="image", sha256=sha256, extension=".png", size=3)


async def test_the_instances_name_goes_into_a_copy_of_the_prompt(uploads: Uploads, store: FileStore) -> None:
    placed = await placer_of(uploads, store).place(PROMPT, [file("1")])
    assert placed["1"] == {"class_type": "LoadImage", "inputs": {"image": "named-1.png", "x": 1}}
    assert placed["2"] == PROMPT["2"]
    assert PROMPT["1"]["inputs"] == {"image": "what the client wrote", "x": 1}
    assert uploads.taken == [(f"{SHA[:40]}.png", b"cat")]


async def test_each_content_goes_there_once_until_the_instance_was_away(uploads: Uploads, store: FileStore) -> None:
    placer = placer_of(uploads, store)
    for _ in range(2):
        placed = await placer.place(PROMPT, [file("1"), file("2")])
        assert [placed[node]["inputs"]["image"] for node in "12"] == ["named-1.png"] * 2
    assert len(uploads.taken) == 1
    placer.forget()
    assert (await placer.place(PROMPT, [file("1")]))["1"]["inputs"]["image"] == "named-2.png"


async def test_a_file_that_is_no_longer_stored_fails_the_task(uploads: Uploads, store: FileStore) -> None:
    with pytest.raises(InputMissing, match="0000…") as caught:
        await placer_of(uploads, store).place(PROMPT, [file("1", "0" * 64)])
    assert not caught.value.retryable


async def test_a_file_store_that_is_away_is_worth_another_attempt(
    uploads: Uploads, store: FileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: object) -> None:
        raise Unavailable("The file store is away.")

    monkeypatch.setattr(store, "read", away)
    with pytest.raises(InputUnreadable, match="away") as caught:
        await placer_of(uploads, store).place(PROMPT, [file("1")])
    assert caught.value.retryable
