"""The client of an instance on real connections that end in every way there is."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest

from comfy_service.instance.client import Instance
from comfy_shared.errors import InstanceLost
from test.cluster import free_port

FILE = {"filename": "a.png", "subfolder": "", "type": "output"}


@asynccontextmanager
async def answering(answer: bytes, *, silent: bool = False) -> AsyncIterator[Instance]:
    """An instance that answers each request with these bytes, and then closes the connection, or says no more."""

    handlers: set[asyncio.Task[None] | None] = set()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        handlers.add(asyncio.current_task())
        with suppress(ConnectionError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(answer)
            await writer.drain()
            if silent:
                await reader.read()  # until the client goes
            writer.close()
            await writer.wait_closed()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    instance = Instance([f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"], patience=0.2)
    try:
        yield instance
    finally:
        await instance.close()
        server.close()
        await asyncio.wait([handler for handler in handlers if handler])


async def pieces_of(instance: Instance) -> list[bytes]:
    async with instance.view(FILE) as chunks:
        return [piece async for piece in chunks]


HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
BROKEN = [
    pytest.param(b"", False, id="closed at once"),
    pytest.param(b"", True, id="silent"),
    pytest.param(b"nonsense\r\n\r\n", False, id="no HTTP"),
    pytest.param(HEAD + b"Content-Length: 9\r\n\r\n{", False, id="cut in the body"),
    pytest.param(HEAD + b"Content-Length: 9\r\n\r\n{", True, id="silent in the body"),
    pytest.param(HEAD + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\nzz\r\n", False, id="a broken chunk"),
    pytest.param(HEAD + b"Content-Encoding: gzip\r\nContent-Length: 4\r\n\r\nabcd", False, id="no gzip"),
]


@pytest.mark.parametrize(("answer", "silent"), BROKEN)
async def test_an_answer_that_does_not_come_whole_is_a_lost_instance(answer: bytes, silent: bool) -> None:
    async with answering(answer, silent=silent) as instance:
        with pytest.raises(InstanceLost):
            await instance.history("p1")


@pytest.mark.parametrize(("answer", "silent"), BROKEN)
async def test_an_output_that_does_not_come_whole_is_a_lost_instance(answer: bytes, silent: bool) -> None:
    async with answering(answer, silent=silent) as instance:
        with pytest.raises(InstanceLost):
            await pieces_of(instance)


async def test_nobody_there_is_a_lost_instance() -> None:
    instance = Instance([f"http://127.0.0.1:{free_port()}"], patience=0.2)
    with pytest.raises(InstanceLost, match="does not answer GET /queue"):
        await instance.queue()
    await instance.close()


async def test_a_large_output_comes_in_pieces_and_whole() -> None:
    data = bytes(range(256)) * 20_000
    async with answering(HEAD + f"Content-Length: {len(data)}\r\n\r\n".encode() + data) as instance:
        pieces = await pieces_of(instance)
    assert b"".join(pieces) == data
    assert 1 < len(pieces) < 10
