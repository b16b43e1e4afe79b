"""Values for tests: whole and valid, each field changeable by name."""

import itertools
from typing import Any

import msgspec

from comfy_shared.models import Needs, NewTask, Output, TaskError
from comfy_shared.needs import lane_of
from comfy_shared.registry import AgentRecord

_numbers = itertools.count(1)

PROMPT = {
    "4": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "a.safetensors"}},
    "9": {"class_type": "SaveImage", "inputs": {"images": ["4", 0]}},
}
NEEDS_A = Needs(
    classes=("CheckpointLoaderSimple", "SaveImage"),
    choices=(("CheckpointLoaderSimple", "ckpt_name", "a.safetensors"),),
)
NEEDS_B = Needs(
    classes=("CheckpointLoaderSimple", "SaveImage"),
    choices=(("CheckpointLoaderSimple", "ckpt_name", "b.safetensors"),),
)


def new_task(needs: Needs = NEEDS_A, **changes: Any) -> NewTask:
    """A task that nobody else made."""
    values: dict[str, Any] = {
        "id": f"task-{next(_numbers):06}",
        "owner": "ann",
        "prompt": msgspec.json.encode(PROMPT),
        "needs": needs,
        "lane": lane_of(needs),
        "timeout": 600.0,
    }
    return NewTask(**(values | changes))


def output(name: str = "picture.png", **changes: Any) -> Output:
    """One stored picture."""
    values: dict[str, Any] = {
        "name": name,
        "node": "9",
        "kind": "images",
        "content_type": "image/png",
        "size": 3,
        "sha256": "0" * 64,
        "key": f"outputs/x/1/{name}",
    }
    return Output(**(values | changes))


def agent_record(agent_id: str, **changes: Any) -> AgentRecord:
    """An agent that is ready."""
    values: dict[str, Any] = {"id": agent_id, "address": f"http://{agent_id}:8190", "state": "ready"}
    return AgentRecord(**(values | changes))


def problem(code: str = "out_of_memory", **changes: Any) -> TaskError:
    """Why an attempt ended badly."""
    return TaskError(**({"code": code, "message": "It went wrong."} | changes))
