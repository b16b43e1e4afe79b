"""The simulator as a process: its one line, its options, how it ends."""

import asyncio
import json
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from test.contract.comfy import Comfy
from test.simulator import Faults
from test.simulator.__main__ import parse


@asynccontextmanager
async def process(*options: str) -> AsyncIterator[tuple[asyncio.subprocess.Process, str]]:
    """A simulator process and its URL."""
    command = [sys.executable, "-m", "test.simulator", *options]
    running = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    assert running.stdout is not None
    try:
        yield running, json.loads(await running.stdout.readline())["url"]
    finally:
        if running.returncode is None:
            running.kill()
        await running.wait()


def test_every_option_reaches_the_simulator(tmp_path: Path) -> None:
    arguments = ["--port", "8189", "--base-directory", str(tmp_path), "--load-seconds", "2", "--vram-gib", "8"]
    arguments += ["--checkpoint", "a.safetensors", "--checkpoint", "b.safetensors", "--missing-class", "KSampler"]
    arguments += ["--fault", "hang=true", "--fault", "crash=start", "--preview-method", "auto"]
    options = parse(arguments)
    assert (options.port, options.base_directory, options.load_seconds, options.vram_gib) == (8189, tmp_path, 2.0, 8.0)
    assert options.checkpoints == ("a.safetensors", "b.safetensors")
    assert options.loras == ("style.safetensors",)
    assert options.missing_classes == ("KSampler",)
    assert options.faults == Faults(hang=True, crash="start")
    assert options.preview_method == "auto"


def test_an_unknown_fault_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(["--fault", "nosuch=1"])
    assert "unknown faults: nosuch" in capsys.readouterr().err


async def test_it_ends_in_order_at_a_signal(tmp_path: Path) -> None:
    async with process("--base-directory", str(tmp_path)) as (running, url), aiohttp.ClientSession() as session:
        comfyui = Comfy(url, session, simulated=True)
        await comfyui.entry(await comfyui.submit(comfyui.picture()))
        assert str(tmp_path) in (await comfyui.get("/system_stats")).json["system"]["argv"]
        running.send_signal(signal.SIGTERM)
        assert await running.wait() == 0
    assert (tmp_path / "output" / f"{comfyui.prefix}_00001_.png").exists()


async def test_a_crash_ends_the_process_as_a_kill_would(tmp_path: Path) -> None:
    place = ["--base-directory", str(tmp_path)]
    async with process("--fault", "crash=start", *place) as (running, url), aiohttp.ClientSession() as session:
        comfyui = Comfy(url, session, simulated=True)
        await comfyui.submit(comfyui.picture())
        assert await running.wait() == 137
