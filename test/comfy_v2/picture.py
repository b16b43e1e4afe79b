"""A small picture for uploads, made once."""

import io

from PIL import Image


def png(color: int = 90, *, width: int = 32, height: int = 32) -> bytes:
    """The bytes of a PNG of one color."""
    data = io.BytesIO()
    Image.new("RGB", (width, height), (color, 10, 10)).save(data, "PNG")
    return data.getvalue()


PICTURE = png()
