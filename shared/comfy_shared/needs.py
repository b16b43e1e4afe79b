"""What a prompt needs of an agent, read from its graph, and whether an agent offers it. Pure functions.

A need is a node class, a model file in the list of a class's input (`ckpt_name` of CheckpointLoaderSimple …), or a
label that the task requires of the agent. Other choices (sampler names …) are the same on every instance of a version
and would only split the lanes. Where lists come from: GET /object_info of the instance.
"""

import difflib
import hashlib
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import msgspec

from comfy_shared.errors import FieldProblem
from comfy_shared.models import Needs, Prompt

MODEL_SUFFIXES = (".safetensors", ".ckpt", ".pt", ".pth", ".bin", ".gguf", ".onnx", ".sft", ".pkl")
UPLOAD_FLAGS = ("image_upload", "video_upload", "audio_upload", "file_upload")
NEAREST = 3
MOST_PARTS = 16  # classes and files of one problem whose holders are named

ObjectInfo = Mapping[str, Mapping[str, Any]]
Holders = Callable[[str, str, str], list[str]]  # (class, input, value; the last two empty: the class) → who has it


class Offer:
    """What one instance can run: its object info, indexed for checks."""

    def __init__(self, object_info: ObjectInfo) -> None:
        self.object_info = object_info
        self._choices: dict[tuple[str, str], frozenset[str] | None] = {}  # only of inputs that exist: bounded
        self._listed: dict[str, frozenset[str]] = {}  # only of classes that exist

    def knows(self, class_type: str) -> bool:
        return class_type in self.object_info

    def module(self, class_type: str) -> str:
        """The Python module that the class is from (nodes, comfy_extras.…, custom_nodes.…); empty when untold."""
        told = self.object_info.get(class_type, {}).get("python_module")
        return told if isinstance(told, str) else ""

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
        if entry is None:
            return None
        listed = _listed(entry)
        found = None if listed is None else frozenset(item for item in listed if isinstance(item, str))
        self._choices[key] = found
        return found

    def listed(self, class_type: str) -> frozenset[str]:
        """Names of the class's inputs whose value must be from a list; empty for a class that it does not know."""
        if class_type in self._listed or not self.knows(class_type):
            return self._listed.get(class_type, frozenset())
        inputs = self.object_info[class_type].get("input", {})
        groups = [inputs.get(group) for group in ("required", "optional")] if isinstance(inputs, Mapping) else []
        names = {name for group in groups if isinstance(group, Mapping) for name in group}
        found = frozenset(name for name in names if self.choices(class_type, name) is not None)
        self._listed[class_type] = found
        return found

    def takes(self, class_type: str, name: str, value: str | float) -> bool:
        """Whether the input's list, if it has one, holds the value. ComfyUI compares as Python does: 1.0 is 1."""
        choices = self.choices(class_type, name)
        if choices is None or value in choices:
            return True
        return not isinstance(value, str) and value in (_listed(self.specification(class_type, name) or ()) or ())

    def meets(self, needs: Needs) -> bool:
        """Whether an instance with this offer has the classes and files of these needs; labels are the agent's."""
        return all(self.knows(name) for name in needs.classes) and all(
            value in (self.choices(class_type, name) or ()) for class_type, name, value in needs.choices
        )


def _listed(entry: Sequence[Any]) -> list[Any] | None:
    if not entry or is_upload(entry):
        return None
    listed = entry[0]
    if listed == "COMBO" and len(entry) > 1 and isinstance(entry[1], Mapping):
        listed = entry[1].get("options")
    return listed if isinstance(listed, list) else None


def is_upload(entry: Sequence[Any]) -> bool:
    """Whether an input's list is the live list of files in the instance's input folder."""
    options = entry[1] if len(entry) > 1 and isinstance(entry[1], Mapping) else {}
    return any(options.get(flag) for flag in UPLOAD_FLAGS)


def names_model(value: object) -> bool:
    """Whether an input's value looks like the name of a model file."""
    return isinstance(value, str) and value.lower().endswith(MODEL_SUFFIXES)


def can_run(offer: Offer, labels: Mapping[str, str], needs: Needs) -> bool:
    """Whether an agent with this offer and these labels can run a prompt with these needs."""
    return has_labels(labels, needs) and offer.meets(needs)


def has_labels(labels: Mapping[str, str], needs: Needs) -> bool:
    """Whether an agent with these labels carries all that are required."""
    return all(labels.get(name) == value for name, value in needs.labels)


def needs_of(prompt: Prompt, offers: Sequence[Offer], require: Mapping[str, str] = {}) -> Needs:
    """The needs of a prompt, and the labels that its task requires.

    `offers` tell which inputs are lists of files; any of them that knows the class will do. A file that none of them
    lists is a need all the same; of a class that none of them knows, the class alone is.
    """
    classes = sorted({str(node.get("class_type")) for node in prompt.values()})
    choices = set()
    for node in prompt.values():
        class_type = str(node.get("class_type"))
        for name, value in node.get("inputs", {}).items():
            if names_model(value) and any(offer.choices(class_type, name) is not None for offer in offers):
                choices.add((class_type, name, value))
    return Needs(classes=tuple(classes), choices=tuple(sorted(choices)), labels=tuple(sorted(require.items())))


@lru_cache(maxsize=512)
def lane_of(needs: Needs) -> str:
    """The lane's name: tasks with equal needs share it."""
    return hashlib.sha256(msgspec.json.encode(needs)).hexdigest()[:16]


def nobody(class_type: str, name: str, value: str) -> list[str]:
    """Names no holder."""
    return []


def missing(
    prompt: Prompt,
    needs: Needs,
    offers: Sequence[Offer],
    holders: Holders = nobody,
) -> list[FieldProblem]:
    """Why no instance can run the prompt; empty when one can, or when nothing is known of any instance.

    `offers` are those of the agents that carry the required labels; `holders` names the agents, whatever their
    labels, that have a class or file, for `limits` of the problem.
    """
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
                    message=f"no agent{_labeled(needs)} has the node class {class_type!r}",
                    nearest=nearest(class_type, known),
                    limits=_had_by({class_type: holders(class_type, "", "")}),
                )
            )
            continue
        problems += _missing_files(node_id, node, needs, having, holders)
    if not problems:
        text = f"each node class and model file exists, but no single agent{_labeled(needs)} has all of them"
        problems.append(FieldProblem(field="prompt", message=text, limits=_had_by(_scattered(needs, offers, holders))))
    return problems


def _labeled(needs: Needs) -> str:
    return " with the required labels" if needs.labels else ""


def _had_by(holders: Mapping[str, list[str]]) -> dict[str, Any]:
    found = {part: agents for part, agents in holders.items() if agents}
    return {"agents": found} if found else {}


def _scattered(needs: Needs, offers: Sequence[Offer], holders: Holders) -> dict[str, list[str]]:
    """Who has the classes and files that some lack."""
    found = {name: holders(name, "", "") for name in needs.classes if not all(offer.knows(name) for offer in offers)}
    for class_type, name, value in needs.choices:
        if not all(value in (offer.choices(class_type, name) or ()) for offer in offers):
            found[value] = holders(class_type, name, value)
    return dict(list(found.items())[:MOST_PARTS])


def _missing_files(
    node_id: str,
    node: Mapping[str, Any],
    needs: Needs,
    offers: Sequence[Offer],
    holders: Holders,
) -> list[FieldProblem]:
    problems = []
    class_type = str(node.get("class_type"))
    for name, value in node.get("inputs", {}).items():
        if not isinstance(value, str) or (class_type, name, value) not in needs.choices:
            continue
        known = {choice for offer in offers for choice in offer.choices(class_type, name) or ()}
        if value not in known:
            problems.append(
                FieldProblem(
                    field=f"prompt.{node_id}.inputs.{name}",
                    message=f"no agent{_labeled(needs)} has the file {value!r}",
                    nearest=nearest(value, sorted(known)),
                    limits=_had_by({value: holders(class_type, name, value)}),
                )
            )
    return problems


def nearest(name: str, known: Sequence[str]) -> list[str]:
    """Known names that look like `name`, best first."""
    return difflib.get_close_matches(name[:200], known, NEAREST)
