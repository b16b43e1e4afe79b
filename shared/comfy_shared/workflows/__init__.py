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
differs between two; `completing`: the rest of a workflow from object info, with `inferring` and `tracing` for its
parameters and `converting` for its prompt; `soundness`: whether ComfyUI would run all of it; `pictures`: the graphs
inside a picture.
"""

from comfy_shared.workflows.changes import Change, changes
from comfy_shared.workflows.completing import ParameterDraft, WorkflowDraft, complete_workflow
from comfy_shared.workflows.converting import ConversionError, convert
from comfy_shared.workflows.inferring import infer_parameters
from comfy_shared.workflows.loading import find_workflows, load_workflow, load_workflows, make_from_request
from comfy_shared.workflows.pictures import PictureError, read_picture
from comfy_shared.workflows.rendering import FileInput, Rendered, render
from comfy_shared.workflows.schema import json_schema
from comfy_shared.workflows.soundness import check_sound
from comfy_shared.workflows.storing import from_json, to_json
from comfy_shared.workflows.values import (
    NeedsObjectInfo,
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
    "ConversionError",
    "FileInput",
    "NeedsObjectInfo",
    "OpenAIMapping",
    "OpenAIQuality",
    "Parameter",
    "ParameterDraft",
    "ParameterError",
    "ParameterProblem",
    "ParameterType",
    "PictureError",
    "Rendered",
    "Target",
    "Workflow",
    "WorkflowDraft",
    "WorkflowError",
    "changes",
    "check_sound",
    "complete_workflow",
    "convert",
    "find_workflows",
    "from_json",
    "infer_parameters",
    "json_schema",
    "load_workflow",
    "load_workflows",
    "make_from_request",
    "read_picture",
    "render",
    "to_json",
]
