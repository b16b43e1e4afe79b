"""A workflow as bytes, for keeping it in Redis, and its digest."""

import hashlib
from typing import Any

import msgspec

from comfy_shared.workflows.checks import Flaw, check_workflow
from comfy_shared.workflows.values import Graph, OpenAIMapping, Parameter, Workflow, WorkflowError

_decoder = msgspec.json.Decoder(Workflow)


def make_workflow(
    *,
    name: str,
    title: str,
    description: str,
    prompt: Graph,
    editor: dict[str, Any] | None,
    parameters: tuple[Parameter, ...],
    openai: OpenAIMapping | None = None,
) -> Workflow:
    """A checked workflow, with its digest.

    Raises:
        Flaw: it contradicts itself, or holds what JSON cannot carry.
    """
    check_workflow(prompt, parameters)
    _check_mapping(openai, parameters)
    workflow = Workflow(
        name=name,
        title=title,
        description=description,
        prompt=prompt,
        editor=editor,
        parameters=parameters,
        digest="",
        openai=openai,
    )
    try:
        workflow = msgspec.structs.replace(workflow, digest=_digest(workflow))
        if from_json(to_json(workflow)) == workflow:
            return workflow
    except (WorkflowError, ValueError, TypeError, OverflowError, RecursionError) as error:
        raise Flaw("a value cannot be kept as JSON (too large, or a broken character)") from error
    raise Flaw("a value does not survive being kept as JSON (too large)")


def _check_mapping(openai: OpenAIMapping | None, parameters: tuple[Parameter, ...]) -> None:
    known = {parameter.name for parameter in parameters}
    for name in openai.named() if openai else ():
        if name not in known:
            raise Flaw(f"openai names the parameter {name!r}, which there is not")


def to_json(workflow: Workflow) -> bytes:
    """Bytes from which `from_json` makes the same workflow."""
    return msgspec.json.encode(workflow)


def from_json(data: bytes) -> Workflow:
    """The workflow that `to_json` was given.

    Raises:
        WorkflowError: the bytes are damaged, or hold a workflow that could not have been loaded.
    """
    try:
        workflow = _decoder.decode(data)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise WorkflowError(f"the stored bytes are damaged: {type(error).__name__}", workflow="") from error
    if _digest(workflow) != workflow.digest:
        raise WorkflowError("the stored bytes are damaged: another digest", workflow=workflow.name)
    try:
        check_workflow(workflow.prompt, workflow.parameters)
    except Flaw as flaw:
        raise WorkflowError(str(flaw), workflow=workflow.name) from flaw
    return workflow


def _digest(workflow: Workflow) -> str:
    content = msgspec.to_builtins(msgspec.structs.replace(workflow, digest=""))
    return hashlib.sha256(msgspec.json.encode(content, order="sorted")).hexdigest()
