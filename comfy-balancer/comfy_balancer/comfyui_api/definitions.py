"""What all agents offer, as one object info: every class once, the lists of choices united. Pure.

Agents with equal instances share an offer, so most clusters merge one or two. Lists of uploaded files are the
caller's own (`with_files`): an agent never tells its instance's.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from comfy_shared.needs import UPLOAD_FLAGS, Offer, is_upload

# Folder of model files → the class and input whose list shows what is in it.
FOLDERS: dict[str, tuple[str, str] | None] = {
    "checkpoints": ("CheckpointLoaderSimple", "ckpt_name"),
    "configs": ("CheckpointLoader", "config_name"),
    "loras": ("LoraLoader", "lora_name"),
    "vae": ("VAELoader", "vae_name"),
    "text_encoders": ("CLIPLoader", "clip_name"),
    "diffusion_models": ("UNETLoader", "unet_name"),
    "clip_vision": ("CLIPVisionLoader", "clip_name"),
    "style_models": ("StyleModelLoader", "style_model_name"),
    "embeddings": None,
    "diffusers": ("DiffusersLoader", "model_path"),
    "vae_approx": None,
    "controlnet": ("ControlNetLoader", "control_net_name"),
    "gligen": ("GLIGENLoader", "gligen_name"),
    "upscale_models": ("UpscaleModelLoader", "model_name"),
    "hypernetworks": ("HypernetworkLoader", "hypernetwork_name"),
    "photomaker": ("PhotoMakerLoader", "photomaker_model_name"),
    "classifiers": None,
    "model_patches": ("ModelPatchLoader", "name"),
    "audio_encoders": ("AudioEncoderLoader", "audio_encoder_name"),
}
GROUPS = ("required", "optional")
ALL_GROUPS = (*GROUPS, "hidden")
Classes = Mapping[str, Mapping[str, Any]]


def merged(offers: Sequence[Offer]) -> dict[str, dict[str, Any]]:
    """The object info of all these offers; of a class that several have, the first one's with the others' choices."""
    found: dict[str, dict[str, Any]] = {}
    for offer in offers:
        for name, entry in offer.object_info.items():
            known = found.get(name)
            found[name] = _ordered(entry) if known is None else _united(known, entry)
    return found


def _ordered(entry: Mapping[str, Any]) -> dict[str, Any]:
    """The class with its inputs in their order: clients pass them by position, and an offer is kept sorted by name."""
    inputs, order = entry.get("input"), entry.get("input_order")
    if not isinstance(inputs, Mapping):
        return dict(entry)
    groups = sorted(inputs, key=lambda group: ALL_GROUPS.index(group) if group in ALL_GROUPS else len(ALL_GROUPS))
    told = order if isinstance(order, Mapping) else {}
    arranged = {group: _arranged(inputs[group], told.get(group)) for group in groups}
    found = {**entry, "input": arranged}
    if isinstance(order, Mapping):
        found["input_order"] = {group: order[group] for group in (*groups, *order) if group in order}
    return found


def _arranged(members: Any, order: Any) -> Any:
    if not isinstance(members, Mapping) or not isinstance(order, list):
        return members
    names = [name for name in order if isinstance(name, str) and name in members]
    return {name: members[name] for name in (*names, *members)}


class Merger:
    """Keeps what was merged last: the agents' offers change seldom."""

    def __init__(self) -> None:
        self._offers: list[Offer] = []
        self._classes: dict[str, dict[str, Any]] = {}
        self.uploads: list[tuple[str, str, str, str]] = []  # of what was merged last

    def of(self, offers: Sequence[Offer]) -> dict[str, dict[str, Any]]:
        """The merged object info of these offers."""
        if len(offers) != len(self._offers) or any(a is not b for a, b in zip(offers, self._offers, strict=True)):
            self._offers = list(offers)
            self._classes = merged(offers)
            self.uploads = uploads_of(self._classes)
        return self._classes


def _united(known: dict[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    ours, theirs = known.get("input"), other.get("input")
    if ours == theirs or not isinstance(ours, Mapping) or not isinstance(theirs, Mapping):
        return known
    inputs = dict(ours)
    for group in GROUPS:
        members, others = ours.get(group), theirs.get(group)
        if isinstance(members, Mapping) and isinstance(others, Mapping):
            inputs[group] = {name: _with_choices(entry, others.get(name)) for name, entry in members.items()}
    return {**known, "input": inputs}


def _with_choices(entry: Any, other: Any) -> Any:
    ours, theirs = choices(entry), choices(other)
    if ours is None or theirs is None or is_upload(entry):
        return entry
    return _replaced(entry, [*ours, *(choice for choice in theirs if choice not in ours)])


def choices(entry: Any) -> list[Any] | None:
    """The list of an input's entry, in either spelling; None when it has none."""
    if not isinstance(entry, list) or not entry:
        return None
    listed = entry[0]
    if listed == "COMBO" and len(entry) > 1 and isinstance(entry[1], Mapping):
        listed = entry[1].get("options")
    return listed if isinstance(listed, list) else None


def _replaced(entry: list[Any], listed: list[Any]) -> list[Any]:
    if entry[0] == "COMBO":
        return ["COMBO", {**entry[1], "options": listed}, *entry[2:]]
    return [listed, *entry[1:]]


def uploads_of(classes: Classes) -> list[tuple[str, str, str, str]]:
    """(class, group, input, flag) of the inputs that list uploaded files."""
    found = []
    for name, entry in classes.items():
        inputs = entry.get("input")
        for group in GROUPS if isinstance(inputs, Mapping) else ():
            members = inputs.get(group)  # type: ignore[union-attr]  # checked above
            for key, value in members.items() if isinstance(members, Mapping) else ():
                if isinstance(value, list) and value and is_upload(value):
                    flag = next(flag for flag in UPLOAD_FLAGS if value[1].get(flag))
                    found.append((name, group, key, flag))
    return found


def with_files(
    classes: Classes,
    uploads: Sequence[tuple[str, str, str, str]],
    files: Mapping[str, Sequence[str]],
) -> dict[str, Mapping[str, Any]]:
    """The classes with a caller's uploaded files in their lists. `files` are names by upload flag."""
    found = dict(classes)
    for name, group, key, flag in uploads:
        if name not in classes:
            continue
        entry = found[name]
        members = entry["input"][group]
        changed = {**members, key: _replaced(members[key], sorted(files.get(flag, ())))}
        found[name] = {**entry, "input": {**entry["input"], group: changed}}
    return found


def models_in(classes: Classes, folder: str) -> list[Any] | None:
    """Names of the model files of a folder; None when there is no such folder."""
    if folder not in FOLDERS:
        return None
    place = FOLDERS[folder]
    entry = classes.get(place[0]) if place else None
    inputs = entry.get("input") if entry else None
    required = inputs.get("required") if isinstance(inputs, Mapping) else None
    listed = choices(required.get(place[1])) if place and isinstance(required, Mapping) else None
    return list(listed or ())
