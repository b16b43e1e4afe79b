"""Files in and out: uploads by content, outputs by range and never as something that a browser runs."""

import hashlib
import io
import json
import struct
import zlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
from PIL import Image
from redis.asyncio import Redis

from comfy_shared.errors import Unavailable
from comfy_shared.files import FileStore, input_key, open_store
from comfy_shared.settings import SharedSettings
from test.integration.balancer_support import TASKS, WITH_FILE, Balancer, fields_of, picture, running
from test.support.agents import advance
from test.support.builders import output
from test.support.waiting import wait_until

INPUTS = "/api/v1/inputs"


@pytest.fixture
async def balancer(redis: Redis, settings: SharedSettings) -> AsyncIterator[Balancer]:
    async with running(redis, settings) as made:
        yield made


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def bomb() -> bytes:
    """A PNG of a few bytes that claims 60,000 x 60,000 pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def animation(frames: int) -> bytes:
    data = io.BytesIO()
    pictures = [Image.new("RGB", (10, 10), (number * 40, 0, 0)) for number in range(frames)]
    pictures[0].save(data, "WEBP", save_all=True, append_images=pictures[1:])
    return data.getvalue()


MEDIA = {
    ".wav": b"RIFF\x24\0\0\0WAVEfmt \x10\0\0\0\x01\0\x01\0\x40\x1f\0\0\x80\x3e\0\0\x02\0\x10\0data\0\0\0\0",
    ".mp4": b"\0\0\0\x20ftypisom\0\0\x02\0isomiso2avc1mp41" + b"\0" * 100,
    ".m4a": b"\0\0\0\x20ftypM4A \0\0\x02\0M4A mp42isom" + b"\0" * 100,
    ".mov": b"\0\0\0\x14ftypqt  \0\0\x02\0qt  " + b"\0" * 100,
    ".webm": b"\x1aE\xdf\xa3\x9fB\x86\x81\x01B\xf7\x81\x01B\xf2\x81\x04B\xf3\x81\x08B\x82\x84webmB\x87\x81\x04"
    + b"\0" * 50,
    ".mkv": b"\x1aE\xdf\xa3\xa3B\x86\x81\x01B\xf7\x81\x01B\xf2\x81\x04B\xf3\x81\x08B\x82\x88matroskaB\x87\x81\x04"
    + b"\0" * 50,
    ".mp3": b"ID3\x04\0\0\0\0\0#TSSE" + b"\0" * 100,
    ".flac": b'fLaC\0\0\0"\x10\0\x10\0' + b"\0" * 100,
    ".ogg": b"OggS\0\x02" + b"\0" * 20 + b"\x01\x1e\x01vorbis" + b"\0" * 100,
}
HOSTILE = {
    "svg": b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>',
    "html": b"<!doctype html><html><script>alert(1)</script>",
    "pickle": b"\x80\x04\x95" + b"\0" * 50,
    "zip": b"PK\x03\x04" + b"\0" * 100,
    "script": b"#!/bin/sh\nrm -rf /\n",
    "program": b"\x7fELF\x02\x01\x01" + b"\0" * 100,
    "nothing": b"",
    "pdf": b"%PDF-1.7\n" + b"\0" * 50,
    "cut picture": picture()[:40],
    "postscript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n",
}


class TestUploads:
    @pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF"])
    async def test_a_picture_is_known_by_its_bytes_not_its_name(self, balancer: Balancer, kind: str) -> None:
        data = picture(kind=kind)
        answer = await balancer.client.post(INPUTS, files={"file": ("../../x.html", data, "text/html")})
        stored = answer.json()
        assert answer.status_code == 201, answer.text
        assert (stored["sha256"], stored["size"]) == (sha256(data), len(data))
        assert stored["content_type"] == f"image/{kind.lower()}"
        files = open_store(balancer.settings)
        assert await files.size(input_key(stored["sha256"], stored["extension"])) == len(data)

    @pytest.mark.parametrize("extension", MEDIA)
    async def test_videos_and_audio_are_known_by_their_bytes(self, balancer: Balancer, extension: str) -> None:
        answer = await balancer.client.post(INPUTS, files={"file": ("x", MEDIA[extension])})
        assert (answer.status_code, answer.json().get("extension")) == (201, extension), answer.text

    @pytest.mark.parametrize("name", HOSTILE)
    async def test_anything_else_is_refused_and_not_stored(self, balancer: Balancer, name: str) -> None:
        """Row S8."""
        answer = await balancer.client.post(INPUTS, files={"file": ("picture.png", HOSTILE[name], "image/png")})
        assert (answer.status_code, fields_of(answer)) == (422, ["file"])
        assert await balancer.traces() == []

    async def test_pixels_are_counted_before_anything_is_decoded(self, balancer: Balancer) -> None:
        answer = await balancer.client.post(INPUTS, files={"file": ("a.png", bomb())})
        assert (answer.status_code, answer.json()["code"]) == (413, "too-large")
        assert await balancer.traces() == []

    async def test_limits_hold_for_pixels_of_all_frames_bytes_and_files(
        self, redis: Redis, settings: SharedSettings
    ) -> None:
        async with running(redis, settings, pixel_limit=500, file_limit=20_000, files_limit=2) as small:
            cases: list[Any] = [
                {"file": ("a.webp", animation(6))},
                {"file": ("a.png", b"\x89PNG" + b"\0" * 20_000)},
                [(f"f{number}", ("a.png", picture())) for number in range(3)],
            ]
            for files in cases:
                answer = await small.client.post(INPUTS, files=files)
                assert answer.status_code == 413, answer.text
            assert await small.traces() == []
            assert (await small.client.post(INPUTS, files={"file": ("a.webp", animation(5))})).status_code == 201

    async def test_several_files_are_answered_in_their_order(self, balancer: Balancer) -> None:
        parts = {"one": ("a", picture(color=1)), "two": ("b", picture(color=2))}
        answer = await balancer.client.post(INPUTS, files=parts)
        assert [item["sha256"] for item in answer.json()["inputs"]] == [sha256(data) for _, data in parts.values()]

    async def test_only_a_form_with_files_is_an_upload(self, balancer: Balancer) -> None:
        assert (await balancer.client.post(INPUTS, json={})).status_code == 415
        answer = await balancer.client.post(INPUTS, data={"file": "text"}, files={"x": ("", b"")})
        assert fields_of(answer)[0] in ("file", "x")

    @pytest.mark.parametrize(("cause", "status"), [("No space left on device (os error 28)", 507), ("away", 503)])
    async def test_a_store_without_room_is_told_and_nothing_is_enqueued(
        self, balancer: Balancer, monkeypatch: pytest.MonkeyPatch, cause: str, status: int
    ) -> None:
        async def full(*_: object) -> object:
            raise Unavailable("The file store cannot be used now.") from OSError(cause)

        monkeypatch.setattr(FileStore, "put", full)
        task = '{"workflow": "image-to-image"}'
        answer = await balancer.client.post(TASKS, data={"task": task}, files={"image": ("a", picture())})
        assert answer.status_code == status
        fields_of(answer)
        assert await balancer.redis.zcard(balancer.keys.queue) == 0
        assert (await balancer.client.get("/healthz")).status_code == 200


class TestTasksWithFiles:
    async def test_a_workflow_takes_a_file_part_by_its_parameters_name(self, balancer: Balancer) -> None:
        data = picture(color=7)
        task = '{"workflow": "image-to-image", "parameters": {"text": "in oil"}}'
        answer = await balancer.client.post(TASKS, data={"task": task}, files={"image": ("../a.php", data)})
        assert answer.status_code == 202, answer.text
        (stored,) = (await balancer.queue.get(answer.json()["id"])).inputs
        assert (stored.sha256, stored.extension, stored.input, stored.size) == (
            sha256(data),
            ".png",
            "image",
            len(data),
        )
        chunks = open_store(balancer.settings).read(input_key(stored.sha256, stored.extension))
        assert b"".join([chunk async for chunk in chunks]) == data

    async def test_a_prompt_takes_a_file_part_by_node_and_input(self, balancer: Balancer) -> None:
        await balancer.hand()
        data = picture(color=8)
        prompt = WITH_FILE | {"1": {"class_type": "LoadImage", "inputs": {}}}
        files = {"task": ("task.json", json.dumps({"prompt": prompt}).encode()), "1.image": ("a.png", data)}
        answer = await balancer.client.post(TASKS, files=files)
        assert answer.status_code == 202, answer.text
        (stored,) = (await balancer.queue.get(answer.json()["id"])).inputs
        assert (stored.node, stored.input, stored.sha256) == ("1", "image", sha256(data))

    async def test_an_earlier_upload_is_named_by_its_hash(self, balancer: Balancer) -> None:
        await balancer.client.post(INPUTS, files={"file": ("a", picture(color=9))})
        reference = sha256(picture(color=9))
        task = await balancer.submit({"workflow": "image-to-image", "parameters": {"image": reference}})
        (stored,) = (await balancer.queue.get(task["id"])).inputs
        assert (stored.sha256, stored.extension) == (reference, ".png")
        prompt = WITH_FILE | {"1": {"class_type": "LoadImage", "inputs": {"image": reference}}}
        await balancer.submit({"prompt": prompt})

    async def test_an_unknown_hash_and_another_kind_of_file_are_refused(self, balancer: Balancer) -> None:
        await balancer.client.post(INPUTS, files={"file": ("a", MEDIA[".wav"])})
        for reference in ("ab" * 32, sha256(MEDIA[".wav"])):
            body = {"workflow": "image-to-image", "parameters": {"image": reference}}
            assert fields_of(await balancer.client.post(TASKS, json=body)) == ["parameters.image"]
        assert await balancer.redis.zcard(balancer.keys.queue) == 0

    async def test_a_file_twice_over_is_refused(self, balancer: Balancer) -> None:
        body = {"task": '{"workflow": "image-to-image", "parameters": {"image": "' + "ab" * 32 + '"}}'}
        answer = await balancer.client.post(TASKS, data=body, files={"image": ("a", picture())})
        assert fields_of(answer) == ["parameters.image"]
        answer = await balancer.client.post(
            TASKS, data=body, files=[("image", ("a", picture())), ("image", ("b", picture()))]
        )
        assert fields_of(answer) == ["image"]
        assert await balancer.traces() == []

    async def test_the_fingerprint_of_a_key_covers_the_files(self, balancer: Balancer) -> None:
        statuses = []
        for color in (1, 1, 2):
            answer = await balancer.client.post(
                TASKS,
                data={"task": '{"workflow": "image-to-image"}'},
                files={"image": ("a", picture(color=color))},
                headers={"Idempotency-Key": "k"},
            )
            statuses.append(answer.status_code)
        assert statuses == [202, 202, 409]

    async def test_an_unused_upload_is_deleted_after_its_retention(
        self, redis: Redis, settings: SharedSettings
    ) -> None:
        async with running(redis, settings, purge_seconds=0.05) as balancer:
            stored = (await balancer.client.post(INPUTS, files={"file": ("a", picture())})).json()
            files = open_store(settings)
            await advance(redis, balancer.keys, balancer.settings.input_retention + 1)

            async def gone() -> bool:
                return not await files.exists(input_key(stored["sha256"], stored["extension"]))

            await wait_until(gone, "the file is deleted")


DATA = bytes(range(256)) * 40


class TestOutputs:
    async def made(self, balancer: Balancer, **changes: Any) -> str:
        """The address of a stored output."""
        task = await balancer.submit()
        attempt = await (await balancer.hand()).take()
        name = changes.pop("name", "picture.png")
        key = f"outputs/{task['id']}/1/{name}"
        await open_store(balancer.settings).put(key, DATA)
        one = output(name, key=key, size=len(DATA), sha256=sha256(DATA), **changes)
        await balancer.queue.complete(attempt, [one])
        seen = (await balancer.client.get(task["links"]["outputs"])).json()["outputs"]
        return str(seen[0]["url"])

    async def test_the_whole_file_is_streamed_with_its_type(self, balancer: Balancer) -> None:
        answer = await balancer.client.get(await self.made(balancer))
        assert answer.content == DATA
        assert answer.headers["content-type"] == "image/png"
        assert answer.headers["content-length"] == str(len(DATA))
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["content-security-policy"] == "sandbox; default-src 'none'"
        assert answer.headers["content-disposition"].startswith("inline")

    async def test_head_tells_the_same_without_the_bytes(self, balancer: Balancer) -> None:
        url = await self.made(balancer)
        whole, head = await balancer.client.get(url), await balancer.client.head(url)
        assert head.content == b""
        same = ("content-length", "content-type", "etag", "content-disposition", "accept-ranges")
        assert [head.headers[name] for name in same] == [whole.headers[name] for name in same]

    @pytest.mark.parametrize(
        ("wished", "part"),
        [
            ("bytes=0-9", (0, 10)),
            ("bytes=10-", (10, 10_240)),
            ("bytes=-5", (10_235, 10_240)),
            ("bytes=9-99999", (9, 10_240)),
        ],
    )
    async def test_a_range_is_served(self, balancer: Balancer, wished: str, part: tuple[int, int]) -> None:
        url = await self.made(balancer)
        answer = await balancer.client.get(url, headers={"Range": wished})
        assert answer.status_code == 206
        assert answer.content == DATA[part[0] : part[1]]
        assert answer.headers["content-range"] == f"bytes {part[0]}-{part[1] - 1}/{len(DATA)}"

    async def test_a_bad_range_is_a_problem(self, balancer: Balancer) -> None:
        url = await self.made(balancer)
        for wished in (
            "bytes=10240-",
            "bytes=5-4",
            "bytes=x",
            "bytes=-",
            "bytes=-0",
            "lines=1-2",
            "bytes=" + "9" * 50 + "-",
        ):
            answer = await balancer.client.get(url, headers={"Range": wished})
            assert (answer.status_code, answer.headers["content-range"]) == (416, f"bytes */{len(DATA)}"), wished
            fields_of(answer)

    async def test_an_unchanged_file_is_not_sent_again(self, balancer: Balancer) -> None:
        url = await self.made(balancer)
        tag = f'"{sha256(DATA)}"'
        assert (await balancer.client.get(url, headers={"If-None-Match": f'"x", W/{tag}'})).status_code == 304
        changed = await balancer.client.get(url, headers={"Range": "bytes=0-1", "If-Range": '"other"'})
        assert (changed.status_code, len(changed.content)) == (200, len(DATA))

    @pytest.mark.parametrize(
        ("name", "content_type"),
        [
            ("a.svg", "image/svg+xml"),
            ("a.html", "text/html"),
            ("a.xml", "application/xml"),
            ("a.js", "text/javascript"),
            ("a.xhtml", "application/xhtml+xml"),
            ("a.bin", "application/octet-stream"),
            ("a.png", "image/png\r\nSet-Cookie: a=b"),
            ("a.png", "IMAGE/PNG; x"),
        ],
    )
    async def test_nothing_that_a_browser_would_run_is_shown(
        self, balancer: Balancer, name: str, content_type: str
    ) -> None:
        """Row S7."""
        answer = await balancer.client.get(await self.made(balancer, name=name, content_type=content_type))
        assert answer.headers["content-disposition"].startswith("attachment")
        assert answer.headers["content-security-policy"] == "sandbox; default-src 'none'"
        assert "set-cookie" not in answer.headers

    async def test_a_download_is_saved(self, balancer: Balancer) -> None:
        answer = await balancer.client.get(await self.made(balancer, name="Bild é.png"), params={"download": "1"})
        assert answer.headers["content-disposition"] == "attachment; filename*=UTF-8''Bild%20%C3%A9.png"

    async def test_only_recorded_names_are_served(self, balancer: Balancer) -> None:
        """Row S7: neither a neighbour in the folder nor a way out of it."""
        url = await self.made(balancer)
        folder = url.rpartition("/")[0]
        task_id = url.split("/")[4]
        await open_store(balancer.settings).put(f"outputs/{task_id}/1/other.png", b"secret")
        for name in ("other.png", "..%2F..%2Fx", "%2e%2e", "%00", "picture.png%00", "PICTURE.PNG"):
            answer = await balancer.client.get(f"{folder}/{name}")
            assert answer.status_code in (404, 405), name
            assert b"secret" not in answer.content

    async def test_a_file_that_is_gone_is_a_404_not_a_broken_stream(self, balancer: Balancer) -> None:
        url = await self.made(balancer)
        await open_store(balancer.settings).delete_folder("outputs")
        for method in ("GET", "HEAD"):
            assert (await balancer.client.request(method, url)).status_code == 404
