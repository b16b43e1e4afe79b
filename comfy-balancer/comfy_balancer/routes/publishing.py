"""Publish, activate, try and delete workflows: for the role admin."""

import asyncio
from typing import Annotated, Any

import msgspec
import structlog
from fastapi import APIRouter, Query, Request, Response
from starlette.datastructures import FormData, UploadFile
from starlette.types import Scope

from comfy_balancer.authoring import author, graphs_in, graphs_in_picture
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
from comfy_shared.http.middleware import BodyRule, header
from comfy_shared.http.problems import invalid
from comfy_shared.needs import nearest
from comfy_shared.workflows.pictures import Graphs, is_picture

router = APIRouter(prefix="/workflows", tags=["Workflows"])
log = structlog.get_logger(__name__)

PICTURE_TYPES = ("image/png", "image/webp")
LARGEST_PICTURE = 64 * 1024 * 1024  # bytes of one whose graph is read


def picture_limit(settings: BalancerSettings) -> int:
    """Most bytes of a picture that carries a graph."""
    return min(settings.file_limit, LARGEST_PICTURE)


def picture_rule(settings: BalancerSettings, scope: Scope) -> BodyRule | None:
    """This one call also takes a picture as its body."""
    if scope["path"] != "/api/v1/workflows":
        return None
    kind = header(scope, b"content-type").partition(";")[0].strip().lower()
    return BodyRule(limit=picture_limit(settings)) if kind in PICTURE_TYPES else None


FORM: dict[str, Any] = {
    "type": "object",
    "required": ["name", "graph"],
    "properties": {
        "name": {"type": "string", "description": "Its name.", "example": "portrait"},
        "graph": {
            "type": "string",
            "format": "binary",
            "description": "The graph: a JSON file of either format, or a PNG or WebP picture that carries it.",
        },
        "parameters": {"type": "string", "description": "The text of a parameter file (YAML), or the file itself."},
        "title": {"type": "string"},
        "description": {"type": "string"},
        "note": {"type": "string", "description": "What is new in this version."},
        "activate": {"type": "boolean", "default": True},
    },
    "additionalProperties": False,
}
EXAMPLE = {"name": "portrait", "graph": GRAPH, "parameters": PARAMETERS, "note": "first"}

_OfPicture = Query(description="Of a picture that is the body itself.", max_length=200)


@router.post(
    "",
    status_code=201,
    summary="Publish a workflow",
    responses=answer(201, PublishedView, "A new version.")
    | answer(200, PublishedView, "A version with this very content was there; it is the active one now."),
    response_class=Json,
    openapi_extra=body(WorkflowRequest, examples={"portrait": EXAMPLE}, form=FORM),
)
async def publish(
    request: Request,
    here: Here,
    who: Admin,
    name: Annotated[str | None, _OfPicture] = None,
    title: Annotated[str | None, _OfPicture] = None,
    note: Annotated[str | None, _OfPicture] = None,
    activate: Annotated[bool | None, Query(description="Of a picture that is the body itself.")] = None,
) -> Response:
    """Creates a workflow, or the next version of one that exists. Content that a version has already makes no new
    one. `warnings` tell why no agent could run it now.

    The graph is the editor's, or in API format, or what a PNG or WebP picture carries; such a picture may also be the
    body itself (`image/png`, `image/webp`), with the rest in the query. Parameters that are not given are
    inferred from the graph."""
    query = {"name": name, "title": title, "note": note, "activate": activate}
    asked, graphs = await _read(
        request, here.settings, {key: value for key, value in query.items() if value is not None}
    )
    members = await here.fleet.members()
    workflow, warnings = await asyncio.to_thread(author, asked, graphs, members, node_limit=here.settings.node_limit)
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


async def _read(request: Request, settings: BalancerSettings, query: dict[str, Any]) -> tuple[WorkflowRequest, Graphs]:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind in PICTURE_TYPES:
        picture = await request.body()
        if not is_picture(picture):
            raise invalid("body", "this is neither a PNG nor a WebP picture")
        return await _authored({**query, "graph": picture}, settings)
    if query:
        raise invalid(next(iter(query)), "belongs into the body, unless that is a picture")
    if kind != "multipart/form-data":
        asked = decode_body(await request.body(), WorkflowRequest, values_limit=settings.values_limit)
        return asked, graphs_in(asked.graph)
    async with open_form(request, settings) as form:
        parts = await _parts(form, settings)
    fields = {name: data.decode("utf-8", "replace") for name, data in parts.items() if name != "graph"}
    return await _authored({**fields, "graph": parts.get("graph")}, settings)


async def _authored(fields: dict[str, Any], settings: BalancerSettings) -> tuple[WorkflowRequest, Graphs]:
    """What parts or a query say; `graph` is the bytes of a JSON file or of a picture."""
    for name in ("name", "graph"):
        if not fields.get(name):
            raise invalid(name, "is required")
    if is_picture(fields["graph"]):
        graphs = await asyncio.to_thread(graphs_in_picture, fields["graph"], "graph")
    else:
        if len(fields["graph"]) > settings.json_limit:
            raise TooLarge(f"The part graph is larger than {settings.json_limit} bytes.")
        graph = decode_body(fields["graph"], dict[str, Any], values_limit=settings.values_limit, prefix="graph")
        graphs = graphs_in(graph)
    try:
        asked = {**fields, "graph": graphs.workflow or graphs.prompt or {}}
        return msgspec.convert(asked, WorkflowRequest, strict=False), graphs
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
        limit = picture_limit(settings) if name == "graph" else settings.json_limit
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
    """Makes a version the one that tasks run from now on; an older one rolls back. A canary of this number ends, and
    so does a conflict between editors: this settles it."""
    versions = here.catalog.versions
    await versions.activate(name, number)
    problem = (await versions.problems()).get(name)
    if problem and problem.editor:
        await versions.complain(name, None)
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
