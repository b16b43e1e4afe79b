"""Operating the one ComfyUI of this agent: what it is, has and does. Only these routes of ComfyUI are reachable, each
by name.

Answers are ComfyUI's own, passed on as they are; what is sent on is made here from checked values.
"""

import re
from collections.abc import AsyncIterator, Mapping
from typing import Annotated, Any, Literal
from urllib.parse import quote

from aiohttp import ClientResponse
from fastapi import APIRouter, Depends, File, Form, Path, Query, Request, Response, UploadFile
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ConfigDict, Field

from comfy_service.dependencies import instance_of
from comfy_service.instance.client import Answer, Instance
from comfy_shared.errors import FieldProblem, InvalidTask, NotFound, TooLarge

router = APIRouter(tags=["instance"])

Owned = Annotated[Instance, Depends(instance_of)]
Name = Annotated[str, Path(pattern=r"^[^/\\\x00-\x1f]{1,200}$", description="A plain name.")]
Folder = Literal["output", "input", "temp"]
PASSED_ON = ("content-type", "content-length", "content-range", "accept-ranges", "etag", "last-modified")
LARGEST_UPLOAD = 100 * 1024 * 1024  # bytes: ComfyUI's own default limit
SHOWN_INLINE = re.compile(r"^(image/(png|jpeg|webp|gif|avif)|video/(mp4|webm)|audio/[\w.+-]+)$")


class Interruption(BaseModel):
    """What to interrupt."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"prompt_id": "78add6bb-b17a-4eff-9e80-e23835a4ce5d"}]}
    )

    prompt_id: str = Field(min_length=1, max_length=200, description="The running prompt; any other is left alone.")


class Freeing(BaseModel):
    """What to free, after the prompt that runs now."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"unload_models": True, "free_memory": True}]}
    )

    unload_models: bool = Field(False, description="Unload the models from the GPU.")
    free_memory: bool = Field(False, description="Drop the cached results of nodes too.")


async def _get(instance: Instance, path: str, params: Mapping[str, Any] | None = None) -> Response:
    answer = await instance.get(path, params)
    if answer.status == 404:
        raise NotFound(f"ComfyUI has no {path}")
    return Response(answer.content, answer.status, media_type=answer.content_type)


@router.get("/system_stats", summary="Machine, versions and GPU memory")
async def system_stats(instance: Owned) -> Response:
    return await _get(instance, "/system_stats")


@router.get("/queue", summary="Running and waiting prompts")
async def queue(instance: Owned) -> Response:
    return await _get(instance, "/queue")


@router.get("/history", summary="The newest ended prompts")
async def history(instance: Owned, max_items: Annotated[int, Query(ge=1, le=1000)] = 50) -> Response:
    return await _get(instance, "/history", params={"max_items": max_items})


@router.get("/history/{prompt_id}", summary="One ended prompt; empty while it waits, runs or is unknown")
async def history_of(instance: Owned, prompt_id: Name) -> Response:
    return await _get(instance, f"/history/{_quoted(prompt_id)}")


@router.get("/object_info", summary="All node classes with their inputs and outputs")
async def object_info(instance: Owned) -> Response:
    return await _get(instance, "/object_info")


@router.get("/object_info/{node_class}", summary="One node class; empty when there is none")
async def object_info_of(instance: Owned, node_class: Name) -> Response:
    return await _get(instance, f"/object_info/{_quoted(node_class)}")


@router.get("/models", summary="Folders of models")
async def models(instance: Owned) -> Response:
    return await _get(instance, "/models")


@router.get("/models/{folder}", summary="Model files of one folder")
async def models_of(instance: Owned, folder: Name) -> Response:
    return await _get(instance, f"/models/{_quoted(folder)}")


@router.get("/embeddings", summary="Names of embeddings")
async def embeddings(instance: Owned) -> Response:
    return await _get(instance, "/embeddings")


@router.get("/logs", summary="The newest lines of ComfyUI's own log")
async def logs(instance: Owned) -> Response:
    return await _get(instance, "/internal/logs/raw")


@router.post("/interrupt", status_code=202, summary="Interrupt one running prompt, by its id")
async def interrupt(instance: Owned, body: Interruption) -> None:
    """Its task is tried again. To end a task for good, cancel it at the balancer."""
    await instance.interrupt(body.prompt_id)


@router.post("/free", status_code=202, summary="Free GPU memory")
async def free(instance: Owned, body: Freeing) -> None:
    await instance.release_memory(unload_models=body.unload_models, free_memory=body.free_memory)


@router.post("/upload/image", summary="Put an image into ComfyUI's input folder")
async def upload_image(
    instance: Owned,
    image: Annotated[UploadFile, File(description="The file.")],
    subfolder: Annotated[str, Form(description="Folder below the input folder.")] = "",
    overwrite: Annotated[bool, Form(description="Replace a file of that name.")] = False,
) -> Response:
    name, data = await _checked(image, subfolder)
    form = {"type": "input", "subfolder": subfolder, "overwrite": str(overwrite).lower()}
    return _upload_answer(await instance.post_form("/upload/image", {"image": (name, data)}, form))


@router.post("/upload/mask", summary="Put a mask into the alpha channel of an image of the input folder")
async def upload_mask(
    instance: Owned,
    image: Annotated[UploadFile, File(description="The mask; its alpha channel counts.")],
    original_ref: Annotated[str, Form(max_length=1000, description='JSON: {"filename", "subfolder", "type"}.')],
    subfolder: Annotated[str, Form(description="Folder below the input folder.")] = "",
) -> Response:
    name, data = await _checked(image, subfolder)
    form = {"type": "input", "subfolder": subfolder, "original_ref": _checked_reference(original_ref)}
    return _upload_answer(await instance.post_form("/upload/mask", {"image": (name, data)}, form))


class OriginalReference(BaseModel):
    """The image that a mask belongs to."""

    model_config = ConfigDict(extra="forbid")

    filename: str = Field(min_length=1, max_length=200)
    subfolder: str = Field("", max_length=200)
    type: Folder = "input"


def _checked_reference(text: str) -> str:
    try:
        reference = OriginalReference.model_validate_json(text)
    except ValueError as error:
        problem = FieldProblem(field="original_ref", message='must be JSON with "filename", "subfolder", "type"')
        raise InvalidTask((problem,)) from error
    _check_path("original_ref.filename", reference.filename, folders=False)
    _check_path("original_ref.subfolder", reference.subfolder, folders=True)
    return reference.model_dump_json()


@router.get("/view", summary="A file of the output, input or temp folder")
async def view(
    request: Request,
    instance: Owned,
    filename: Annotated[str, Query(min_length=1, max_length=300)],
    subfolder: Annotated[str, Query(max_length=300)] = "",
    type: Folder = "output",
) -> Response:
    _check_path("filename", filename, folders=False)
    _check_path("subfolder", subfolder, folders=True)
    headers = {"range": request.headers["range"]} if "range" in request.headers else {}
    parameters = {"filename": filename, "subfolder": subfolder, "type": type}
    answer = await instance.open("/view", parameters, headers)
    if answer.status not in (200, 206):
        answer.release()
        raise NotFound(f"ComfyUI has no file {filename!r} there")
    kept = {name: answer.headers[name] for name in PASSED_ON if name in answer.headers}
    kind = answer.headers.get("content-type", "")
    disposition = "inline" if SHOWN_INLINE.match(kind) else "attachment"
    return StreamingResponse(
        _body(answer),
        status_code=answer.status,
        headers={**kept, "content-disposition": disposition, "content-security-policy": "sandbox; default-src 'none'"},
    )


async def _body(answer: ClientResponse) -> AsyncIterator[bytes]:
    try:
        async for chunk in answer.content.iter_any():
            yield chunk
    finally:
        answer.release()


def _quoted(name: str) -> str:
    if name in (".", ".."):
        raise NotFound("there is nothing of this name")
    return quote(name, safe="")


async def _checked(file: UploadFile, subfolder: str) -> tuple[str, bytes]:
    name = file.filename or ""
    _check_path("image", name, folders=False)
    _check_path("subfolder", subfolder, folders=True)
    data = await file.read(LARGEST_UPLOAD + 1)
    if len(data) > LARGEST_UPLOAD:
        raise TooLarge(f"the file is larger than {LARGEST_UPLOAD} bytes")
    return name, data


def _check_path(field: str, value: str, *, folders: bool) -> None:
    """Names are plain: nothing that could lead out of the folder."""
    parts = value.split("/") if folders and value else [value]
    plain = all(part not in (".", "..") and part for part in parts) or (folders and not value)
    if not plain or re.search(r"[\\\x00-\x1f:\[\]]", value) or (not folders and "/" in value):
        raise InvalidTask((FieldProblem(field=field, message="must be a plain name without folders above"),))


def _upload_answer(answer: Answer) -> Response:
    if answer.status != 200:
        raise InvalidTask((FieldProblem(field="image", message="ComfyUI does not take this file"),))
    return Response(answer.content, media_type="application/json")
