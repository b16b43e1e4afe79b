"""The published workflows and their versions, to read."""

from typing import Annotated, Literal

import msgspec
from fastapi import APIRouter, Path, Query, Response

from comfy_balancer.dependencies import Here, Json, Resources
from comfy_balancer.openapi import answer
from comfy_balancer.workflow_schemas import VersionContent, VersionList, WorkflowList, WorkflowView
from comfy_balancer.workflow_views import problem_view, version_view, workflow_summary, workflow_view
from comfy_shared.errors import NotFound
from comfy_shared.workflows import Workflow, json_schema

router = APIRouter(prefix="/workflows", tags=["Workflows"])

Number = Annotated[int, Path(ge=1, le=10**9, description="Number of a version.")]
Version = Annotated[int | None, Query(ge=1, le=10**9, description="Number of a version; absent: the active one.")]


@router.get("", summary="List workflows", responses=answer(200, WorkflowList, "By name."), response_class=Json)
async def list_workflows(here: Here) -> Response:
    """All workflows that can be used, and what is wrong with the files of those that cannot, or of a newer version."""
    standings = await here.catalog.standings()
    problems = await here.catalog.versions.problems()
    return Json(
        WorkflowList(
            workflows=[
                workflow_summary(workflow, standings[workflow.name], problems.get(workflow.name))
                for workflow in await here.catalog.all()
                if workflow.name in standings
            ],
            problems={name: problem_view(problem) for name, problem in problems.items()},
        )
    )


@router.get(
    "/{name}", summary="One workflow", responses=answer(200, WorkflowView, "The workflow."), response_class=Json
)
async def get_workflow(name: str, here: Here) -> Response:
    """The active version with its parameters, also as a JSON Schema."""
    standing = await here.catalog.standing(name)
    workflow = await here.catalog.get(name)
    problem = (await here.catalog.versions.problems()).get(name)
    return Json(workflow_view(workflow, standing.active, standing, problem))


@router.get(
    "/{name}/versions",
    summary="The versions of a workflow",
    responses=answer(200, VersionList, "Newest first."),
    response_class=Json,
)
async def list_versions(name: str, here: Here) -> Response:
    """Who published what when, and what changed from one to the next."""
    standing = await here.catalog.standing(name)
    versions = await here.catalog.versions.of(name)
    return Json(VersionList(versions=[version_view(version, standing) for version in versions]))


@router.get(
    "/{name}/versions/{number}",
    summary="One version",
    responses=answer(200, VersionContent, "The version with its content."),
    response_class=Json,
)
async def get_version(name: str, number: Number, here: Here) -> Response:
    """A version: its parameters and its graph as they were published."""
    standing = await here.catalog.standing(name)
    workflow = await here.catalog.versions.read(name, number)
    found = next((one for one in await here.catalog.versions.of(name) if one.number == number), None)
    if found is None:
        raise NotFound(f"the workflow {name} has no version {number}")
    view = workflow_view(workflow, number, standing)
    return Json(VersionContent(version=version_view(found, standing), workflow=view, graph=workflow.prompt))


async def _version(here: Resources, name: str, version: int | None) -> Workflow:
    await here.catalog.standing(name)
    return await (here.catalog.versions.read(name, version) if version else here.catalog.get(name))


@router.get("/{name}/schema", summary="JSON Schema of the parameters", response_class=Json)
async def get_schema(name: str, here: Here, version: Version = None) -> Response:
    """JSON Schema (2020-12) of the object of parameters."""
    schema = json_schema(await _version(here, name, version))
    return Response(msgspec.json.encode(schema), media_type="application/schema+json")


@router.get("/{name}/export", summary="A workflow as a file", response_class=Json)
async def export(
    name: str,
    here: Here,
    format: Annotated[
        Literal["editor", "api"],
        Query(description="`editor`: what ComfyUI's editor opens; `api`: the graph in API format."),
    ] = "editor",
    version: Version = None,
) -> Response:
    """The graph as a file: NAME.json for the editor, or NAME-api.json. 404 when the version has no editor's graph."""
    workflow = await _version(here, name, version)
    if format == "editor" and workflow.editor is None:
        raise NotFound(f"the workflow {name} was published without the editor's graph; format=api exports it")
    graph, suffix = (workflow.editor, "") if format == "editor" else (workflow.prompt, "-api")
    headers = {"Content-Disposition": f'attachment; filename="{name}{suffix}.json"'}
    content = msgspec.json.format(msgspec.json.encode(graph), indent=2)
    return Response(content, media_type="application/json", headers=headers)
