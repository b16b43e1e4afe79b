"""Comfy API v2, assets: addressed by blake3, one file for equal bytes, and nothing of another owner's."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from redis.asyncio import Redis

from comfy_shared.settings import SharedSettings
from test.comfy_v2 import contract
from test.integration.balancer_support import Balancer, picture, running
from test.integration.test_balancer_files import HOSTILE, bomb
from test.integration.v2_support import Client, client_of, complete, hash_of, reference, with_picture
from test.support.agents import Hand, advance
from test.support.builders import output
from test.support.waiting import wait_until


@pytest.fixture
async def balancer(redis: Redis, settings: SharedSettings, core_nodes: None) -> AsyncIterator[Balancer]:
    async with running(redis, settings, file_limit=100_000, pixel_limit=10_000, purge_seconds=0.05) as made:
        yield made


@pytest.fixture
async def anna(balancer: Balancer) -> Client:
    return await client_of(balancer, "anna")


@pytest.fixture
async def hand(balancer: Balancer) -> Hand:
    return await balancer.hand()


def files_of(balancer: Balancer) -> list[str]:
    folder = Path(urlsplit(balancer.settings.file_store).path) / "inputs"
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


class TestUpload:
    async def test_an_asset_is_known_by_its_blake3(self, balancer: Balancer, anna: Client) -> None:
        data = picture()
        answer = await anna.upload(data, "input/mine.png")
        asset = contract.check(answer.json(), contract.ASSET)
        assert answer.status_code == 201
        assert (asset["hash"], asset["size_bytes"], asset["created_new"]) == (hash_of(data), len(data), True)
        assert (asset["file_path"], asset["content_type"]) == ("input/mine.png", "image/png")
        assert asset["url"] == f"http://balancer/api/v2/assets/{asset['id']}/content"
        assert files_of(balancer) == [hashlib.sha256(data).hexdigest() + ".png"]
        read = await anna.read(f"/assets/{asset['id']}", contract.ASSET)
        assert "created_new" not in read
        assert read["id"] == asset["id"]

    async def test_equal_bytes_are_one_asset_and_one_file(self, balancer: Balancer, anna: Client) -> None:
        first = await anna.asset(name="a.png")
        answer = await anna.upload(picture(), "b.png")
        again = answer.json()
        assert (answer.status_code, again["created_new"]) == (200, False)
        assert (again["id"], again["file_path"], again["created_at"]) == (first["id"], "a.png", first["created_at"])
        assert len(files_of(balancer)) == 1

    async def test_of_uploads_at_once_one_is_new(self, balancer: Balancer, anna: Client) -> None:
        answers = await asyncio.gather(*(anna.upload(picture()) for _ in range(8)))
        assert sorted(answer.status_code for answer in answers) == [200] * 7 + [201]
        assert len({answer.json()["id"] for answer in answers}) == len(files_of(balancer)) == 1

    async def test_another_owner_learns_nothing_of_the_same_bytes(self, balancer: Balancer, anna: Client) -> None:
        berta = await client_of(balancer, "berta")
        mine = await anna.asset(name="secret-name.png")
        body = {"hash": mine["hash"]}
        assert await berta.refused("POST", "/assets/from-hash", json=body) == (404, "blob_not_found")
        assert (await berta.ask("HEAD", f"/assets/by-hash/{mine['hash']}")).status_code == 404
        answer = await berta.upload(picture(), "b.png")
        own = answer.json()
        assert (answer.status_code, own["created_new"], own["file_path"]) == (201, True, "b.png")
        assert own["id"] != mine["id"]
        assert len(files_of(balancer)) == 1
        await anna.ask("DELETE", f"/assets/{mine['id']}")
        assert (await berta.ask("GET", f"/assets/{own['id']}/content")).content == picture()

    async def test_a_declared_hash_is_checked(self, balancer: Balancer, anna: Client) -> None:
        data = picture()
        for wrong in (hash_of(b"other"), "blake3:x", "sha256:" + hashlib.sha256(data).hexdigest()):
            answer = await anna.upload(data, expected_hash=wrong)
            assert (answer.status_code, answer.json()["error"]["code"]) == (409, "hash_mismatch")
        assert await balancer.traces() == []
        assert (await anna.upload(data, expected_hash=hash_of(data).upper())).status_code == 201

    @pytest.mark.parametrize(
        "path",
        [
            "", "..", "../a.png", "a/../b.png", "/a.png", "\\a.png", "a\\b.png", "C:a.png", "a\x00.png", "a\n.png",
            "input/../checkpoints/evil.safetensors", "custom_nodes/x.py", "checkpoints/a.safetensors",
            "models/loras/a.safetensors", "output/a.png", "input/", "x" * 1025, "~/a.png", "a.png [output]",
            "%2e%2e/a.png",
        ],
    )  # fmt: skip
    async def test_a_tricky_path_is_refused(self, balancer: Balancer, anna: Client, path: str) -> None:
        answer = await anna.upload(picture(), path)
        assert (answer.status_code, answer.json()["error"]["code"]) == (422, "invalid_request")
        contract.check(answer.json(), contract.ERROR)
        assert await balancer.traces() == []

    async def test_what_is_too_large_is_refused(self, balancer: Balancer, anna: Client) -> None:
        for data in (b"x" * 100_001, bomb(), picture(101, 100)):
            answer = await anna.upload(data)
            assert (answer.status_code, answer.json()["error"]["code"]) == (413, "payload_too_large")
        assert await balancer.traces() == []

    async def test_a_body_that_is_cut_off_is_refused(self, balancer: Balancer, anna: Client) -> None:
        whole = balancer.client.build_request(
            "POST",
            "/",
            data={"content_type": "image/png", "file_path": "a.png"},
            files={"file": ("a.png", picture(), "image/png")},
        )
        body, headers = whole.read(), {"Content-Type": whole.headers["content-type"]}
        for end in (0, 10, len(body) // 2, len(body) - 20):
            status, code = await anna.refused("POST", "/assets", content=body[:end], headers=headers)
            assert (status, code) in ((400, "invalid_request"), (422, "invalid_request")), end
        assert await balancer.traces() == []

    async def test_a_form_with_odd_parts_is_refused(self, balancer: Balancer, anna: Client) -> None:
        good = {"content_type": "image/png", "file_path": "a.png"}
        file = ("a.png", picture(), "image/png")
        for texts, files in (
            (good, {}),
            (good, [("file", file), ("file", file)]),
            (good | {"file_path": ["a.png", "b.png"]}, {"file": file}),
            (good | {"content_type": "text"}, {"file": file}),
            (good | {"content_type": "image/png\r\nX: y"}, {"file": file}),
            (good, {"file": ("a.png", b"", "image/png")}),
            (good | {"file": "no file"}, {}),
        ):
            form = balancer.client.build_request("POST", "/", data=texts, files=files or {"x": b""})
            headers = {"Content-Type": form.headers["content-type"]}
            refused = await anna.refused("POST", "/assets", content=form.read(), headers=headers)
            assert refused == (422, "invalid_request"), texts
        assert await anna.refused("POST", "/assets", json=good) == (422, "invalid_request")
        assert await balancer.traces() == []

    async def test_tags_and_other_parts_are_left_alone(self, anna: Client) -> None:
        texts = {"content_type": "image/png", "file_path": "a.png", "tags": ["input", "mine"], "expires_in": "3600"}
        files = {"file": ("a.png", picture(), "image/png")}
        assert (await anna.ask("POST", "/assets", data=texts, files=files)).status_code == 201

    @pytest.mark.parametrize("name", sorted(HOSTILE.keys() - {"nothing"}))
    async def test_what_a_browser_might_run_comes_back_as_a_download(self, anna: Client, name: str) -> None:
        asset = (await anna.upload(HOSTILE[name], "page.html", content_type="text/html")).json()
        answer = await anna.ask("GET", f"/assets/{asset['id']}/content")
        assert answer.content == HOSTILE[name]
        assert answer.headers["content-type"] == "application/octet-stream"
        assert answer.headers["content-disposition"].startswith("attachment")
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "sandbox" in answer.headers["content-security-policy"]


class TestHashes:
    async def test_bytes_that_are_there_need_not_be_sent(self, anna: Client) -> None:
        asset = await anna.asset()
        assert (await anna.ask("HEAD", f"/assets/by-hash/{asset['hash']}")).status_code == 200
        answer = await anna.ask("POST", "/assets/from-hash", json={"hash": asset["hash"], "file_path": "other.png"})
        assert (answer.status_code, answer.json()["created_new"]) == (200, False)
        assert contract.check(answer.json(), contract.ASSET)["id"] == asset["id"]

    @pytest.mark.parametrize(
        ("body", "code"),
        [
            ({}, (422, "invalid_request")),
            ({"hash": 7}, (422, "invalid_request")),
            ({"hash": "blake3:zz"}, (404, "blob_not_found")),
            ({"hash": "blake3:" + "0" * 64}, (404, "blob_not_found")),
            ({"hash": "x" * 100_000}, (404, "blob_not_found")),
            ([], (400, "invalid_request")),
        ],
    )
    async def test_an_odd_hash_is_refused(self, anna: Client, body: object, code: tuple[int, str]) -> None:
        assert await anna.refused("POST", "/assets/from-hash", json=body) == code


class TestContent:
    async def test_a_range_is_served(self, anna: Client) -> None:
        data = picture()
        path = f"/assets/{(await anna.asset(data))['id']}/content"
        whole = await anna.ask("GET", path)
        assert (whole.status_code, whole.content, whole.headers["accept-ranges"]) == (200, data, "bytes")
        part = await anna.ask("GET", path, headers={"Range": "bytes=2-9"})
        assert (part.status_code, part.content) == (206, data[2:10])
        assert part.headers["content-range"] == f"bytes 2-9/{len(data)}"
        assert (await anna.ask("GET", path, headers={"Range": "bytes=-3"})).content == data[-3:]
        refused = await anna.refused("GET", path, headers={"Range": f"bytes={len(data)}-"})
        assert refused == (416, "range_not_satisfiable")
        head = await anna.ask("HEAD", path)
        assert (head.status_code, head.headers["content-length"], head.content) == (200, str(len(data)), b"")

    async def test_an_output_is_an_asset(self, balancer: Balancer, anna: Client, hand: Hand) -> None:
        job = await anna.submit()
        await complete(hand, balancer, [output("made.png")], b"0123456789")
        (made,) = (await anna.job(job["id"]))["outputs"]
        asset = await anna.read(f"/assets/{made['id']}", contract.ASSET)
        assert (asset["job_id"], asset["size_bytes"], asset["hash"]) == (job["id"], 10, None)
        part = await anna.ask("GET", f"/assets/{made['id']}/content", headers={"Range": "bytes=3-4"})
        assert (part.status_code, part.content) == (206, b"34")
        assert await anna.refused("DELETE", f"/assets/{made['id']}") == (409, "asset_in_use")
        other = made["id"].replace("-0", "-1")
        assert await anna.refused("GET", f"/assets/{other}") == (404, "not_found")

    async def test_bytes_that_are_gone_are_told_as_such(self, balancer: Balancer, anna: Client, hand: Hand) -> None:
        asset = await anna.asset()
        folder = Path(urlsplit(balancer.settings.file_store).path) / "inputs"
        (folder / files_of(balancer)[0]).unlink()
        assert await anna.refused("GET", f"/assets/{asset['id']}/content") == (404, "output_unavailable")
        assert await anna.refused_job(workflow=with_picture(reference(asset["id"]))) == (422, "missing_asset")

    @pytest.mark.parametrize("wanted", ["x", "..", "%2e%2e%2fetc", "0" * 36, "A" * 3000, "job-0", "é"])
    async def test_an_odd_id_is_not_found(self, anna: Client, wanted: str) -> None:
        assert (await anna.refused("GET", f"/assets/{wanted}"))[0] == 404
        assert (await anna.refused("GET", f"/assets/{wanted}/content"))[0] == 404


class TestLife:
    async def test_a_deleted_asset_is_gone_and_can_come_again(self, anna: Client) -> None:
        asset = await anna.asset()
        answer = await anna.ask("DELETE", f"/assets/{asset['id']}")
        assert (answer.status_code, answer.content) == (204, b"")
        assert await anna.refused("DELETE", f"/assets/{asset['id']}") == (404, "not_found")
        assert await anna.refused("GET", f"/assets/{asset['id']}") == (404, "not_found")
        assert (await anna.upload(picture())).status_code == 201

    async def test_an_unused_asset_goes_with_its_file(
        self, balancer: Balancer, anna: Client, redis: Redis, hand: Hand
    ) -> None:
        asset = await anna.asset()
        await advance(redis, balancer.keys, balancer.settings.input_retention + 1)
        await wait_until(lambda: not files_of(balancer), "the purge took the file")
        assert await anna.refused("GET", f"/assets/{asset['id']}") == (404, "not_found")
        assert await anna.refused_job(workflow=with_picture(reference(asset["id"]))) == (422, "missing_asset")
        await anna.asset()
        assert len(files_of(balancer)) == 1

    async def test_use_prolongs_an_assets_life(self, balancer: Balancer, anna: Client, redis: Redis) -> None:
        asset = await anna.asset()
        for _ in range(3):
            await advance(redis, balancer.keys, balancer.settings.input_retention * 0.6)
            assert (await anna.ask("GET", f"/assets/{asset['id']}/content")).content == picture()
        kept = await redis.pttl(balancer.keys.asset(asset["id"]))
        assert kept > balancer.settings.input_retention * 999

    async def test_a_damaged_record_is_told_as_such(self, balancer: Balancer, anna: Client, redis: Redis) -> None:
        asset = await anna.asset()
        await redis.hset(balancer.keys.asset(asset["id"]), "record", b"\xff{")
        assert await anna.refused("GET", f"/assets/{asset['id']}") == (503, "upstream_error")
        await redis.set(balancer.keys.asset(asset["id"]), b"nonsense", ex=100)
        assert await anna.refused("GET", f"/assets/{asset['id']}") == (404, "not_found")
        assert (await anna.upload(picture())).status_code == 201
