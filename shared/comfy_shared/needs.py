"""What a prompt needs of an instance, read from its graph, and whether an instance offers it. Pure functions.

A need is a node class, or a model file in the list of a class's input (`ckpt_name` of CheckpointLoaderSimple …).
Other choices (sampler names …) are
the same on every instance of a version and would only split the lanes. Where lists come from: GET /object_info of the
instance.
"""

import difflib
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from comfy_shared.errors import FieldProblem
from comfy_shared.models import Needs, Prompt

MODEL_SUFFIXES = (".safetensors", ".ckpt", ".pt", ".pth", ".bin", ".gguf", ".onnx", ".sft", ".pkl")
UPLOAD_FLAGS = ("image_upload", "video_upload", "audio_upload", "file_upload")
NEAREST = 3

ObjectInfo = Mapping[str, Mapping[str, Any]]


class Offer:
    """What one instance can run: its object info, indexed for checks."""

    def __init__(self, object_info: ObjectInfo) -> None:
        self.object_info = object_info
        self._choices: dict[tuple[str, str], frozenset[str]] = {}

    def knows(self, class_type: str) -> bool:
        return class_type in self.object_info

    def is_output(self, class_type: str) -> bool:
        """Whether the class ends a graph (SaveImage …)."""
        return bool(self.object_info.get(class_type, {}).get("output_node"))

    def specification(self, class_type: str, name: str) -> Sequence[Any] | None:
        """The entry of one input in object info: [type or list of choices, options]; None when there is none."""
        inputs = self.object_info.get(class_type, {}).get("input", {})
        if not isinstance(inputs, Mapping):  # a custom node wrote it
            return None
        for group in ("required", "optional"):
            entry = inputs.get(group, {})
            if isinstance(entry, Mapping) and isinstance(entry.get(name), list) and entry[name]:
                return list(entry[name])
        return None

    def choices(self, class_type: str, name: str) -> frozenset[str] | None:
        """The list that the input's value must be from; None when it is no such input, or lists uploaded files."""
        key = (class_type, name)
        if key in self._choices:
            return self._choices[key]
        entry = self.specification(class_type, name)
        if entry is None or is_upload(entry):
            return None
        listed = entry[0]
        if listed == "COMBO" and len(entry) > 1 and isinstance(entry[1], Mapping):
            listed = entry[1].get("options")
        if not isinstance(listed, list):
            return None
        found = self._choices[key] = frozenset(item for item in listed if isinstance(item, str))
        return found

    def meets(self, needs: Needs) -> bool:
        """Whether an instance with this offer can run a prompt with these needs."""
        return all(self.knows(name) for name in needs.classes) and all(
            value in (self.choices(class_type, name) or ()) for class_type, name, value in needs.choices
        )


def is_upload(entry: Sequence[Any]) -> bool:
    """Whether an input's list is the live list of files in the instance's input folder."""
    options = entry[1] if len(entry) > 1 and isinstance(entry[1], Mapping) else {}
    return any(options.get(flag) for flag in UPLOAD_FLAGS)


def names_model(value: object) -> bool:
    """Whether an input's value looks like the name of a model file."""
    return isinstance(value, str) and value.lower().endswith(MODEL_SUFFIXES)


def needs_of(prompt: Prompt, offers: Sequence[Offer]) -> Needs:
    """The needs of a prompt. `offers` tell which inputs are lists of files; any of them that knows the class will
    do."""
    classes = sorted({str(node.get("class_type")) for node in prompt.values()})
    choices = set()
    for node in prompt.values():
        class_type = str(node.get("class_type"))
        for name, value in node.get("inputs", {}).items():
            if names_model(value) and any(offer.choices(class_type, name) is not None for offer in offers):
                choices.add((class_type, name, value))
    return Needs(classes=tuple(classes), choices=tuple(sorted(choices)))


def lane_of(needs: Needs) -> str:
    """The lane's name: tasks with equal needs share it."""
    return hashlib.sha256(msgspec.json.encode(needs)).hexdigest()[:16]


def missing(prompt: Prompt, needs: Needs, offers: Sequence[Offer]) -> list[FieldProblem]:
    """Why no instance can run the prompt; empty when one can, or when nothing is known of any instance."""
    if not offers or any(offer.meets(needs) for offer in offers):
        return []
    problems = []
    for node_id, node in prompt.items():
        class_type = str(node.get("class_type"))
        having = [offer for offer in offers if offer.knows(class_type)]
        if not having:
            known = sorted({name for offer in offers for name in offer.object_info})
            problems.append(
                FieldProblem(
                    field=f"prompt.{node_id}.class_type",
                    message=f"no agent has the node class {class_type!r}",
                    nearest=nearest(class_type, known),
                )
            )
            continue
        problems += _missing_files(node_id, class_type, node.get("inputs", {}), needs, having)
    if not problems:
        text = "each node class and model file exists, but no single agent has all of them"
        problems.append(FieldProblem(field="prompt", message=text))
    return problems


def _missing_files(
    node_id: str,
    class_type: str,
    inputs: Mapping[str, Any],
    needs: Needs,
    offers: Sequence[Offer],
) -> list[FieldProblem]:
    problems = []
    for name, value in inputs.items():
        if not isinstance(value, str) or (class_type, name, value) not in needs.choices:
            continue
        known = {choice for offer in offers for choice in offer.choices(class_type, name) or ()}
        if value not in known:
            problems.append(
                FieldProblem(
                    field=f"prompt.{node_id}.inputs.{name}",
                    message=f"no agent has the file {value!r}",
                    nearest=nearest(value, sorted(known)),
                )
            )
    return problems


def nearest(name: str, known: Sequence[str]) -> list[str]:
    """Known names that look like `name`, best first."""
    return difflib.get_close_matches(name[:200], known, NEAREST)
