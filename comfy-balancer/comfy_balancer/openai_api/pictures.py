"""Pictures as an answer carries them: read from the file store, made into the wished format, in base64. In a thread."""

import asyncio
import base64
import io

from PIL import Image

from comfy_balancer.openai_api.errors import RenderFailed
from comfy_balancer.openai_api.requests import ImageRequest
from comfy_shared.files import FileStore
from comfy_shared.models import Output, Task

LARGEST = 64 * 1024 * 1024  # bytes of one picture in an answer
FORMATS = {"png": "PNG", "jpeg": "JPEG", "webp": "WEBP"}
QUALITY_OF = {"jpeg": 95, "webp": 100}  # of a compression of 100: OpenAI's best


def pictures_of(task: Task) -> list[Output]:
    """The task's pictures; previews only when there is nothing else."""
    found = [output for output in task.outputs if output.content_type.startswith("image/")]
    return [output for output in found if not output.temporary] or found


async def encoded(files: FileStore, output: Output, request: ImageRequest) -> tuple[str, str, str]:
    """A stored picture: base64, format, and size as OpenAI writes it.

    Raises:
        RenderFailed: it is too large, or cannot be made into the wished format.
        NotFound, Unavailable: of the file store.
    """
    if output.size > LARGEST:
        raise RenderFailed(f"The picture has more than {LARGEST} bytes; ask for its url.", "too_large")
    data = b"".join([chunk async for chunk in files.read(output.key)])
    return await asyncio.to_thread(_encode, data, request)


async def encoded_preview(data: bytes, request: ImageRequest) -> tuple[str, str, str] | None:
    """A preview; None when it is no picture."""
    try:
        return await asyncio.to_thread(_encode, data, request)
    except RenderFailed:
        return None


def _encode(data: bytes, request: ImageRequest) -> tuple[str, str, str]:
    try:
        with Image.open(io.BytesIO(data)) as picture:
            size = f"{picture.width}x{picture.height}"
            is_format = (picture.format or "").lower()
            wished = request.output_format or (is_format if is_format in FORMATS else "png")
            if wished != is_format or (wished != "png" and request.compression != 100):
                data = _converted(picture, wished, request.compression)
    except (OSError, ValueError, SyntaxError) as error:
        raise RenderFailed("The picture cannot be read.", "damaged_picture") from error
    return base64.b64encode(data).decode(), wished, size


def _converted(picture: Image.Image, wished: str, compression: int) -> bytes:
    made = io.BytesIO()
    plain = picture.convert("RGB") if wished == "jpeg" else picture
    options = {"quality": QUALITY_OF[wished] * compression // 100} if wished in QUALITY_OF else {}
    plain.save(made, FORMATS[wished], **options)
    return made.getvalue()
