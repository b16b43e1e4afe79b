"""What a submit may ask of the pictures that its task makes."""

from enum import StrEnum
from typing import Annotated

import msgspec
from msgspec import Meta


class PictureFormat(StrEnum):
    """A format that pictures can be converted to."""

    PNG = "png"
    JPEG = "jpeg"
    WEBP = "webp"
    AVIF = "avif"


class OutputOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """What to make of a task's pictures beside the originals. Animated pictures and other files stay as they are."""

    format: (
        Annotated[
            PictureFormat,
            Meta(description="Add each picture in this format: png, jpeg, webp or avif.", examples=["webp"]),
        ]
        | None
    ) = None
    quality: (
        Annotated[
            int,
            Meta(ge=1, le=100, description="Of jpeg, webp and avif; absent: 85, avif 60.", examples=[80]),
        ]
        | None
    ) = None
    max_size: (
        Annotated[
            int,
            Meta(
                ge=16,
                le=16384,
                description="Longest side of the added picture, in pixels; never enlarges. Without `format` it keeps "
                "the original's.",
                examples=[1024],
            ),
        ]
        | None
    ) = None
    strip_metadata: (
        Annotated[
            bool,
            Meta(
                description="Take texts (the graph) out of PNG originals too, without touching a pixel; absent: the "
                "agent's setting STRIP_METADATA.",
                examples=[True],
            ),
        ]
        | None
    ) = None

    @property
    def converts(self) -> bool:
        return self.format is not None or self.max_size is not None
