"""Workflows as tools, and a tool's call as a task.

A wrong call is a result that says so, not an error of the protocol: a model reads it and tries again. Files are taken
in base64, or by the sha256 of an earlier upload.
"""

import asyncio
import base64
import binascii
import io
from dataclasses import replace
from typing import Any, cast

import mcp_types as types
import structlog
from mcp.server import ServerRequestContext
from starlette.datastructures import UploadFile
from starlette.requests import Request

from comfy_balancer.checks import SHA256
from comfy_balancer.dependencies import Resources
from comfy_balancer.mcp_api.results import content_of, text
from comfy_balancer.schemas import TaskRequest
from comfy_balancer.uploads import Upload, known_upload
from comfy_balancer.wanted import wanted
from comfy_shared.callers import Caller
from comfy_shared.errors import ComfyError, InvalidTask, NotFound
from comfy_shared.http.problems import invalid
from comfy_shared.models import Event, EventType, Status, Task
from comfy_shared.workflows import Workflow, json_schema

PAGE = 200  # tools of one answer
FILE_HINT = "Base64 of the file (a data: URL too), or the sha256 of an upload."

Context = ServerRequestContext[Any, Any]

log = structlog.get_logger(__name__)


def _asked(context: Context) -> tuple[Resources, Caller, Request]:
    request = cast("Request", context.request)
    return request.state.resources, request.state.caller, request


async def list_tools(context: Context, params: types.PaginatedRequestParams | None) -> types.ListToolsResult:
    """All workflows, by name."""
    here, _, _ = _asked(context)
    after = (params.cursor if params else None) or ""
    workflows = [workflow for workflow in await here.catalog.all() if workflow.name > after]
    page = workflows[:PAGE]
    more = page[-1].name if len(workflows) > PAGE else None
    return types.ListToolsResult(tools=[tool_of(workflow) for workflow in page], next_cursor=more)


def tool_of(workflow: Workflow) -> types.Tool:
    """A workflow as a tool."""
    schema = json_schema(workflow)
    for parameter in workflow.parameters:
        if parameter.type.is_file:
            entry = schema["properties"][parameter.name]
            entry["description"] = " ".join(filter(None, (entry.get("description"), FILE_HINT)))
    return types.Tool(
        name=workflow.name,
        title=workflow.title,
        description=workflow.description or workflow.title,
        input_schema=schema,
        annotations=types.ToolAnnotations(destructive_hint=False, open_world_hint=False),
    )


async def call_tool(context: Context, params: types.CallToolRequestParams) -> types.CallToolResult:
    """Renders, telling the progress, and answers with what was made."""
    here, who, request = _asked(context)
    try:
        task = await _submit(here, who, params.name, params.arguments or {})
        async with wanted(here.service, who, [task]), asyncio.timeout(here.settings.mcp_seconds):
            task = await _follow(context, here, task)
        if task.status is not Status.COMPLETED:
            return _wrong(_reason(task))
        return types.CallToolResult(content=await content_of(here, request, task))
    except InvalidTask as error:
        return _wrong("; ".join(_told(problem) for problem in error.problems))
    except ComfyError as error:
        log.info("A tool's call was refused", action="mcp.refused", tool=params.name[:64], reason=error.message)
        return _wrong(error.message)
    except TimeoutError:
        return _wrong(f"It was not ready within {here.settings.mcp_seconds:g} s; the task was canceled.")


def _wrong(message: str) -> types.CallToolResult:
    return types.CallToolResult(content=[text(message)], is_error=True)


def _told(problem: Any) -> str:
    near = f" (did you mean {', '.join(problem.nearest)}?)" if problem.nearest else ""
    return f"{problem.field.removeprefix('parameters.')}: {problem.message}{near}"


def _reason(task: Task) -> str:
    if task.error is None:
        return f"The task is {task.status.value}."
    where = f" (node {task.error.node}, {task.error.node_class})" if task.error.node else ""
    return f"The task failed: {task.error.message}{where}"


async def _submit(here: Resources, who: Caller, name: str, arguments: dict[str, Any]) -> Task:
    try:
        workflow = await here.catalog.get(name)
    except NotFound:
        raise invalid("name", f"there is no tool {name[:64]!r}", nearest=await here.catalog.nearest(name)) from None
    parameters = dict(arguments)
    uploads = []
    for parameter in workflow.parameters:
        value = parameters.get(parameter.name)
        if parameter.type.is_file and isinstance(value, str) and not SHA256.fullmatch(value):
            del parameters[parameter.name]
            uploads.append(await _file(parameter.name, value, here))
    call = TaskRequest(workflow=workflow.name, parameters=parameters)
    return (await here.service.submit(call, who, uploads=uploads)).tasks[0]


async def _file(name: str, value: str, here: Resources) -> Upload:
    encoded = value.partition(",")[2] if value.startswith("data:") else value
    try:
        data = await asyncio.to_thread(base64.b64decode, encoded.encode("ascii"), None, True)
    except (binascii.Error, ValueError):
        raise invalid(name, FILE_HINT) from None
    upload = await known_upload(name, UploadFile(io.BytesIO(data), filename=name), here.settings)
    return replace(upload, field=name)


async def _follow(context: Context, here: Resources, task: Task) -> Task:
    """The task when it has ended; its story goes to the client as progress, which never goes back."""
    furthest = -1.0
    async for event in here.service.follow(task.id, 0):
        fraction = _fraction(event)
        if fraction is not None and fraction > furthest:
            furthest = fraction
            await context.session.report_progress(fraction, 1.0, _message(event))
    return await here.service.queue.get(task.id)


def _fraction(event: Event) -> float | None:
    if event.type in (EventType.QUEUED, EventType.CLAIMED):
        return 0.0
    if event.type is EventType.COMPLETED:
        return 1.0
    found = event.data.get("fraction")
    return float(found) if event.type is EventType.PROGRESS and isinstance(found, int | float) else None


def _message(event: Event) -> str:
    node = event.data.get("node_class") or event.data.get("node")
    return f"{event.type.value}: {node}" if node else event.type.value
