"""File names that reach an input through a link: a primitive node that holds `../x` is no way around `check_paths`.

A link into an input that takes an upload is refused: which file is meant would not be known before it runs. Into any
other input that is taken for a file name a link may lead, unless some node before it holds a text that would be a
trick there. What a node makes of harmless parts is not known here; ComfyUI's own nodes keep to their folder. Pure.
"""

from collections.abc import Iterator, Sequence

from comfy_balancer.checks import MOST_PROBLEMS, names_file, path_trick
from comfy_shared.errors import FieldProblem
from comfy_shared.models import Prompt
from comfy_shared.needs import Offer, is_upload
from comfy_shared.workflows.checks import is_link

TYPED = frozenset({"image", "images", "mask", "audio", "video", "videos"})  # such links are pictures, not names
NAMES = ("STRING", "COMBO", "*")  # types of an input that a name may come into


def check_linked_names(prompt: Prompt, offers: Sequence[Offer]) -> list[FieldProblem]:
    """The links at fault."""
    links = list(links_to_names(prompt, offers))
    tricky = _tricky(prompt) if links else frozenset[str]()
    problems = []
    for node_id, name, source, uploads in links:
        field = f"prompt.{node_id}.inputs.{name}"
        if uploads:
            message = "takes an uploaded file and no link; give the sha256 of an upload"
            problems.append(FieldProblem(field=field, message=message))
        elif source in tricky:
            message = "is linked to a text that is no plain file name"
            problems.append(FieldProblem(field=field, message=message))
        if len(problems) == MOST_PROBLEMS:
            break
    return problems


def links_to_names(prompt: Prompt, offers: Sequence[Offer]) -> Iterator[tuple[str, str, str, bool]]:
    """(node, input, node that it is linked to, whether it takes an upload) of the inputs that take a file name."""
    for node_id, node in prompt.items():
        for name, value in node["inputs"].items():
            if not is_link(value):
                continue
            entries = [offer.specification(node["class_type"], name) for offer in offers]
            known = [entry for entry in entries if entry is not None]
            uploads = any(is_upload(entry) for entry in known)
            takes_name = any(isinstance(entry[0], list) or entry[0] in NAMES for entry in known)
            if uploads or (names_file(name) and (takes_name or (not known and name.lower() not in TYPED))):
                yield node_id, name, value[0], uploads


def _tricky(prompt: Prompt) -> frozenset[str]:
    """The nodes that hold such a text, and all that are linked to them over any number of nodes."""
    needed_by: dict[str, list[str]] = {}
    found = []
    for node_id, node in prompt.items():
        for value in node["inputs"].values():
            if is_link(value):
                needed_by.setdefault(value[0], []).append(node_id)
            elif isinstance(value, str) and path_trick(value):
                found.append(node_id)
    seen = set(found)
    while found:
        for node_id in needed_by.get(found.pop(), ()):
            if node_id not in seen:
                seen.add(node_id)
                found.append(node_id)
    return frozenset(seen)
