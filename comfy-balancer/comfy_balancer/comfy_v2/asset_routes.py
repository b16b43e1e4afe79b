"""Assets: upload, find by hash, read, load, forget."""

import posixpath
from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response

from comfy_balancer.comfy_v2 import bodies, views
from comfy_balancer.comfy_v2.errors import Refusal, invalid_request
from comfy_balancer.comfy_v2.job_routes import At
from comfy_balancer.comfy_v2.naming import name_asset
from comfy_balancer.comfy_v2.outputs import find_output
from comfy_balancer.comfy_v2.uploading import read_asset
from comfy_balancer.comfyui_api.names import Names
from comfy_balancer.dependencies import Here, Json, Who
from comfy_balancer.downloads import Download, serve
from comfy_shared.errors import NotFound

router = APIRouter(prefix="/assets")


@router.post("")
async def upload(request: Request, here: Here, who: Who, at: At) -> Response:
    """Keeps a file. 201: these bytes are new for the caller; 200: it had them, and gets the same asset."""
    if not request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
        raise invalid_request("Expected multipart/form-data.")
    async with read_asset(request, here.settings, who.owner) as (file, record):
        asset, new = await here.assets.keep(file, record)
    if new:
        await name_asset(Names(here.redis, here.service.queue.keys, retention=here.settings.task_retention), asset)
    return Json(views.asset_view(asset, at, created_new=new), 201 if new else 200)


@router.post("/from-hash")
async def from_hash(request: Request, here: Here, who: Who, at: At) -> Response:
    """The caller's asset of bytes that it uploaded before."""
    body = bodies.read_object(await request.body(), values_limit=here.settings.values_limit)
    wanted = body.get("hash")
    if not isinstance(wanted, str):
        raise invalid_request("Missing 'hash'.")
    try:
        asset = await here.assets.find_by_hash(wanted, who)
    except NotFound:
        raise Refusal(404, "blob_not_found", "No blob the caller may mint from.") from None
    return Json(views.asset_view(asset, at, created_new=False))


@router.head("/by-hash/{wanted}")
async def by_hash(wanted: str, here: Here, who: Who) -> Response:
    """Whether the caller uploaded these bytes before."""
    try:
        await here.assets.find_by_hash(wanted, who)
    except NotFound:
        return Response(status_code=404)
    return Response(status_code=200)


@router.get("/{asset_id}")
async def get_asset(asset_id: str, here: Here, who: Who, at: At) -> Response:
    """What is known of an upload or an output."""
    if (found := await find_output(here.service, asset_id, who)) is not None:
        return Json(views.output_asset_view(*found, at))
    return Json(views.asset_view(await here.assets.find(asset_id, who), at))


async def _file(asset_id: str, here: Here, who: Who) -> Download:
    if (found := await find_output(here.service, asset_id, who)) is not None:
        output = found[0].outputs[found[1]]
        return Download(
            key=output.key, name=output.name, size=output.size, sha256=output.sha256, content_type=output.content_type
        )
    asset = await here.assets.find(asset_id, who)
    record = asset.record
    return Download(
        key=asset.key,
        name=posixpath.basename(record.file_path),
        size=record.size,
        sha256=record.sha256,
        content_type=record.media_type,
    )


@router.head("/{asset_id}/content")
@router.get("/{asset_id}/content")
async def get_content(request: Request, here: Here, file: Annotated[Download, Depends(_file)]) -> Response:
    """The bytes; a single Range is served."""
    try:
        return await serve(here.files, request, file)
    except NotFound:
        message = "The asset is registered but its bytes are gone. Retrying cannot help; submit the job again."
        raise Refusal(404, "output_unavailable", message) from None


@router.delete("/{asset_id}")
async def delete(asset_id: str, here: Here, who: Who) -> Response:
    """Forgets an upload; its bytes stay for whoever else uses them. An output goes with its job."""
    if await find_output(here.service, asset_id, who) is not None:
        raise Refusal(409, "asset_in_use", "The asset cannot be deleted while it is in use.")
    await here.assets.forget(asset_id, who)
    return Response(status_code=204)
