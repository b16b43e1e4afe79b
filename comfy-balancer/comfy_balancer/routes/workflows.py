"""The published workflows."""

from fastapi import APIRouter, Response

from comfy_balancer import views
from comfy_balancer.dependencies import Here, Json
from comfy_balancer.openapi import answer
from comfy_balancer.schemas import WorkflowList, WorkflowView

router = APIRouter(prefix="/workflows", tags=["Workflows"])


@router.get("", summary="List workflows", responses=answer(200, WorkflowList, "By name."), response_class=Json)
async def list_workflows(here: Here) -> Response:
    """All workflows that can be used."""
    found = await here.catalog.all()
    return Json(WorkflowList(workflows=[views.workflow_summary(workflow) for workflow in found]))


@router.get(
    "/{name}", summary="One workflow", responses=answer(200, WorkflowView, "The workflow."), response_class=Json
)
async def get_workflow(name: str, here: Here) -> Response:
    """A workflow with its parameters, also as a JSON Schema."""
    return Json(views.workflow_view(await here.catalog.get(name)))
