"""What a task made, as the content of a tool's result.

Clients read a result as one event of limited size (the official one a MiB), so pictures share a budget: what does not
fit is shown as WebP, and smaller. The address of each whole file goes with it, and needs no log-in for a while.
"""

import asyncio
import base64
import io
from urllib.parse import quote

import mcp_types as types
import msgspec
from PIL import Image
from starlette.requests import Request

from comfy_balancer import views
from comfy_balancer.dependencies import Resources
from comfy_shared.models import Output, Task

BUDGET = 600_000  # bytes of all pictures of one result, before base64
LARGEST = 64 * 1024 * 1024  # bytes of a picture that is opened at all
LONGEST_TEXT = 20_000  # characters of a text that a node shows
SHOWN = frozenset({"image/png", "image/jpeg", "image/webp", "image/gif"})
MOST_SHOWN = 16  # pictures of one result

Content = types.TextContent | types.ImageContent


def text(message: str) -> types.TextContent:
    """A text that can be sent whatever is in it."""
    return types.TextContent(text=message.encode("utf-8", "replace").decode())


async def content_of(here: Resources, request: Request, task: Task) -> list[Content]:
    """Pictures and texts, then what was made with which parameters, and where the files are."""
    outputs = [output for output in task.outputs if not output.temporary] or list(task.outputs)
    pictures = [output for output in outputs if output.content_type.startswith("image/")][:MOST_SHOWN]
    content: list[Content] = []
    for output in pictures:
        if (shown := await _picture(here, output, BUDGET // len(pictures))) is not None:
            content.append(shown)
    for output in outputs:
        if output.content_type == "text/plain":
            data = b"".join([chunk async for chunk in here.files.read(output.key, end=LONGEST_TEXT)])
            content.append(text(data.decode(errors="replace")))
    lines = [f"Task {task.id}, parameters {msgspec.json.encode(task.parameters).decode()[:LONGEST_TEXT]}"]
    base = here.settings.public_url.rstrip("/") or f"{request.scope['scheme']}://{request.url.netloc}"
    for output in outputs:
        path = f"{views.task_url(task.id)}/outputs/{quote(output.name, safe='')}"
        lines.append(f"{output.name} ({output.content_type}): {base}{await here.links.sign(path, task.owner)}")
    return [*content, text("\n".join(lines))]


async def _picture(here: Resources, output: Output, most: int) -> types.ImageContent | None:
    """A picture of at most `most` bytes; None when it cannot be shown."""
    if output.size > LARGEST:
        return None
    data = b"".join([chunk async for chunk in here.files.read(output.key)])
    media_type = output.content_type
    if len(data) > most or media_type not in SHOWN:
        smaller = await asyncio.to_thread(smaller_picture, data, most)
        if smaller is None:
            return None
        data, media_type = smaller, "image/webp"
    return types.ImageContent(data=base64.b64encode(data).decode(), mime_type=media_type)


def smaller_picture(data: bytes, most: int) -> bytes | None:
    """The picture as WebP of at most `most` bytes: the same size if that does, else halved until it does."""
    try:
        with Image.open(io.BytesIO(data)) as picture:
            shown = picture.convert("RGBA" if "A" in picture.getbands() else "RGB")
    except (OSError, ValueError, SyntaxError):
        return None
    while True:
        made = io.BytesIO()
        shown.save(made, "WEBP", quality=85)
        if made.tell() <= most:
            return made.getvalue()
        if max(shown.size) < 2:
            return None
        shown = shown.resize((max(1, shown.width // 2), max(1, shown.height // 2)))
