"""The file store on a folder and on an S3 server (moto), with the same tests."""

import hashlib
import itertools
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import boto3  # type: ignore[import-untyped]
import pytest
from moto.server import ThreadedMotoServer

from comfy_shared.errors import NotFound, TooLarge, Unavailable
from comfy_shared.files import CHUNK, FileStore, input_key, open_store, output_folder
from comfy_shared.settings import SharedSettings
from test.cluster import free_port
from test.support.settings import settings_for

_buckets = itertools.count(1)
DATA = bytes(range(256)) * 40_000  # 10 MB: several chunks, and several parts of an upload


async def stream(data: bytes, chunk: int = 100_000) -> AsyncIterator[bytes]:
    for start in range(0, len(data), chunk):
        yield data[start : start + chunk]


async def read(store: FileStore, key: str, *, start: int = 0, end: int | None = None) -> bytes:
    return b"".join([chunk async for chunk in store.read(key, start=start, end=end)])


@pytest.fixture(scope="module")
def s3_server() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=free_port(), verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


def s3_settings(endpoint: str, folder: Path, bucket: str) -> SharedSettings:
    return settings_for(
        1,
        "x",
        folder,
        file_store=f"s3://{bucket}/some/prefix",
        s3_endpoint=endpoint,
        s3_access_key_id="key",
        s3_secret_access_key="secret",
    )


@pytest.fixture(params=["folder", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> FileStore:
    if request.param == "folder":
        return open_store(settings_for(1, "x", tmp_path / "files"))
    endpoint: str = request.getfixturevalue("s3_server")
    client = boto3.client(
        "s3", endpoint_url=endpoint, region_name="us-east-1", aws_access_key_id="key", aws_secret_access_key="secret"
    )
    bucket = f"pictures-{next(_buckets)}"
    client.create_bucket(Bucket=bucket)
    return open_store(s3_settings(endpoint, tmp_path, bucket))


class TestBoth:
    @pytest.mark.parametrize("size", [0, 1, CHUNK, CHUNK + 1, len(DATA)])
    async def test_bytes_and_streams_come_back_as_they_were(self, store: FileStore, size: int) -> None:
        data = DATA[:size]
        for key, given in (("outputs/a/1/x.png", data), ("outputs/a/1/y.png", stream(data))):
            stored = await store.put(key, given)
            assert (stored.key, stored.size, stored.sha256) == (key, size, hashlib.sha256(data).hexdigest())
            assert await store.size(key) == size
            assert await read(store, key) == data

    async def test_a_second_put_replaces(self, store: FileStore) -> None:
        await store.put("a/b", DATA)
        await store.put("a/b", b"new")
        assert await read(store, "a/b") == b"new"

    @pytest.mark.parametrize(("start", "end"), [(0, 10), (5, None), (100, 101), (len(DATA) - 1, None), (3, len(DATA))])
    async def test_a_range_is_read(self, store: FileStore, start: int, end: int | None) -> None:
        await store.put("a/b", DATA)
        assert await read(store, "a/b", start=start, end=end) == DATA[start:end]

    async def test_what_is_not_there_is_not_found(self, store: FileStore) -> None:
        assert not await store.exists("a/b")
        with pytest.raises(NotFound):
            await store.size("a/b")
        with pytest.raises(NotFound):
            await read(store, "a/b")
        await store.delete("a/b")

    async def test_a_deleted_file_is_gone(self, store: FileStore) -> None:
        await store.put("a/b", b"x")
        assert await store.exists("a/b")
        await store.delete("a/b")
        assert not await store.exists("a/b")

    async def test_deleting_a_folder_spares_its_neighbours(self, store: FileStore) -> None:
        for key in ("outputs/t1/1/a", "outputs/t1/2/a", "outputs/t11/1/a", "outputs/t1x"):
            await store.put(key, b"x")
        assert await store.delete_folder(output_folder("t1", 1)) == 1
        assert not await store.exists("outputs/t1/1/a")
        assert await store.delete_folder(output_folder("t1")) == 1
        assert await store.delete_folder(output_folder("t1")) == 0
        assert await store.exists("outputs/t11/1/a")
        assert await store.exists("outputs/t1x")

    async def test_a_put_that_breaks_off_leaves_nothing_and_tells_its_own_error(self, store: FileStore) -> None:
        # The error of the stream was wrapped by the library: a client's upload over the limit was a 503.
        async def too_much() -> AsyncIterator[bytes]:
            async for chunk in stream(DATA):
                yield chunk
            raise TooLarge

        with pytest.raises(TooLarge):
            await store.put("a/b", too_much())
        assert not await store.exists("a/b")
        await store.put("a/b", b"old")
        with pytest.raises(TooLarge):
            await store.put("a/b", too_much())
        assert await read(store, "a/b") == b"old"

    async def test_a_put_is_invisible_until_it_is_whole(self, store: FileStore) -> None:
        looks: list[bool] = []

        async def watched() -> AsyncIterator[bytes]:
            async for chunk in stream(DATA, CHUNK):
                looks.append(await store.exists("a/b"))
                yield chunk

        await store.put("a/b", watched())
        assert looks
        assert not any(looks)
        assert await store.exists("a/b")


class TestFolder:
    async def test_a_broken_put_leaves_no_file_behind(self, tmp_path: Path) -> None:
        async def broken() -> AsyncIterator[bytes]:
            async for chunk in stream(DATA):
                yield chunk
            raise TooLarge

        store = open_store(settings_for(1, "x", tmp_path / "files"))
        with pytest.raises(TooLarge):
            await store.put("a/b", broken())
        assert [path for path in (tmp_path / "files").rglob("*") if path.is_file()] == []

    async def test_a_folder_that_takes_no_files_is_unavailable(self, tmp_path: Path) -> None:
        """As a read-only or full one (which root, who may run the tests, would not notice)."""
        store = open_store(settings_for(1, "x", tmp_path / "files"))
        (tmp_path / "files" / "inputs").write_bytes(b"a file where a folder should be")
        with pytest.raises(Unavailable):
            await store.put("inputs/x", b"x")

    async def test_a_name_cannot_leave_the_folder(self, tmp_path: Path) -> None:
        (tmp_path / "secret").write_bytes(b"secret")
        store = open_store(settings_for(1, "x", tmp_path / "files"))
        for key in ("../secret", "a/../../secret", str(tmp_path / "secret"), "inputs/%2e%2e/secret"):
            assert not await exists(store, key), key


async def exists(store: FileStore, key: str) -> bool:
    """Whether the key can be read; a refusal is a no."""
    try:
        return await store.exists(key)
    except (Unavailable, ValueError):
        return False


class TestAway:
    async def test_an_absent_s3_is_unavailable(self, tmp_path: Path) -> None:
        store = open_store(s3_settings(f"http://127.0.0.1:{free_port()}", tmp_path, "absent"))
        with pytest.raises(Unavailable):
            await store.put("a/b", b"x")
        with pytest.raises(Unavailable):
            await store.exists("a/b")
        with pytest.raises(Unavailable):
            await read(store, "a/b")

    async def test_a_bucket_that_is_not_there_is_unavailable(self, s3_server: str, tmp_path: Path) -> None:
        # An upload was answered with "there is no such file".
        store = open_store(s3_settings(s3_server, tmp_path, "no-such-bucket"))
        with pytest.raises(Unavailable, match="bucket"):
            await store.put("a/b", b"x")

    @pytest.mark.parametrize("address", ["", "/var/files", "http://x/y", "s3://", "s3:bucket"])
    def test_an_unknown_address_is_refused(self, tmp_path: Path, address: str) -> None:
        with pytest.raises(ValueError, match="FILE_STORE must be"):
            open_store(settings_for(1, "x", tmp_path, file_store=address))


def test_keys_name_what_they_hold() -> None:
    assert input_key("ab", ".png") == "inputs/ab.png"
    assert (output_folder("t"), output_folder("t", 2)) == ("outputs/t", "outputs/t/2")
