"""F7: a process is killed in the middle of storing a large output: nothing of it is served, and none of it stays."""

import asyncio
import subprocess
import sys
from pathlib import Path

from comfy_shared.files import open_store, output_folder
from test.cluster import ROOT
from test.support.settings import settings_for

STORE = """
import asyncio, sys
from pathlib import Path
from comfy_shared.files import open_store
from test.support.settings import settings_for

async def endless():
    yield bytes(32 * 1024 * 1024)
    print("half", flush=True)
    await asyncio.Event().wait()

asyncio.run(open_store(settings_for(1, "n", Path(sys.argv[1]))).put("outputs/t/1/video.mp4", endless()))
"""


def test_half_a_file_is_not_served_and_goes_with_its_task(tmp_path: Path) -> None:
    """Broke: the half stayed for ever, because the folder store lists no unfinished uploads."""
    command = [sys.executable, "-c", STORE, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"half\n"
        process.kill()
    assert stored(tmp_path), "half a file is there"
    asyncio.run(render_again(tmp_path))
    assert stored(tmp_path) == ["outputs/t/2/video.mp4"]
    asyncio.run(open_store(settings_for(1, "n", tmp_path)).delete_folder(output_folder("t")))
    assert not (tmp_path / "outputs" / "t").exists()


async def render_again(folder: Path) -> None:
    """What the next attempt does: it stores its own output and discards the one before."""
    store = open_store(settings_for(1, "n", folder))
    assert not await store.exists("outputs/t/1/video.mp4")
    await store.put("outputs/t/2/video.mp4", b"whole")
    await store.delete_folder(output_folder("t", 1))


def stored(folder: Path) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
