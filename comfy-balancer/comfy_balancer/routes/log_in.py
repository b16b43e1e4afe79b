"""Tickets, for those who are logged in and cannot say so in a header."""

from fastapi import APIRouter, Response

from comfy_balancer.dependencies import Here, Json, Who
from comfy_balancer.openapi import answer
from comfy_balancer.schemas import TicketView
from comfy_shared.moments import iso

router = APIRouter(prefix="/tickets", tags=["Log-in"])


@router.post(
    "",
    status_code=201,
    summary="A ticket for a browser",
    responses=answer(201, TicketView, "Yours, for one use."),
    response_class=Json,
)
async def issue(here: Here, who: Who) -> Response:
    """A browser cannot put a header on a websocket, an event source or a picture: it appends `?ticket=` instead.

    A ticket is good for one GET or one websocket, for half a minute.
    """
    ticket, ends = await here.tickets.issue(who)
    return Json(TicketView(ticket=ticket, expires=iso(ends)), 201, headers={"Cache-Control": "no-store"})
