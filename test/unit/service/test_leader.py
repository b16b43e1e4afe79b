"""One leader per machine and agent id; the next takes over when it goes, however it goes."""

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from comfy_service.leader import Leadership

LEAD = """
import asyncio, sys
from comfy_service.leader import Leadership

async def lead():
    await Leadership(sys.argv[1], "gpu-1").acquire()
    print("leading", flush=True)
    await asyncio.Event().wait()

asyncio.run(lead())
"""


async def waits(acquiring: "asyncio.Task[None]") -> bool:
    """Whether it still waits after the lock thread had every chance to get the lock."""
    done, _ = await asyncio.wait([acquiring], timeout=0.1)
    return not done


async def test_a_second_one_waits_until_the_first_lets_go(tmp_path: Path) -> None:
    first, second = (Leadership(str(tmp_path), "gpu-1") for _ in range(2))
    await first.acquire()
    acquiring = asyncio.create_task(second.acquire())
    assert await waits(acquiring)
    first.release()
    await asyncio.wait_for(acquiring, 5)
    second.release()


async def test_agents_with_different_ids_do_not_wait_for_each_other(tmp_path: Path) -> None:
    leaders = [Leadership(str(tmp_path), name) for name in ("gpu-1", "gpu-2")]
    for leader in leaders:
        await asyncio.wait_for(leader.acquire(), 5)
        leader.release()
        leader.release()  # without the lock it does nothing


async def test_one_that_no_longer_waits_does_not_take_the_lock(tmp_path: Path) -> None:
    """Its thread still stands in the queue of the lock when the worker stops."""
    first, gone, third = (Leadership(str(tmp_path), "gpu-1") for _ in range(3))
    await first.acquire()
    acquiring = asyncio.create_task(gone.acquire())
    assert await waits(acquiring)
    acquiring.cancel()
    await asyncio.wait([acquiring])
    gone.release()
    first.release()
    await asyncio.wait_for(third.acquire(), 5)
    third.release()


async def test_a_folder_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        await Leadership(str(tmp_path / "missing"), "gpu-1").acquire()


async def test_a_leader_killed_by_sigkill_is_succeeded(tmp_path: Path) -> None:
    child = await asyncio.to_thread(
        subprocess.Popen, [sys.executable, "-c", LEAD, str(tmp_path)], stdout=subprocess.PIPE
    )
    try:
        assert child.stdout is not None
        with child.stdout as output:
            assert await asyncio.to_thread(output.readline) == b"leading\n"
        leader = Leadership(str(tmp_path), "gpu-1")
        acquiring = asyncio.create_task(leader.acquire())
        assert await waits(acquiring)
        os.kill(child.pid, signal.SIGKILL)
        await asyncio.wait_for(acquiring, 5)
        leader.release()
    finally:
        child.kill()
        child.wait(10)
