"""Parameters from a graph: what a caller would want to set, found by what each input is and what it is wired to. Pure.

Texts, files, models, seeds, sizes and the settings of sampling; the values of primitive nodes; each with type, limits
and choices from object info. Names are those that people use (`text`, `negative_text`, `model`), else the input's; two
of one name are told apart by their nodes' titles, else numbered in the order of node ids. The same graph gives the
same parameters, whatever the order of its keys.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from comfy_shared.needs import names_model
from comfy_shared.workflows.checks import Flaw, check_parameter
from comfy_shared.workflows.converting import ObjectInfo
from comfy_shared.workflows.converting.classes import InputSpec, read_input
from comfy_shared.workflows.soundness import inputs_of
from comfy_shared.workflows.tracing import Sense, Uses
from comfy_shared.workflows.values import (
    INTEGER_HIGHEST,
    INTEGER_LOWEST,
    Graph,
    Parameter,
    ParameterType,
    Target,
)

MOST_PARAMETERS = 100  # inferred for one graph; the first in their order
MOST_CHOICES = 10_000  # a longer list does not limit
MOST_LOOKED_AT = 20  # choices of a list, to see whether they are model files
LONGEST_DESCRIPTION = 500  # characters

_SIZES = ("width", "height", "length", "video_frames", "batch_size", "fps", "frame_rate", "megapixels", "duration")
_SAMPLING = (
    "steps", "cfg", "guidance", "sampler_name", "scheduler", "denoise", "shift", "strength", "strength_model",
    "strength_clip",
)  # fmt: skip
_SEEDS = ("seed", "noise_seed")
_NAMES = {
    "sampler_name": "sampler",
    "noise_seed": "seed",
    "video_frames": "frames",
    "frame_rate": "fps",
    "ckpt_name": "model",
    "unet_name": "model",
    "vae_name": "vae",
    "clip_name": "text_encoder",
    "control_net_name": "controlnet",
}
_DESCRIPTIONS = {
    "text": "What to draw.",
    "negative_text": "What to avoid.",
    "image": "The picture to begin with.",
    "mask": "Where to work: the white parts.",
    "seed": "The same seed with the same parameters gives the same result. Drawn when absent or -1.",
    "steps": "Sampling steps: more is slower and finer.",
    "cfg": "How closely the result follows the text.",
    "sampler": "The sampling algorithm.",
    "scheduler": "How the noise falls from step to step.",
    "denoise": "How much is made anew: 1 is all.",
    "width": "Width in pixels.",
    "height": "Height in pixels.",
    "batch_size": "Results made at once.",
    "model": "The model file.",
}
_UPLOADS = {"image_upload": ParameterType.IMAGE, "animated_image_upload": ParameterType.IMAGE,
            "video_upload": ParameterType.VIDEO, "audio_upload": ParameterType.AUDIO}  # fmt: skip
_TEXT, _FILES, _SIZE, _PRIMITIVE, _SAMPLE, _SEED, _MODEL = range(7)  # the order in which they are shown
_GROUPS = {_SIZE: "Size", _SAMPLE: "Sampling", _SEED: "Sampling", _MODEL: "Model"}


class _Found(msgspec.Struct, frozen=True, kw_only=True):
    """An input that is worth a parameter."""

    kind: int  # _TEXT …
    type: ParameterType
    name: str  # wanted
    node_id: str
    input_name: str
    spec: InputSpec
    title: str  # of its node, when a person gave it; else empty


def infer_parameters(
    prompt: Graph,
    object_info: ObjectInfo,
    *,
    editor: dict[str, Any] | None = None,
    taken: frozenset[str] = frozenset(),
) -> tuple[Parameter, ...]:
    """The parameters of a sound graph (see `check_graph`), in the order to show them.

    `editor` is the graph it came from: its primitive nodes set several inputs at once, under their titles. `taken` are
    names that none may have. Nodes of unknown classes, and nodes that lead to no output, have no parameters.
    """
    found = sorted(_found(prompt, object_info), key=_place)
    groups = _primitive_groups(editor)
    names = set(taken)
    parameters: list[Parameter] = []
    together: dict[str, int] = {}  # an editor's primitive node → its parameter's place
    for each in found:
        primitive = groups.get((each.node_id, each.input_name))
        target = Target(node_id=each.node_id, input_name=each.input_name)
        if primitive is not None and primitive[0] in together:
            place = together[primitive[0]]
            joined = msgspec.structs.replace(parameters[place], targets=(*parameters[place].targets, target))
            if _usable(prompt, joined):
                parameters[place] = joined
                continue
        if len(parameters) == MOST_PARAMETERS:
            break
        title = primitive[1] if primitive and primitive[1] else each.title
        name = _unique(each, title, bool(primitive and primitive[1]), names)
        parameter = describe(prompt, each.type, name, target, each.spec, order=len(parameters) + 1)
        parameter = msgspec.structs.replace(parameter, group=_GROUPS.get(each.kind, ""), description=_said(each, name))
        if _usable(prompt, parameter):
            names.add(name)
            if primitive is not None:
                together[primitive[0]] = len(parameters)
            parameters.append(parameter)
    return tuple(parameters)


def specify(
    prompt: Graph, object_info: ObjectInfo, target: Target, uses: Uses
) -> tuple[ParameterType, InputSpec] | None:
    """What one slot takes, by object info; None when it does not say."""
    node = prompt.get(target.node_id)
    info = object_info.get(node["class_type"]) if node else None
    if node is None or not isinstance(info, Mapping) or target.input_name not in node["inputs"]:
        return None
    specs = {name: read_input(name, entry) for name, entry, _ in inputs_of(info)}
    spec = specs.get(target.input_name)
    if spec is None:
        return None
    type_ = _type(node, spec, node["inputs"][spec.name], uses, target.node_id)
    return None if type_ is None else (type_, spec)


def describe(
    prompt: Graph, type_: ParameterType, name: str, target: Target, spec: InputSpec, *, order: int
) -> Parameter:
    """A parameter for one slot, with the limits that object info gives and that the graph's own value keeps."""
    value = prompt[target.node_id]["inputs"][target.input_name]
    limits: dict[str, Any] = {}
    if type_ in (ParameterType.INTEGER, ParameterType.SEED):
        limits = _integer_limits(spec, value, seed=type_ is ParameterType.SEED)
    elif type_ is ParameterType.NUMBER:
        limits = _number_limits(spec, value)
    elif type_ in (ParameterType.CHOICE, ParameterType.MODEL):
        limits = {"choices": _choices(spec, value, files=type_ is ParameterType.MODEL)}
    return Parameter(name=name, type=type_, targets=(target,), order=order, **limits)


def _usable(prompt: Graph, parameter: Parameter) -> bool:
    try:
        check_parameter(prompt, parameter)
    except Flaw:
        return False
    return True


def _found(prompt: Graph, object_info: ObjectInfo) -> Iterator[_Found]:
    uses = Uses(prompt, object_info)
    needed = uses.needed()
    for node_id, node in prompt.items():
        info = object_info.get(node["class_type"])
        if node_id not in needed or not isinstance(info, Mapping):
            continue
        title = _own_title(node, info)
        for name, entry, _ in inputs_of(info):
            value = node["inputs"].get(name)
            spec = read_input(name, entry)
            if spec is None or value is None or isinstance(value, list | dict):
                continue
            type_ = _type(node, spec, value, uses, node_id)
            kind = None if type_ is None else _kind(node, spec, type_, uses, node_id)
            if type_ is None or kind is None:
                continue
            wanted = _wanted(spec, type_, kind, uses, node_id)
            yield _Found(
                kind=kind, type=type_, name=wanted, node_id=node_id, input_name=name, spec=spec, title=title
            )  # fmt: skip


def _type(node: Mapping[str, Any], spec: InputSpec, value: Any, uses: Uses, node_id: str) -> ParameterType | None:
    """What kind of value the input takes; None: nothing that a parameter can carry."""
    for flag, type_ in _UPLOADS.items():
        if spec.options.get(flag):
            masks = type_ is ParameterType.IMAGE and ("Mask" in node["class_type"] or uses.gives_only(node_id, "MASK"))
            return ParameterType.MASK if masks else type_
    match spec.type:
        case "INT":
            return ParameterType.SEED if _is_seed(spec, uses, node_id) else ParameterType.INTEGER
        case "FLOAT":
            return ParameterType.NUMBER
        case "BOOLEAN":
            return ParameterType.BOOLEAN
        case "STRING":
            return ParameterType.TEXT
        case "COMBO":
            files = names_model(value) or any(names_model(each) for each in _listed(spec)[:MOST_LOOKED_AT])
            return ParameterType.MODEL if files else ParameterType.CHOICE
        case _:
            return None


def _is_seed(spec: InputSpec, uses: Uses, node_id: str) -> bool:
    if spec.name == "value":  # a primitive is what it feeds
        return any(name in _SEEDS for name in uses.inputs_fed(node_id))
    return spec.name in _SEEDS or (bool(spec.options.get("control_after_generate")) and "seed" in spec.name)


def _kind(node: Mapping[str, Any], spec: InputSpec, type_: ParameterType, uses: Uses, node_id: str) -> int | None:
    """Where it is shown; None: nobody would set it."""
    if type_.is_file:
        return _FILES
    if type_ is ParameterType.SEED:
        return None if node["inputs"].get("add_noise") == "disable" else _SEED
    if type_ is ParameterType.TEXT and (spec.options.get("multiline") or spec.name == "value"):
        return _text_kind(spec, uses, node_id)
    if node["class_type"].startswith("Primitive"):
        return _PRIMITIVE
    if type_ is ParameterType.MODEL:
        return _MODEL
    if spec.name in _SIZES and type_ in (ParameterType.INTEGER, ParameterType.NUMBER):
        return _SIZE
    return _SAMPLE if spec.name in _SAMPLING and type_ is not ParameterType.TEXT else None


def _text_kind(spec: InputSpec, uses: Uses, node_id: str) -> int | None:
    if uses.sense(node_id) is not Sense.NONE:
        return _TEXT
    if uses.gives(node_id, "CONDITIONING"):
        return None  # whatever it says, nothing comes of it
    return _TEXT if "prompt" in spec.name or spec.name.startswith("text") else _PRIMITIVE


def _wanted(spec: InputSpec, type_: ParameterType, kind: int, uses: Uses, node_id: str) -> str:
    if type_.is_file:
        return type_.value
    if kind == _TEXT:
        negative = uses.sense(node_id) is Sense.NEGATIVE or "negative" in spec.name
        return "negative_text" if negative else "text"
    fed = spec.name
    if spec.name == "value":
        fed = next(iter(sorted(uses.inputs_fed(node_id))), "value")
    plain = re.sub(r"\d+$", "", fed)
    name = _NAMES.get(fed) or _NAMES.get(plain) or (fed.removesuffix("_name") if kind == _MODEL else fed)
    return _slug(name) or "value"


def _unique(found: _Found, title: str, preferred: bool, names: set[str]) -> str:
    """The wanted name, or the node's title where that tells more, or a numbered one."""
    own = _slug(title)
    whole = preferred or found.kind in (_TEXT, _FILES, _PRIMITIVE)
    titled = own if whole or not own else f"{own}_{found.name}"
    first = preferred or (found.kind == _PRIMITIVE or found.type.is_file)
    for name in (titled, found.name) if first else (found.name, titled):
        if name and len(name) <= 60 and name not in names:
            return name
    base = found.name[:56]
    return next(f"{base}_{number}" for number in range(2, len(names) + 3) if f"{base}_{number}" not in names)


def _slug(text: str) -> str:
    slug = re.sub(r"[^a-z0-9]+", "_", text.lower()[:200]).strip("_")
    return slug if slug[:1].isalpha() else ""


def _own_title(node: Mapping[str, Any], info: Mapping[str, Any]) -> str:
    meta = node.get("_meta")
    title = meta.get("title") if isinstance(meta, Mapping) else None
    plain = {_slug(str(each)) for each in (info.get("display_name"), info.get("name"), node["class_type"])}
    return title if isinstance(title, str) and _slug(title) not in plain else ""


def _said(found: _Found, name: str) -> str:
    tooltip = found.spec.options.get("tooltip")
    said = _DESCRIPTIONS.get(found.name if found.kind != _PRIMITIVE else name)
    told = said or (tooltip if isinstance(tooltip, str) else "") or found.title
    return re.sub("[\x00\ud800-\udfff]", "", told)[:LONGEST_DESCRIPTION]


def _place(found: _Found) -> tuple[Any, ...]:
    """The order: by kind, wanted texts before unwanted, nodes by id, then as people name the settings."""
    order = (*_SIZES, *_SAMPLING)
    rank = order.index(found.input_name) if found.input_name in order else len(order)
    return (found.kind, found.name == "negative_text", _number(found.node_id), rank, found.input_name)


def _number(node_id: str) -> tuple[int, tuple[int, ...], str]:
    """Node ids in their natural order: 9 before 10, 5 before 5:2."""
    parts = node_id.split(":")
    if all(part.isascii() and part.isdigit() for part in parts):
        return (0, tuple(int(part) for part in parts), "")
    return (1, (), node_id)


def _integer_limits(spec: InputSpec, value: Any, *, seed: bool) -> dict[str, Any]:
    least = 0 if seed else INTEGER_LOWEST
    minimum, maximum = (_whole(spec.options.get(key), least) for key in ("min", "max"))
    limits: dict[str, Any] = {"minimum": minimum, "maximum": maximum}
    step = spec.options.get("step")
    if not seed and _is_whole(step) and int(step or 0) > 1 and _is_whole(value) and value % step == 0:
        limits["step"] = int(step or 0)
    if _is_whole(value) and not seed:
        limits["minimum"] = minimum if minimum is None or minimum <= value else None
        limits["maximum"] = maximum if maximum is None or maximum >= value else None
    return limits


def _is_whole(value: Any) -> bool:
    return not isinstance(value, bool) and (isinstance(value, int) or (isinstance(value, float) and value.is_integer()))


def _whole(value: Any, least: int) -> int | None:
    return min(max(int(value or 0), least), INTEGER_HIGHEST) if _is_whole(value) else None


def _number_limits(spec: InputSpec, value: Any) -> dict[str, Any]:
    limits: dict[str, Any] = {}
    for key, limit in (("minimum", spec.options.get("min")), ("maximum", spec.options.get("max"))):
        if isinstance(limit, bool) or not isinstance(limit, int | float) or not abs(limit) < 1e300:
            continue
        fits = not isinstance(value, int | float) or (limit <= value if key == "minimum" else limit >= value)
        limits |= {key: limit} if fits else {}
    return limits


def _listed(spec: InputSpec) -> list[Any]:
    listed = spec.options.get("options")
    return listed if isinstance(listed, list) else []


def _choices(spec: InputSpec, value: Any, *, files: bool) -> tuple[str | int | float, ...]:
    """The list that the value must be from. Of files only when the graph's own is there: others come and go."""
    kinds = (str,) if files else (str, int, float)
    listed = [
        each for each in _listed(spec)[: MOST_CHOICES + 1] if isinstance(each, kinds) and not isinstance(each, bool)
    ]
    if len(listed) > MOST_CHOICES or (files and value not in listed):
        return ()
    return tuple(listed if value in listed else [value, *listed])


def _primitive_groups(editor: dict[str, Any] | None) -> dict[tuple[str, str], tuple[str, str]]:
    """(node, input) → (the editor's primitive node that sets it, that node's own title)."""
    nodes = editor.get("nodes") if editor else None
    links = editor.get("links") if editor else None
    if not isinstance(nodes, list) or not isinstance(links, list):
        return {}
    titles = {
        str(node.get("id")): node.get("title")
        for node in nodes
        if isinstance(node, dict) and node.get("type") == "PrimitiveNode"
    }
    origins = {str(link[0]): str(link[1]) for link in links if isinstance(link, list) and len(link) > 1}
    found = {}
    for node in nodes:
        slots = node.get("inputs") if isinstance(node, dict) else None
        for slot in slots if isinstance(slots, list) else ():
            origin = origins.get(str(slot.get("link"))) if isinstance(slot, dict) else None
            if origin in titles and origin is not None:
                title = titles[origin]
                own = title if isinstance(title, str) and title not in ("Primitive", "PrimitiveNode") else ""
                found[str(node.get("id")), str(slot.get("name"))] = (origin, own)
    return found
