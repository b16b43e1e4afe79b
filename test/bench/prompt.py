"""What the queues are filled with: a graph of 2 KiB."""

import json

from test.cluster import ROOT


def graph() -> bytes:
    """The graph of the first workflow, with a text that makes it 2 KiB."""
    prompt = json.loads((ROOT / "workflows" / "first-workflow-api.json").read_text())
    text = "a lighthouse on a cliff at dusk, volumetric light, 35 mm, film grain, "
    short = len(json.dumps(prompt))
    prompt["note"] = {"class_type": "Note", "inputs": {"text": (text * 30)[: 2048 - short - 60]}}
    return json.dumps(prompt).encode()


PROMPT = graph()
