"""A job of the Comfy API v2 outlives what comfy-api-proxy loses it with: the process before the ComfyUI, and the
ComfyUI itself. Whoever streams it sees it wait again, and end well."""

import threading
from typing import Any

import httpx
import pytest

from test.cluster import Cluster
from test.integration.v2_support import frames_of
from test.scenario.story import slow_prompt, wait_completed, wait_running


def submit(client: httpx.Client, graph: dict[str, Any]) -> str:
    answer = client.post("/api/v2/jobs", json={"workflow": graph}, headers={"Idempotency-Key": "survives"})
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


class Stream(threading.Thread):
    """Reads a job's stream to its end."""

    def __init__(self, system: Cluster, job_id: str) -> None:
        super().__init__(daemon=True)
        self._system = system
        self._path = f"/api/v2/jobs/{job_id}/events"
        self.text = ""
        self.start()

    def run(self) -> None:
        with self._system.client() as client:
            self.text = client.get(self._path).text

    def statuses(self) -> list[str]:
        self.join(25)
        assert not self.is_alive(), "the stream came to its end"
        frames = frames_of(self.text)
        assert frames[-1][0] == "status"
        return [data["status"] for name, data in frames if name == "status"]


@pytest.mark.parametrize("victim", ["agent", "comfyui"])
def test_a_job_survives_a_death(system: Cluster, victim: str) -> None:
    with system.client() as client:
        job_id = submit(client, slow_prompt(21, steps=40))
        stream = Stream(system, job_id)
        first = wait_running(client, job_id)["agent"].rpartition("-")[2]
        system.processes[f"{victim}-{first}"].kill()
        done = wait_completed(client, job_id)
        assert (done["attempt"], done["agent"]) == (2, f"agent-{3 - int(first)}")
        job = client.get(f"/api/v2/jobs/{job_id}").json()
        assert (job["status"], [item["type"] for item in job["outputs"]]) == ("succeeded", ["image"])
        assert client.get(job["outputs"][0]["url"]).content[:4] == b"\x89PNG"
        assert stream.statuses()[-3:] == ["queued", "running", "succeeded"]
        again = client.post(
            "/api/v2/jobs", json={"workflow": slow_prompt(21, steps=40)}, headers={"Idempotency-Key": "survives"}
        )
        assert (again.status_code, again.json()["error"]["code"]) == (422, "idempotency_key_reuse")
