"""What goes over the wire about batches; see `schemas`."""

from typing import Annotated, Any

from msgspec import Meta, Struct

from comfy_balancer.schemas import SMOKE_TASK, TaskRequest, TaskView, Time
from comfy_shared.models import Status

BATCH_ID = "01m83n8xxtbatcheca7qndb59s"
SWEEP: dict[str, Any] = {
    "workflow": "smoke",
    "parameters": {"width": [128, 256, 512], "height": [64, 128, 256, 512], "color": 3368601},
}


class BatchRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Tasks that are accepted all together or not at all."""

    tasks: Annotated[
        list[TaskRequest],
        Meta(min_length=1, description="1 to 1,000 tasks, those of sweeps counted.", examples=[[SMOKE_TASK] * 2]),
    ]


class BatchLinks(Struct, frozen=True, kw_only=True):
    """Where to go on from a batch."""

    self: Annotated[str, Meta(description="The batch.", examples=[f"/api/v1/batches/{BATCH_ID}"])]
    events: Annotated[str, Meta(description="Its counts and progress as server-sent events.")]
    cancel: Annotated[str, Meta(description="POST cancels what has not ended.")]
    retry: Annotated[str, Meta(description="POST puts the failed tasks back.")]
    contact_sheet: Annotated[str, Meta(description="All pictures on one, each with its values.")]


class BatchSummary(Struct, frozen=True, kw_only=True):
    """Tasks that were accepted in one call, counted."""

    id: Annotated[str, Meta(description="Sorts by time.", examples=[BATCH_ID])]
    status: Annotated[
        Status,
        Meta(
            description="pending until a task runs, running until all ended; then failed if any failed, canceled if "
            "any was canceled, else completed.",
            examples=["running"],
        ),
    ]
    owner: Annotated[str, Meta(description="Who submitted it.", examples=["admin"])]
    workflow: Annotated[str, Meta(description="Of all of its tasks; null: of none, or of several.")] | None
    axes: Annotated[list[str], Meta(description="Parameters that were lists, the fastest last.", examples=[["width"]])]
    total: Annotated[int, Meta(description="Its tasks.", examples=[12])]
    counts: Annotated[dict[str, int], Meta(description="Its tasks by status.", examples=[{"pending": 12}])]
    progress: Annotated[float, Meta(description="0 to 1; a task that failed counts as done.", examples=[0.25])]
    created: Time
    links: BatchLinks


class BatchView(BatchSummary, frozen=True, kw_only=True):
    """A batch with its tasks, in the order of the call."""

    tasks: Annotated[list[TaskView], Meta(description="Those that are not forgotten yet.")]


class BatchList(Struct, frozen=True, kw_only=True):
    """One page of batches, newest first."""

    batches: Annotated[list[BatchSummary], Meta(description="Without their tasks.")]
    next: Annotated[str, Meta(description="`cursor` of the next page; null: there is none.")] | None
