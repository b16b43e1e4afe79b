"""Tasks in ComfyUI's shapes: items of the queue, entries of the history, messages of the socket, jobs. Pure.

A file that a task made is named as its instance named it; its subfolder begins with the task's id, so that the name
leads to the task wherever the file was made, and two agents may both have written `lab_00001_.png`.
"""

from collections.abc import Mapping
from typing import Any

from comfy_balancer.comfyui_api.ids import prompt_id_of
from comfy_shared.models import Output, Prompt, Shown, Status, Task, decode

JOB_STATUS = {
    Status.PENDING: "pending",
    Status.RUNNING: "in_progress",
    Status.COMPLETED: "completed",
    Status.FAILED: "failed",
    Status.CANCELED: "cancelled",
}
Message = dict[str, Any]


def client_prompt(task: Task) -> Prompt:
    """The graph with the file names that the client wrote. Raises Damaged."""
    prompt = decode(task.prompt, Prompt)
    for node_id, names in task.extra.names.items():
        if node_id in prompt:
            node = prompt[node_id]
            prompt[node_id] = {**node, "inputs": {**node.get("inputs", {}), **names}}
    return prompt


def queue_item(task: Task) -> list[Any]:
    """[number, prompt id, prompt, extra data, outputs to execute]. Raises Damaged."""
    extra = task.extra
    data = dict(extra.data)
    if extra.client_id is not None:
        data["client_id"] = extra.client_id
    number = task.created_at if extra.number is None else extra.number
    return [number, prompt_id_of(task.id), client_prompt(task), data, list(extra.targets)]


def history_entry(task: Task) -> dict[str, Any]:
    """What GET /history says of an ended task. Raises Damaged."""
    shown = shown_of(task)
    completed = task.status is Status.COMPLETED
    return {
        "prompt": queue_item(task),
        "outputs": named_outputs(task.id, shown.outputs),
        "status": {
            "status_str": "success" if completed else "error",
            "completed": completed,
            "messages": [[message["type"], message["data"]] for message in _story(task, shown)],
        },
        "meta": shown.meta,
    }


def _story(task: Task, shown: Shown) -> list[Message]:
    prompt_id = prompt_id_of(task.id)
    return [
        start(prompt_id, task.started_at or task.created_at),
        cached(prompt_id, shown.cached, task.started_at or task.created_at),
        ending(task),
    ]


def shown_of(task: Task) -> Shown:
    """What the instance's history said; without it, what the outputs tell. Raises Damaged."""
    known = task.shown
    if known is not None:
        return known
    outputs: dict[str, dict[str, list[Any]]] = {}
    for output in task.outputs:
        kinds = outputs.setdefault(output.node, {})
        kinds.setdefault(output.kind, []).append(_reference(output))
    meta = {
        node: {"node_id": node, "display_node": node, "parent_node": None, "real_node_id": node} for node in outputs
    }
    return Shown(outputs=outputs, meta=meta)


def _reference(output: Output) -> dict[str, str]:
    kind = "temp" if output.temporary else "output"
    return {"filename": output.filename or output.name, "subfolder": output.subfolder, "type": kind}


def named_outputs(task_id: str, outputs: Mapping[str, Any]) -> dict[str, Any]:
    """The outputs with file names that /view takes."""
    return {
        node: {
            kind: [_named(task_id, item) for item in items] if isinstance(items, list) else items
            for kind, items in shown.items()
        }
        if isinstance(shown, dict)
        else shown
        for node, shown in outputs.items()
    }


def _named(task_id: str, item: Any) -> Any:
    if not isinstance(item, dict) or not isinstance(item.get("filename"), str):
        return item
    kept = {key: value for key, value in item.items() if key != "fullpath"}  # a server's own path
    inner = str(item.get("subfolder") or "")
    return {**kept, "subfolder": f"{task_id}/{inner}" if inner else task_id}


def find_output(task: Task, filename: str, inner: str, kind: str) -> Output | None:
    """The output that a client's file name means; `inner` is the subfolder after the task's id."""
    for output in task.outputs:
        place = _reference(output)
        if (place["filename"], place["subfolder"], place["type"]) == (filename, inner, kind):
            return output
    return None


# Messages of the socket.


def message(kind: str, **data: Any) -> Message:
    return {"type": kind, "data": data}


def status(remaining: int, sid: str | None = None) -> Message:
    data: dict[str, Any] = {"status": {"exec_info": {"queue_remaining": remaining}}}
    return {"type": "status", "data": data if sid is None else {**data, "sid": sid}}


def start(prompt_id: str, at: int) -> Message:
    return message("execution_start", prompt_id=prompt_id, timestamp=at)


def cached(prompt_id: str, nodes: tuple[str, ...], at: int) -> Message:
    return message("execution_cached", nodes=list(nodes), prompt_id=prompt_id, timestamp=at)


def executed(task: Task, shown: Shown) -> list[Message]:
    """What each node with something to show made."""
    prompt_id = prompt_id_of(task.id)
    found = []
    for node, output in named_outputs(task.id, shown.outputs).items():
        meta = shown.meta.get(node)
        display = meta.get("display_node", node) if isinstance(meta, dict) else node
        found.append(message("executed", node=node, display_node=display, output=output, prompt_id=prompt_id))
    return found


def over(prompt_id: str) -> Message:
    """Follows every ending."""
    return message("executing", node=None, prompt_id=prompt_id)


def ending(task: Task) -> Message:
    """How an ended task ended."""
    prompt_id, at = prompt_id_of(task.id), task.finished_at
    if task.status is Status.COMPLETED:
        return message("execution_success", prompt_id=prompt_id, timestamp=at)
    if task.status is Status.CANCELED:
        progress = task.progress
        return message(
            "execution_interrupted",
            prompt_id=prompt_id,
            node_id=(progress.node if progress else None) or "",
            node_type=(progress.node_class if progress else None) or "",
            executed=[],
            timestamp=at,
        )
    return message("execution_error", **execution_error(task), timestamp=at)


def execution_error(task: Task) -> dict[str, Any]:
    """Why a task failed. No traceback and no values: they carry server paths and whole tensors."""
    error, progress = task.error, task.progress
    details = error.details if error else {}
    node = (error.node if error else None) or (progress.node if progress else None) or ""
    node_class = (error.node_class if error else None) or (progress.node_class if progress else None) or ""
    text = details.get("text") or (error.message if error else "The task failed.")
    return {
        "prompt_id": prompt_id_of(task.id),
        "node_id": node,
        "node_type": node_class,
        "executed": details.get("executed", []),
        "exception_message": text,
        "exception_type": str(details.get("exception") or (error.code if error else "failed")),
        "traceback": [],
        "current_inputs": {},
        "current_outputs": list(decode(task.prompt, Prompt)),
    }


def job(task: Task, *, whole: bool = False) -> dict[str, Any]:
    """A task as newer ComfyUI lists it; `whole` adds outputs and the graph. Raises Damaged."""
    shown = shown_of(task)
    outputs = named_outputs(task.id, shown.outputs)
    files = [
        {**item, "nodeId": node, "mediaType": kind}
        for node, kinds in outputs.items()
        if isinstance(kinds, dict)
        for kind, items in kinds.items()
        for item in (items if isinstance(items, list) else ())
        if isinstance(item, dict) and "filename" in item
    ]
    workflow = task.extra.data.get("extra_pnginfo", {}).get("workflow", {})
    found = {
        "id": prompt_id_of(task.id),
        "status": JOB_STATUS[task.status],
        "priority": task.created_at if task.extra.number is None else task.extra.number,
        "create_time": task.created_at,
        "execution_start_time": task.started_at or None,
        "execution_end_time": task.finished_at or None,
        "execution_error": execution_error(task) if task.status is Status.FAILED else None,
        "outputs_count": len(files),
        "preview_output": files[-1] if files else None,
        "workflow_id": workflow.get("id") if isinstance(workflow, dict) else None,
    }
    if whole:
        entry = history_entry(task) if task.status.final else None
        found["outputs"] = outputs
        found["execution_status"] = entry["status"] if entry else None
        found["workflow"] = {"prompt": client_prompt(task), "extra_data": queue_item(task)[3]}
    return {key: value for key, value in found.items() if value is not None}
