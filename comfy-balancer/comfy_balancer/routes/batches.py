"""Batches: tasks that were submitted together, followed and steered as one."""

from collections.abc import AsyncIterator
from typing import Annotated, Literal

import msgspec
from fastapi import APIRouter, Depends, Query, Response
from fastapi.sse import EventSourceResponse, ServerSentEvent

from comfy_balancer import views
from comfy_balancer.batch_schemas import BatchList, BatchSummary, BatchView
from comfy_balancer.dependencies import Here, Json, Who
from comfy_balancer.openapi import answer
from comfy_balancer.sheets import SIZE, Wish
from comfy_shared.batches import Batch
from comfy_shared.http.problems import invalid
from comfy_shared.output_options import PictureFormat

router = APIRouter(prefix="/batches", tags=["Batches"])


@router.get(
    "", summary="List batches", responses=answer(200, BatchList, "One page, newest first."), response_class=Json
)
async def list_batches(
    here: Here,
    who: Who,
    limit: Annotated[int, Query(ge=1, le=200, description="Most batches of one page.")] = 50,
    cursor: Annotated[str | None, Query(max_length=200, description="`next` of the page before.")] = None,
) -> Response:
    """Lists batches, newest first, with their counts."""
    batches, following = await here.batches.page(who, cursor=cursor, limit=limit)
    return Json(BatchList(batches=[views.batch_summary(batch) for batch in batches], next=following))


@router.get("/{batch_id}", summary="One batch", responses=answer(200, BatchView, "The batch."), response_class=Json)
async def get_batch(
    batch_id: str,
    here: Here,
    who: Who,
    tasks: Annotated[bool, Query(description="With its tasks.")] = True,
) -> Response:
    """Status, progress, counts by status, and the tasks without long parameter values."""
    batch = await here.batches.get(batch_id, who)
    if not tasks:
        return Json(views.batch_summary(batch))
    return Json(views.batch_view(batch, await here.batches.tasks(batch), brief=True))


@router.post(
    "/{batch_id}/cancel",
    summary="Cancel a batch",
    responses=answer(200, BatchSummary, "Nothing of it waits or runs any more."),
    response_class=Json,
)
async def cancel(batch_id: str, here: Here, who: Who) -> Response:
    """Cancels the tasks that have not ended; those that have stay as they are."""
    return Json(views.batch_summary(await here.batches.cancel(batch_id, who)))


@router.post(
    "/{batch_id}/retry",
    status_code=202,
    summary="Put failed tasks back",
    responses=answer(202, BatchSummary, "They wait again."),
    response_class=Json,
)
async def retry(batch_id: str, here: Here, who: Who) -> Response:
    """Puts the failed tasks back into the queue, with three more attempts each. 409 when none has failed."""
    return Json(views.batch_summary(await here.batches.retry(batch_id, who)), 202)


@router.get(
    "/{batch_id}/contact-sheet",
    summary="Its pictures on one",
    response_class=Response,
    responses={
        200: {"description": "A picture.", "content": {f"image/{name}": {} for name in ("png", "jpeg", "webp")}}
    },
)
async def contact_sheet(
    batch_id: str,
    here: Here,
    who: Who,
    target: Annotated[Literal["png", "jpeg", "webp"], Query(alias="format", description="Of the picture.")] = "png",
    size: Annotated[int, Query(ge=64, le=512, description="Pixels of one picture's longest side.")] = SIZE,
    columns: Annotated[int, Query(ge=0, le=50, description="0: as the sweep has it.")] = 0,
    start: Annotated[int, Query(ge=0, le=1_000_000, description="Number of the first task, from 0.")] = 0,
) -> Response:
    """Draws the first picture of each task with its values under it: of a sweep those that were lists, else those that
    differ. A task without a picture is an empty cell that says why. Shows at most 200 tasks; `start` leads on."""
    batch = await here.batches.get(batch_id, who)
    tasks = await here.batches.tasks(batch, start=start, count=here.settings.sheet_limit)
    if not tasks:
        raise invalid("start", "is behind the last task of the batch", limits={"maximum": max(0, batch.total - 1)})
    wish = Wish(size=size, columns=columns, start=start, target=PictureFormat(target))
    data = await here.sheets.sheet(batch, tasks, wish)
    return Response(data, media_type=f"image/{target}", headers={"Cache-Control": "private, no-cache"})


async def _found(batch_id: str, here: Here, who: Who) -> Batch:
    """Refuses before the stream starts."""
    return await here.batches.get(batch_id, who)


@router.get("/{batch_id}/events", summary="A batch's events", response_class=EventSourceResponse)
async def events(here: Here, batch: Annotated[Batch, Depends(_found)]) -> AsyncIterator[ServerSentEvent]:
    """Streams the batch (without its tasks) as it is and whenever it changed, at most four times a second.

    `event` is its status, `data` the whole state as JSON: nothing is missed by connecting again. Ends when all of its
    tasks have ended.
    """
    async for state in here.batches.follow(batch):
        yield ServerSentEvent(
            event=state.status.value, raw_data=msgspec.json.encode(views.batch_summary(state)).decode()
        )
