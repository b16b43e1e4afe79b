"""An asset's upload: one file part, and texts that say what the client calls it. The hash is always computed here."""

import asyncio
import hashlib
import io
import posixpath
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import BinaryIO

from blake3 import blake3
from starlette.datastructures import FormData, UploadFile
from starlette.requests import Request

from comfy_balancer.assets import Record
from comfy_balancer.checks import path_trick
from comfy_balancer.comfy_v2.errors import Refusal, invalid_request
from comfy_balancer.downloads import MEDIA_TYPE
from comfy_balancer.settings import BalancerSettings
from comfy_balancer.uploads import CHUNK, UNKNOWN, Upload, open_form, recognize
from comfy_shared.errors import InvalidTask

TEXTS = ("content_type", "file_path", "expected_hash", "expires_in")
LONGEST_TEXT = 1024  # characters
_PARAMETERS = re.compile(r"\s*;.*", re.DOTALL)


@asynccontextmanager
async def read_asset(request: Request, settings: BalancerSettings, owner: str) -> AsyncIterator[tuple[Upload, Record]]:
    """The upload and what to keep of it; what was spooled to disk is gone after the block.

    Raises:
        Refusal, MalformedBody, TooLarge, StorageFull.
    """
    async with open_form(request, settings) as form:
        part, texts = _sort(form)
        file_path = _file_path(texts.get("file_path", ""))
        content_type = _content_type(texts.get("content_type") or part.content_type or UNKNOWN[2])
        upload, hashed = await asyncio.to_thread(_know, part.file, settings.pixel_limit)
        expected = texts.get("expected_hash", "")
        if expected and expected.lower() != f"blake3:{hashed}":
            raise Refusal(409, "hash_mismatch", "Client-declared hash does not match the received bytes.")
        yield (
            upload,
            Record(
                owner=owner,
                blake3=hashed,
                sha256=upload.sha256,
                extension=upload.extension,
                size=upload.size,
                media_type=upload.content_type,
                content_type=content_type,
                file_path=file_path,
            ),
        )


def _sort(form: FormData) -> tuple[UploadFile, dict[str, str]]:
    files: list[UploadFile] = []
    texts: dict[str, str] = {}
    for name, value in form.multi_items():
        if name == "file" and isinstance(value, UploadFile):
            files.append(value)
        elif name in TEXTS and isinstance(value, str):
            if name in texts or len(value) > LONGEST_TEXT:
                raise invalid_request(f"'{name}' is there twice, or has more than {LONGEST_TEXT} characters.")
            texts[name] = value.strip()
    if len(files) != 1:
        raise invalid_request("Missing 'file' part." if not files else "There is more than one 'file' part.")
    return files[0], texts


def _file_path(text: str) -> str:
    """What the client calls the file: a name, or one below `input/`. No place of ours is ever made of it."""
    if not text:
        raise invalid_request("Missing 'file_path'.")
    if reason := path_trick(text):
        raise invalid_request(f"'file_path' {reason}.")
    folder = posixpath.dirname(text.removeprefix("models/"))
    if text.endswith("/") or not text.strip("./ "):
        raise invalid_request("'file_path' must include a filename.")
    if folder and folder.split("/")[0] != "input":
        message = "'file_path' must be a filename, or one below input/; model files are placed by the operator."
        raise invalid_request(message)
    return text


def _content_type(text: str) -> str:
    """The declared type, without parameters."""
    plain = _PARAMETERS.sub("", text).lower()
    if not MEDIA_TYPE.fullmatch(plain):
        raise invalid_request("'content_type' must be a media type, such as image/png.")
    return plain


def _know(file: BinaryIO, pixel_limit: int) -> tuple[Upload, str]:
    """The file by its bytes, read once, and its blake3. What we do not recognize is kept, and no prompt may name it."""
    sha256, blake = hashlib.sha256(), blake3()
    file.seek(0)
    while chunk := file.read(CHUNK):
        sha256.update(chunk)
        blake.update(chunk)
    size = file.seek(0, io.SEEK_CUR)
    if not size:
        raise invalid_request("The file is empty.")
    try:
        kind, extension, media_type = recognize("file", file, pixel_limit)
    except InvalidTask:
        kind, extension, media_type = UNKNOWN
    upload = Upload(
        field="file",
        file=file,
        sha256=sha256.hexdigest(),
        size=size,
        kind=kind,
        extension=extension,
        content_type=media_type,
    )
    return upload, blake.hexdigest()
