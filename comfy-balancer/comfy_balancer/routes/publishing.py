"""Publish, activate, try and delete workflows: for the role admin."""

import asyncio
from typing import Annotated, Any

import msgspec
import structlog
from fastapi import APIRouter, Query, Request, Response
from starlette.datastructures import FormData, UploadFile

from comfy_balancer.authoring import author
from comfy_balancer.decoding import decode_body
from comfy_balancer.dependencies import Admin, Here, Json, Resources
from comfy_balancer.openapi import answer, body
from comfy_balancer.routes.workflows import Number
from comfy_balancer.settings import BalancerSettings
from comfy_balancer.uploads import open_form
from comfy_balancer.workflow_schemas import (
    GRAPH,
    PARAMETERS,
    CanaryRequest,
    PublishedView,
    WorkflowRequest,
    WorkflowView,
)
from comfy_balancer.workflow_views import workflow_url, workflow_view
from comfy_shared.errors import TooLarge
from comfy_shared.http.problems import invalid
from comfy_shared.needs import nearest

router = APIRouter(prefix="/workflows", tags=["Workflows"])
log = structlog.get_logger(__name__)

FORM: dict[str, Any] = {
    "type": "object",
    "required": ["name", "graph"],
    "properties": {
        "name": {"type": "string", "description": "Its name.", "example": "portrait"},
        "graph": {"type": "string", "format": "binary", "description": "The graph: a JSON file of either format."},
        "parameters": {"type": "string", "description": "The text of a parameter file (YAML), or the file itself."},
        "title": {"type": "string"},
        "description": {"type": "string"},
        "note": {"type": "string", "description": "What is new in this version."},
        "activate": {"type": "boolean", "default": True},
    },
    "additionalProperties": False,
}
EXAMPLE = {"name": "portrait", "graph": GRAPH, "parameters": PARAMETERS, "note": "first"}


@router.post(
    "",
    status_code=201,
    summary="Publish a workflow",
    responses=answer(201, PublishedView, "A new version.")
    | answer(200, PublishedView, "A version with this very content was there; it is the active one now."),
    response_class=Json,
    openapi_extra=body(WorkflowRequest, examples={"portrait": EXAMPLE}, form=FORM),
)
async def publish(request: Request, here: Here, who: Admin) -> Response:
    """Creates a workflow, or the next version of one that exists. Content that a version has already makes no new
    one. `warnings` tell why no agent could run it now."""
    asked = await _read(request, here.settings)
    members = await here.fleet.members()
    workflow, warnings = await asyncio.to_thread(author, asked, members, node_limit=here.settings.node_limit)
    done = await here.catalog.versions.publish(workflow, author=who.owner, note=asked.note, activate=asked.activate)
    here.catalog.forget()
    log.info(
        "Workflow published",
        action=f"workflow.{done.outcome}",
        workflow=workflow.name,
        version=done.number,
        owner=who.owner,
    )
    standing = await here.catalog.standing(workflow.name)
    view = PublishedView(
        outcome=done.outcome,
        version=done.number,
        workflow=workflow_view(workflow, done.number, standing, warnings=warnings),
    )
    headers = {"Location": f"{workflow_url(workflow.name)}/versions/{done.number}"}
    return Json(view, 201 if done.outcome == "published" else 200, headers=headers)


async def _read(request: Request, settings: BalancerSettings) -> WorkflowRequest:
    if not request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
        return decode_body(await request.body(), WorkflowRequest, values_limit=settings.values_limit)
    async with open_form(request, settings) as form:
        parts = await _parts(form, settings)
    for name in ("name", "graph"):
        if name not in parts:
            raise invalid(name, "is required")
    fields: dict[str, Any] = {name: data.decode("utf-8", "replace") for name, data in parts.items() if name != "graph"}
    fields["graph"] = decode_body(parts["graph"], dict[str, Any], values_limit=settings.values_limit, prefix="graph")
    try:
        return msgspec.convert(fields, WorkflowRequest, strict=False)
    except msgspec.ValidationError as error:
        text, _, place = str(error).partition(" - at `$.")
        raise invalid(place.rstrip("`") or "body", text) from None


async def _parts(form: FormData, settings: BalancerSettings) -> dict[str, bytes]:
    """The form's parts, each of which may be a text or a file."""
    parts: dict[str, bytes] = {}
    known = list(FORM["properties"])
    for name, part in form.multi_items():
        if name not in known:
            raise invalid(name, "is not a known field", nearest=nearest(name, known))
        if name in parts:
            raise invalid(name, "is there twice")
        limit = settings.json_limit
        if isinstance(part, UploadFile):
            parts[name] = await part.read(limit + 1)
        else:
            parts[name] = part.encode("utf-8", "surrogatepass")
        if len(parts[name]) > limit:
            raise TooLarge(f"The part {name} is larger than {limit} bytes.")
    return parts


@router.post(
    "/{name}/versions/{number}/activate",
    summary="Activate a version",
    responses=answer(200, WorkflowView, "It is the active one."),
    response_class=Json,
)
async def activate(name: str, number: Number, here: Here, who: Admin) -> Response:
    """Makes a version the one that tasks run from now on; an older one rolls back. A canary of this number ends."""
    await here.catalog.versions.activate(name, number)
    log.info("Workflow version activated", action="workflow.activated", workflow=name, version=number, owner=who.owner)
    return await _standing_of(here, name)


@router.put(
    "/{name}/canary",
    summary="Try a version on a share of the tasks",
    responses=answer(200, WorkflowView, "It runs that share."),
    response_class=Json,
    openapi_extra=body(CanaryRequest, examples={"a tenth": {"version": 4, "share": 10}}),
)
async def canary(name: str, request: Request, here: Here, who: Admin) -> Response:
    """Lets a version run a share of the tasks, drawn task by task, beside the active one; 0 ends it. A task whose
    parameters only the active version takes runs that. Every task records the version that it ran."""
    asked = decode_body(await request.body(), CanaryRequest, values_limit=here.settings.values_limit)
    await here.catalog.versions.canary(name, asked.version, asked.share)
    log.info(
        "Workflow canary set",
        action="workflow.canary",
        workflow=name,
        version=asked.version,
        share=asked.share,
        owner=who.owner,
    )
    return await _standing_of(here, name)


async def _standing_of(here: Resources, name: str) -> Response:
    here.catalog.forget()
    standing = await here.catalog.standing(name)
    return Json(workflow_view(await here.catalog.get(name), standing.active, standing))


@router.delete("/{name}", status_code=204, summary="Delete a workflow", response_class=Response)
async def delete(
    name: str,
    here: Here,
    who: Admin,
    force: Annotated[bool, Query(description="Delete it even while tasks that wait or run use it.")] = False,
) -> Response:
    """Deletes a workflow with all its versions; 409 while waiting or running tasks use it. Tasks keep their prompt:
    with `force` those still run. Files of the same name publish it again when they change."""
    await here.catalog.versions.unpublish(name, force=force)
    here.catalog.forget()
    log.info("Workflow deleted", action="workflow.deleted", workflow=name, owner=who.owner, force=force)
    return Response(status_code=204)
