"""The pictures of a task gain the format that its submit asked for; what cannot be converted says so and stays."""

import io
from pathlib import Path

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from comfy_service.conversion import Converter
from comfy_service.outputs import Collector, SocketImage
from comfy_shared.errors import Unavailable
from comfy_shared.files import FileStore, open_store
from comfy_shared.models import Output
from comfy_shared.output_options import OutputOptions, PictureFormat
from test.support.builders import output
from test.support.settings import settings_for
from test.unit.service.support import service_settings
from test.unit.service.test_outputs import Files, entry, image, stored

WEBP = OutputOptions(format=PictureFormat.WEBP, quality=70, max_size=50)


@pytest.fixture
def store(tmp_path: Path) -> FileStore:
    return open_store(settings_for(1, "unused", tmp_path / "files"))


def png(width: int = 100, height: int = 60) -> bytes:
    info = PngInfo()
    info.add_text("prompt", '{"1": {"class_type": "SECRET"}}')
    data = io.BytesIO()
    Image.effect_noise((width, height), 50).save(data, "PNG", pnginfo=info)
    return data.getvalue()


async def kept(store: FileStore, name: str, data: bytes, content_type: str = "image/png", **changes: bool) -> Output:
    put = await store.put(f"outputs/t/1/{name}", data)
    return output(name, key=put.key, size=put.size, sha256=put.sha256, content_type=content_type, **changes)


async def test_each_picture_is_followed_by_the_one_made_of_it(store: FileStore) -> None:
    originals = [await kept(store, "a.png", png()), await kept(store, "b.png", png(30, 30))]
    taken = {"a.png", "b.png", "b.webp"}
    made = await Converter(store, pixel_limit=10**6).add(originals, "outputs/t/1", WEBP, taken)
    assert [(one.name, one.original) for one in made] == [
        ("a.png", ""), ("a.webp", "a.png"), ("b.png", ""), ("b-2.webp", "b.png"),
    ]  # fmt: skip
    data = await stored(store, made[1].key)
    assert (made[1].content_type, made[1].size, made[1].key) == ("image/webp", len(data), "outputs/t/1/a.webp")
    assert Image.open(io.BytesIO(data)).size == (50, 30)
    assert b"SECRET" not in data


async def test_other_files_previews_and_animations_stay_alone(store: FileStore) -> None:
    moving = io.BytesIO()
    frames = [Image.new("RGB", (9, 9), (number, 0, 0)) for number in (1, 200)]
    frames[0].save(moving, "WEBP", save_all=True, append_images=frames[1:])
    originals = [
        await kept(store, "a.txt", b"text", "text/plain"),
        await kept(store, "a.mp4", b"video", "video/mp4"),
        await kept(store, "t.png", png(), temporary=True),
        await kept(store, "m.webp", moving.getvalue(), "image/webp"),
    ]
    made = await Converter(store, pixel_limit=10**6).add(
        originals, "outputs/t/1", OutputOptions(format=PictureFormat.PNG), set()
    )
    assert made == originals


async def test_what_cannot_be_converted_says_so_and_fails_nothing(store: FileStore) -> None:
    originals = [
        await kept(store, "broken.png", png()[:200]),
        await kept(store, "none.png", b"<svg/>"),
        await kept(store, "large.png", png(40, 40)),
        output("gone.png", key="outputs/t/1/gone.png"),
        await kept(store, "good.png", png(9, 9)),
    ]
    made = await Converter(store, pixel_limit=1000).add(originals, "outputs/t/1", WEBP, set())
    assert [one.name for one in made] == [
        "broken.png", "none.png", "large.png", "gone.png", "good.png", "good.webp",
    ]  # fmt: skip
    reasons = ("not converted: ", "no picture of a known format", "more than 1000 pixels", "no such file", "", "")
    assert all(reason in one.problem for reason, one in zip(reasons, made, strict=True))
    assert [bool(one.problem) for one in made] == [True, True, True, True, False, False]


async def test_a_store_that_takes_no_more_costs_the_conversion_not_the_task(
    store: FileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = await kept(store, "a.png", png())

    async def full(*_: object) -> object:
        raise Unavailable("The file store is full.")

    monkeypatch.setattr(FileStore, "put", full)
    (made,) = await Converter(store, pixel_limit=10**6).add([original], "outputs/t/1", WEBP, set())
    assert made.problem == "not converted: The file store is full."


@pytest.mark.parametrize(
    ("setting", "wish", "gone"), [(False, None, False), (True, None, True), (True, False, False), (False, True, True)]
)
async def test_the_graph_leaves_the_stored_original_as_the_task_or_the_setting_says(
    store: FileStore, setting: bool, wish: bool | None, gone: bool
) -> None:
    made = Collector(Files({"a.png": png()}), store, service_settings(strip_metadata=setting))  # type: ignore[arg-type]  # stands for one
    socket = [SocketImage(node="7", data=png(), content_type="image/png")]
    options = OutputOptions(strip_metadata=wish)
    for one in await made.collect("t1", 1, entry(node9=image("a.png")), socket, options):
        data = await stored(store, one.key)
        assert (b"SECRET" not in data) is gone
        assert one.size == len(data)
        Image.open(io.BytesIO(data)).verify()
