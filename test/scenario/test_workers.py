"""Several uvicorn workers of one agent serve its routes; only one of them runs the agent, and another takes over."""

import os
import signal
import sys
from pathlib import Path

import httpx

from test.cluster import Cluster, Process, wait_until
from test.scenario.story import runs, slow_prompt, submit, wait_completed


def claims(process: Process) -> int:
    return process.log.read_text().count("Agent registered")


def lock_holder(file: Path) -> int:
    """The process that has the file locked, as the kernel lists it; waiting ones stand behind an arrow."""
    inode = file.stat().st_ino
    for line in Path("/proc/locks").read_text().splitlines():
        fields = line.split()
        if "->" not in fields and fields[5].endswith(f":{inode}"):
            return int(fields[4])
    raise AssertionError("nobody has the lock")


def test_three_workers_run_one_agent_loop(system: Cluster) -> None:
    system.processes["agent-2"].stop()
    single = system.processes["agent-1"]
    single.stop()
    environment = single.environment
    many = Process("agent-many", [sys.executable, "-m", "comfy_service", "--workers", "3"], environment, system.folder)
    system.processes["agent-many"] = many
    many.start()
    with system.client() as client:
        ids = [submit(client, slow_prompt(color, steps=2)) for color in range(8)]
        for task_id in ids:
            assert wait_completed(client, task_id)["attempt"] == 1
        assert claims(many) == 1
        assert len(runs(system, 1)) == len(ids)
        url = f"{system.agent_url(1)}/task"
        answers = {httpx.get(url, auth=system.auth, trust_env=False).status_code for _ in range(9)}
        assert answers == {200}, "every worker answers"
        os.kill(lock_holder(system.folder / "comfy-agent-agent-1.lock"), signal.SIGKILL)
        wait_until(lambda: claims(many) == 2, "another worker took over", 10)
        assert wait_completed(client, submit(client, slow_prompt(99, steps=2)))["agent"] == "agent-1"
