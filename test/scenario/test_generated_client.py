"""The live document is valid, and a client generated from it runs a workflow by typed arguments."""

import json
import subprocess
import sys
from pathlib import Path

from openapi_spec_validator import OpenAPIV31SpecValidator

from test.cluster import Cluster

PROGRAM = """
import json, sys
from generated import Client
from generated.api.run_a_workflow import run_first_workflow as route
from generated.models import RunFirstWorkflow
from generated.models import RunFirstWorkflowSamplerType0 as Sampler

login = {"auth": (sys.argv[2], sys.argv[3]), "trust_env": False}
client = Client(base_url=sys.argv[1], timeout=60, httpx_args=login)
body = RunFirstWorkflow(text="a boat", steps=2, width=64, height=64, sampler=Sampler.HEUN)
done = route.sync_detailed(client=client, body=body, wait=60)
refused = route.sync_detailed(client=client, body=RunFirstWorkflow(steps=151))
told = {"status": done.status_code, "task": done.parsed.to_dict()}
print(json.dumps(told | {"refused": refused.status_code, "problem": refused.parsed.to_dict()}))
"""


def test_a_generated_client_runs_first_workflow(system: Cluster, tmp_path: Path) -> None:
    with system.client() as client:
        document = client.get("/openapi.json").json()
    assert [error.message for error in OpenAPIV31SpecValidator(document).iter_errors()] == []
    (tmp_path / "openapi.json").write_text(json.dumps(document))
    generate = ["generate", "--path", "openapi.json", "--output-path", "generated", "--meta", "none"]
    command = [sys.executable, "-m", "openapi_python_client", *generate]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, timeout=60)
    run = [sys.executable, "-c", PROGRAM, system.url, *system.auth]
    ended = subprocess.run(run, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0, ended.stderr
    told = json.loads(ended.stdout)
    assert (told["status"], told["task"]["status"], told["task"]["workflow_version"]) == (200, "completed", 1)
    assert {name: told["task"]["parameters"][name] for name in ("text", "steps", "sampler")} == {
        "text": "a boat",
        "steps": 2,
        "sampler": "heun",
    }
    (error,) = told["problem"]["errors"]
    assert told["refused"] == 422
    assert (error["workflow"], error["parameter"], error["node"]) == ("first-workflow", "steps", "3")
    assert error["limits"]["maximum"] == 150
