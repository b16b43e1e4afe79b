"""Files for later tasks."""

from typing import Any

from fastapi import APIRouter, Request, Response

from comfy_balancer import views
from comfy_balancer.dependencies import Here, Json
from comfy_balancer.openapi import answer, body
from comfy_balancer.schemas import InputList, InputView
from comfy_balancer.uploads import read_form
from comfy_shared.http.problems import WrongMediaType, invalid

router = APIRouter(prefix="/inputs", tags=["Inputs"])

FORM: dict[str, Any] = {
    "type": "object",
    "properties": {"file": {"type": "string", "format": "binary", "description": "A picture, video or audio file."}},
    "additionalProperties": {"type": "string", "format": "binary"},
}


@router.post(
    "",
    status_code=201,
    summary="Upload input files",
    responses=answer(201, InputView, "Stored. With several files: a list of them under `inputs`."),
    response_class=Json,
    openapi_extra=body(None, form=FORM),
)
async def upload(request: Request, here: Here) -> Response:
    """Stores a picture, video or audio file. Its sha256 stands for it in parameters and prompts."""
    if not request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
        raise WrongMediaType("Files come as multipart/form-data.")
    async with read_form(request, here.settings) as form:
        if form.texts:
            raise invalid(next(iter(form.texts)), "must be a file part (with a filename)")
        if not form.uploads:
            raise invalid("file", "is required: a file part")
        await here.service.store(form.uploads)
        stored = [views.input_view(item) for item in form.uploads]
    return Json(stored[0] if len(stored) == 1 else InputList(inputs=stored), 201)
