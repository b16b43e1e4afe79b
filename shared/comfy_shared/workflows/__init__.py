"""Workflows: named templates, read from a folder, rendered with parameters into prompts. No Redis, no asyncio, no HTTP.

One prefix is one workflow: `PREFIX-api.json` (the graph in API format), `PREFIX.json` (the editor's graph, may be
absent) and `PREFIX.yaml`, which names the slots that a caller may set:

    title: Text to image
    parameters:
      text: {node_id: "6", input_name: text, type: text, default_value: "a lighthouse at dusk", max_length: 10000}
      fps:  {targets: [{node_id: "12", input_name: fps}, {node_id: "9", input_name: fps}], type: integer, minimum: 1}

A slot's value is what the caller sends, else its `default_value`, else what the graph holds. `workflows/README.md` has
all keys. Whatever can be wrong with a workflow is found when it is loaded; after that only a caller can be wrong.
`values`: the values; `checks`: the rules; `loading`: the files; `storing`: bytes; `rendering`: prompts; `changes`: what
differs between two.
"""

from comfy_shared.workflows.changes import Change, changes
from comfy_shared.workflows.loading import find_workflows, load_workflow, load_workflows, make_from_request
from comfy_shared.workflows.rendering import FileInput, Rendered, render
from comfy_shared.workflows.schema import json_schema
from comfy_shared.workflows.storing import from_json, to_json
from comfy_shared.workflows.values import (
    OpenAIMapping,
    OpenAIQuality,
    Parameter,
    ParameterError,
    ParameterProblem,
    ParameterType,
    Target,
    Workflow,
    WorkflowError,
)

__all__ = [
    "Change",
    "FileInput",
    "OpenAIMapping",
    "OpenAIQuality",
    "Parameter",
    "ParameterError",
    "ParameterProblem",
    "ParameterType",
    "Rendered",
    "Target",
    "Workflow",
    "WorkflowError",
    "changes",
    "find_workflows",
    "from_json",
    "json_schema",
    "load_workflow",
    "load_workflows",
    "make_from_request",
    "render",
    "to_json",
]
