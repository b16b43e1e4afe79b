"""Uploads by their plain names: an asset is also what ComfyUI would have in its input folder under its `file_path`.

The names are those of ComfyUI clients (`comfyui_api.names`): of their owner alone, and one set for both doors.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

from comfy_balancer.assets import Asset
from comfy_balancer.checks import SHA256, takes_upload
from comfy_balancer.comfyui_api.names import NamedFile, Names, place_of
from comfy_balancer.uploads import STORED, Kind
from comfy_shared.callers import Caller
from comfy_shared.errors import TooLarge
from comfy_shared.needs import Offer

LONGEST = 1024  # characters of a name


async def name_asset(names: Names, asset: Asset) -> None:
    """Has the owner's graphs find the asset by its name. An owner with too many names does without."""
    record = asset.record
    kind = STORED[record.extension]
    if kind is Kind.OTHER:
        return
    file = NamedFile(sha256=record.sha256, extension=record.extension, size=record.size, kind=kind.value)
    with suppress(TooLarge):
        await names.add(record.owner, place_of(record.file_path.removeprefix("input/")), file, overwrite=False)


async def find_named(
    names: Names, workflow: Mapping[str, Any], offers: Sequence[Offer], who: Caller
) -> dict[tuple[str, str], tuple[str, NamedFile]]:
    """What the plain names in a graph stand for: (node, input) → the name, and its file."""
    written = {(node_id, name): value for node_id, name, value in _names(workflow, offers)}
    found = await names.find(who.owner, (place_of(value) for value in written.values()))
    return {
        place: (value, found[place_of(value).field])
        for place, value in written.items()
        if place_of(value).field in found
    }


def _names(workflow: Mapping[str, Any], offers: Sequence[Offer]) -> Iterator[tuple[str, str, str]]:
    for node_id, node in workflow.items():
        class_type, inputs = (node.get("class_type"), node.get("inputs")) if isinstance(node, dict) else (None, None)
        if not isinstance(class_type, str) or not isinstance(inputs, dict):
            continue
        for name, value in inputs.items():
            if not isinstance(value, str) or len(value) > LONGEST or SHA256.fullmatch(value):
                continue
            if takes_upload(class_type, name, offers):
                yield node_id, name, value
