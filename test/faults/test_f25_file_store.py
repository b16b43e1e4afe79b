"""F25: the file store is full or not writable: the task says why, and nothing half-written is served."""

import resource
import time
from pathlib import Path

from test.cluster import ROOT, wait_until
from test.faults.conftest import Start, slow
from test.faults.oracle import files_folder, stored_files
from test.scenario.story import runs, slow_prompt

SLOW = """import asyncio
import comfy_shared.files as files
_put = files.FileStore.put

async def put(self, *arguments, **options):
    await asyncio.sleep(3)
    return await _put(self, *arguments, **options)

files.FileStore.put = put
"""
ROOM = 200_000  # bytes that a process may write into one file: beyond it a write fails in the middle


def heavy_prompt(color: int) -> dict[str, object]:
    """Its picture carries the prompt, and so more bytes than there is room for."""
    prompt = slow_prompt(color, steps=2)
    prompt["1"]["_meta"] = {"title": "x" * 2 * ROOM}
    return prompt


def test_a_full_store_moves_the_task_to_an_agent_that_can_write(start: Start) -> None:
    oracle = start(agents=2)
    with oracle.client() as client:
        task_id = oracle.submit(client, heavy_prompt(1))
        oracle.wait_event(task_id, "claimed")
        full = oracle.holder(task_id)
        pid = oracle.system.processes[f"agent-{full}"].pid
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (ROOM, resource.RLIM_INFINITY))
        oracle.wait_event(task_id, "retrying")
        task = oracle.record(task_id)
        assert task is not None
        assert task.error is not None
        assert task.error.code == "file_store"
        oracle.wait_final(task_id)
        assert oracle.holder(task_id) == 3 - full
        assert client.get(client.get(f"/api/v1/tasks/{task_id}").json()["outputs"][0]["url"]).status_code == 200
    oracle.conclude("F25", "file store full for 1 of 2 agents")


@slow
def test_a_store_that_nobody_can_write_fails_the_task_with_the_reason(start: Start) -> None:
    oracle = start(agents=1)
    with oracle.client() as client:
        outputs = files_folder(oracle.system) / "outputs"
        outputs.write_text("a file where the folder should be")
        task_id = oracle.submit(client, slow_prompt(1, steps=2), "failed", max_attempts=1)
        oracle.wait_final(task_id)
        view = client.get(f"/api/v1/tasks/{task_id}").json()
        assert view["error"]["code"] == "file_store"
        assert view["outputs"] == []
        outputs.unlink()
        oracle.wait_final(oracle.submit(client, slow_prompt(2, steps=2)))
        assert len(stored_files(oracle.system)) == 1
    oracle.conclude("F25", "file store not writable, then again")


@slow
def test_a_store_that_recovers_in_time_costs_no_attempt(start: Start) -> None:
    oracle = start(agents=1)
    with oracle.client() as client:
        outputs = files_folder(oracle.system) / "outputs"
        outputs.write_text("a file where the folder should be")
        task_id = oracle.submit(client, slow_prompt(1, steps=2))
        wait_until(lambda: runs(oracle.system, 1), "the prompt ended")
        outputs.unlink()
        oracle.wait_final(task_id)
        assert oracle.attempt(task_id) == 1
    oracle.conclude("F25", "file store not writable for a moment")


@slow
def test_a_slow_store_keeps_no_gpu_waiting(start: Start, tmp_path: Path) -> None:
    folder = tmp_path / "slow"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(SLOW)  # Python imports it at its start
    oracle = start(agents=1, own={"agent-1": {"PYTHONPATH": f"{folder}:{ROOT}"}})
    with oracle.client() as client:
        at = time.monotonic()
        ids = [oracle.submit(client, slow_prompt(color, steps=2)) for color in range(4)]
        wait_until(lambda: len(runs(oracle.system, 1)) == len(ids), "the GPU has run them all", 10)
        assert {oracle.status(task_id) for task_id in ids} == {"running"}, "their outputs are on their way"
        oracle.wait_final()
        assert time.monotonic() - at < 10, "the outputs were stored beside each other"
    oracle.conclude("F25", "file store slow: 3 s a file")
