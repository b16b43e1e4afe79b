"""What one turn of the event loop writes goes out together."""

import asyncio
from typing import cast

from comfy_balancer.corking import Corked


class Wire:
    """A transport that keeps what it is given."""

    def __init__(self) -> None:
        self.writes: list[bytes] = []
        self.closed = False

    def write(self, data: bytes) -> None:
        self.writes.append(data)

    def close(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed


def corked() -> tuple[Corked, Wire]:
    wire = Wire()
    return Corked(cast("asyncio.Transport", wire), asyncio.get_running_loop()), wire


async def test_one_turn_is_one_write() -> None:
    transport, wire = corked()
    transport.write(b"head")
    transport.write(b"body")
    assert wire.writes == []
    await asyncio.sleep(0)
    transport.write(b"next")
    await asyncio.sleep(0)
    assert wire.writes == [b"headbody", b"next"]


async def test_closing_writes_first() -> None:
    transport, wire = corked()
    transport.write(b"refused")
    transport.close()
    assert (wire.writes, wire.closed) == ([b"refused"], True)
    await asyncio.sleep(0)
    assert wire.writes == [b"refused"]


async def test_nothing_is_written_to_a_connection_that_broke() -> None:
    transport, wire = corked()
    transport.write(b"answer")
    wire.closed = True
    await asyncio.sleep(0)
    assert wire.writes == []


async def test_the_rest_is_the_transports_own() -> None:
    transport, wire = corked()
    assert not transport.is_closing()
    wire.closed = True
    assert transport.is_closing()
