"""What object info says of a node class, read as the frontend reads it: its input slots, widgets and outputs in order.

Slots without a widget come first, then those with one; within each the order of `input_order`, else of the
definition. Some classes get widgets that only the frontend knows: the upload button, players, 3D views.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import msgspec

from comfy_shared.workflows.converting.widgets import NOTHING, Kind, Widget, WidgetSpec

ObjectInfo = Mapping[str, Any]

SEEDS = ("seed", "noise_seed")  # an integer of this name has a control even when its class does not ask for one
DYNAMIC = "COMFY_DYNAMICCOMBO_V3"
_LEVELS = 8  # dynamic combos within each other
_AUDIO = frozenset({"LoadAudio", "SaveAudio", "PreviewAudio", "SaveAudioMP3", "SaveAudioOpus"})
_VIEWS = {"SaveGLB": "PREVIEW_3D", "Preview3D": "PREVIEW_3D", "Preview3DAnimation": "PREVIEW_3D_ANIMATION"}
_TITLES = {  # the frontend's English names where the server has none of its own
    "ImageBlend": "Image Blend",
    "ImageBlur": "Image Blur",
    "ImageQuantize": "Image Quantize",
    "ImageScaleToTotalPixels": "Scale Image to Total Pixels",
    "ImageSharpen": "Image Sharpen",
}
_PICTURES = ("image_upload", "video_upload", "animated_image_upload")


class InputSpec(msgspec.Struct, frozen=True, kw_only=True):
    """One input of a class."""

    name: str
    type: str
    options: dict[str, Any]
    optional: bool = False

    @property
    def shown_as(self) -> str:
        """The type whose widget it has."""
        other = self.options.get("widgetType")
        return other if isinstance(other, str) else self.type

    @property
    def forced(self) -> bool:
        """Whether it is a slot although its type has a widget."""
        return bool(self.options.get("forceInput"))

    @property
    def controlled(self) -> bool:
        """Whether a control for "after generate" stands beside it."""
        return bool(self.options.get("control_after_generate", self.name in SEEDS))


class NodeClass(msgspec.Struct, frozen=True, kw_only=True):
    """A class of nodes."""

    name: str
    title: str
    defined: tuple[InputSpec, ...]  # its inputs in the order of the definition
    inputs: tuple[InputSpec, ...]  # in the order of the slots
    with_widget: frozenset[str]  # names of the inputs whose slot stands for a widget
    widgets: tuple[WidgetSpec, ...]
    outputs: tuple[str, ...]  # their types
    saved: tuple[tuple[bool, int], ...]  # per input with a widget or forced: (forced, places in widgets_values)


class Classes:
    """The classes of an object info, each read once."""

    def __init__(self, object_info: ObjectInfo) -> None:
        self._info = object_info
        self._read: dict[str, NodeClass | None] = {}

    def get(self, name: str) -> NodeClass | None:
        """The class; None when object info does not have it."""
        if name not in self._read:
            info = self._info.get(name)
            self._read[name] = read_class(name, info) if isinstance(info, Mapping) else None
        return self._read[name]


def read_class(name: str, info: Mapping[str, Any]) -> NodeClass:
    """Reads one entry of object info; what is not as it should be there is passed over."""
    defined = _with_extras(name, dict(_defined(info)))
    ordered = list(_ordered(defined, info.get("input_order")))
    slots = [spec for spec in ordered if not has_widget(spec)]
    shown = [spec for spec in ordered if has_widget(spec)]
    picture = next((spec.options.get("imageInputName") for spec in shown if spec.type == "IMAGEUPLOAD"), None)
    widgets = [widget for spec in shown for widget in make_widgets(spec, is_file=spec.name == picture)]
    if name == "PreviewAny":
        widgets.append(WidgetSpec(name="preview", kind=Kind.TEXT, kept=False))
    names = {widget.name for widget in widgets}
    saved = [spec for spec in defined.values() if spec.name in names or spec.forced]
    title = _TITLES.get(name, info.get("display_name"))
    outputs = info.get("output")
    return NodeClass(
        name=name,
        title=title if isinstance(title, str) and title else name,
        defined=tuple(defined.values()),
        inputs=(*slots, *shown),
        with_widget=frozenset(spec.name for spec in shown),
        widgets=tuple(widgets),
        outputs=tuple(_type(output) for output in outputs) if isinstance(outputs, list) else (),
        saved=tuple((spec.forced, _places(spec)) for spec in saved),
    )


def _places(spec: InputSpec) -> int:
    return 2 if spec.options.get("control_after_generate") or spec.name in SEEDS else 1


def _type(value: object) -> str:
    return "COMBO" if isinstance(value, list) else value if isinstance(value, str) else "*"


def _defined(info: Mapping[str, Any]) -> Iterator[tuple[str, InputSpec]]:
    groups = info.get("input")
    if not isinstance(groups, Mapping):
        return
    for group, optional in (("required", False), ("optional", True)):
        entries = groups.get(group)
        for name, entry in entries.items() if isinstance(entries, Mapping) else ():
            if isinstance(name, str) and (spec := read_input(name, entry, optional=optional)):
                yield name, spec


def read_input(name: str, entry: object, *, optional: bool = False) -> InputSpec | None:
    """One input: [type, options] or [choices, options]; None for anything else."""
    if not isinstance(entry, list | tuple) or not entry:
        return None
    options = dict(entry[1]) if len(entry) > 1 and isinstance(entry[1], Mapping) else {}
    if isinstance(entry[0], list):
        options["options"] = entry[0]
        return InputSpec(name=name, type="COMBO", options=options, optional=optional)
    if not isinstance(entry[0], str):
        return None
    return InputSpec(name=name, type=entry[0], options=options, optional=optional)


def _with_extras(name: str, defined: dict[str, InputSpec]) -> dict[str, InputSpec]:
    """The inputs that the frontend adds; they count as required, so they stand before the optional ones."""
    required = {key: spec for key, spec in defined.items() if not spec.optional}
    extras: dict[str, InputSpec] = {}
    for spec in required.values():
        if spec.type == "COMBO" and any(spec.options.get(flag) is True for flag in _PICTURES):
            options = {**spec.options, "imageInputName": spec.name}
            extras["upload"] = InputSpec(name="upload", type="IMAGEUPLOAD", options=options)
            break
    if name in _AUDIO:
        extras["audioUI"] = InputSpec(name="audioUI", type="AUDIO_UI", options={})
    audio = required.get("audio")
    if audio is not None and audio.options.get("audio_upload") is True:
        extras["upload"] = InputSpec(name="upload", type="AUDIOUPLOAD", options={})
    if name in _VIEWS:
        extras["image"] = InputSpec(name="image", type=_VIEWS[name], options={})
    return {**required, **extras, **{key: spec for key, spec in defined.items() if spec.optional}}


def _ordered(defined: dict[str, InputSpec], order: object) -> Iterator[InputSpec]:
    done: set[str] = set()
    for group, optional in (("required", False), ("optional", True)) if isinstance(order, Mapping) else ():
        names = order.get(group) if isinstance(order, Mapping) else None
        for name in names if isinstance(names, list) else ():
            spec = defined.get(name) if isinstance(name, str) else None
            if spec is not None and spec.optional is optional and name not in done:
                done.add(name)
                yield spec
    for name, spec in defined.items():
        if name not in done:
            yield spec


def has_widget(spec: InputSpec) -> bool:
    """Whether the input has a widget."""
    return spec.shown_as in _MAKERS and not spec.forced


def shows_widget(spec: InputSpec) -> bool:
    """Whether its type has a widget, be the input forced to be a slot or not."""
    return spec.type in _MAKERS


def make_widgets(spec: InputSpec, *, is_file: bool = False, level: int = 0) -> list[WidgetSpec]:
    """The widgets of one input, in the order in which they stand on the node."""
    if spec.shown_as == DYNAMIC:
        return [_dynamic(spec, level)]
    widgets = _MAKERS[spec.shown_as](spec)
    if is_file:
        widgets[0] = msgspec.structs.replace(widgets[0], kind=Kind.FILE)
    return widgets


def _number(spec: InputSpec) -> list[WidgetSpec]:
    main = WidgetSpec(name=spec.name, type=spec.shown_as, options=spec.options, default=_default(spec, 0))
    return [main, _control(spec)] if spec.shown_as == "INT" and spec.controlled else [main]


def _default(spec: InputSpec, fallback: Any) -> Any:
    default = spec.options.get("default")
    return fallback if default is None else default


def _control(spec: InputSpec) -> WidgetSpec:
    name = spec.options.get("control_after_generate")
    return WidgetSpec(
        name=name if isinstance(name, str) else "control_after_generate",
        type="COMBO",
        default="randomize",
        sent=False,
    )


def _string(spec: InputSpec) -> list[WidgetSpec]:
    kind = Kind.TEXT if spec.options.get("multiline") or spec.shown_as == "MARKDOWN" else Kind.PLAIN
    options = spec.options if spec.shown_as == "STRING" else {}
    default = _default(spec, "") if spec.shown_as == "STRING" else ""  # a MARKDOWN default is only drawn
    return [WidgetSpec(name=spec.name, kind=kind, options=options, default=default)]


def _combo(spec: InputSpec) -> list[WidgetSpec]:
    if spec.options.get("multi_select"):
        return [WidgetSpec(name=spec.name, type="COMBO", default=[])]
    main = WidgetSpec(name=spec.name, type="COMBO", options=spec.options, default=_first(spec))
    widgets = [main]
    remote = spec.options.get("remote")
    if remote:
        widgets.append(WidgetSpec(name="Auto-refresh after generation", type="BOOLEAN", default=False, sent=False))
    if isinstance(remote, Mapping) and remote.get("refresh_button"):
        widgets.append(WidgetSpec(name="refresh", default="refresh"))
    if spec.options.get("control_after_generate"):
        widgets += [_control(spec), WidgetSpec(name="control_filter_list", default="", sent=False)]
    return widgets


def _first(spec: InputSpec) -> Any:
    choices = spec.options.get("options")
    if spec.options.get("default"):
        return spec.options["default"]
    if isinstance(choices, list) and choices:
        return choices[0]
    return "Loading..." if spec.options.get("remote") else NOTHING


def _dynamic(spec: InputSpec, level: int) -> WidgetSpec:
    """A combo whose value decides which widgets follow; theirs are named NAME.THEIRS."""
    branches: dict[str, tuple[WidgetSpec, ...]] = {}
    options = spec.options.get("options")
    for option in options if isinstance(options, list) and level < _LEVELS else ():
        if isinstance(option, Mapping) and isinstance(option.get("key"), str):
            inner = [read_input(f"{spec.name}.{each.name}", [each.type, each.options]) for _, each in _branch(option)]
            widgets = [make_widgets(each, level=level + 1) for each in inner if each is not None and has_widget(each)]
            branches[option["key"]] = tuple(widget for group in widgets for widget in group)
    first = next(iter(branches), NOTHING)
    return WidgetSpec(name=spec.name, type="COMBO", default=first, branches=branches)


def _branch(option: Mapping[str, Any]) -> Iterator[tuple[str, InputSpec]]:
    return _defined({"input": option.get("inputs")})


def _with(default: Any, key: str | None = None) -> Callable[[InputSpec], list[WidgetSpec]]:
    """A maker of a plain widget whose default stands in its inner options, if anywhere."""

    def make(spec: InputSpec) -> list[WidgetSpec]:
        inner = spec.options.get("options")
        found = inner.get(key) if key and isinstance(inner, Mapping) else None
        return [WidgetSpec(name=spec.name, type=spec.shown_as, default=found or default)]

    return make


def _button(*, kept_value: Any = NOTHING) -> Callable[[InputSpec], list[WidgetSpec]]:
    return lambda spec: [WidgetSpec(name=spec.name, type="BUTTON", default=kept_value, sent=False)]


def _player(spec: InputSpec) -> list[WidgetSpec]:
    return [WidgetSpec(name=spec.name, kind=Kind.BLANK, kept=False)]


def _view(spec: InputSpec) -> list[WidgetSpec]:
    return [WidgetSpec(name="image", kind=Kind.BLANK)]


def _recorder(spec: InputSpec) -> list[WidgetSpec]:
    return [WidgetSpec(name=spec.name, kind=Kind.BLANK), WidgetSpec(name=spec.name, type="BUTTON", sent=False)]


def _scene(spec: InputSpec) -> list[WidgetSpec]:
    buttons = {"upload 3d model": "upload3dmodel", "upload extra resources": "uploadExtraResources", "clear": "clear"}
    return [*(WidgetSpec(name=name, default=value) for name, value in buttons.items()), *_view(spec)]


_MAKERS: dict[str, Callable[[InputSpec], list[WidgetSpec]]] = {
    "INT": _number,
    "FLOAT": _number,
    "BOOLEAN": lambda spec: [WidgetSpec(name=spec.name, type="BOOLEAN", default=_default(spec, False))],
    "STRING": _string,
    "MARKDOWN": _string,
    "COMBO": _combo,
    DYNAMIC: lambda spec: [_dynamic(spec, 0)],
    "IMAGEUPLOAD": _button(kept_value="image"),
    "AUDIOUPLOAD": _button(kept_value=""),
    "AUDIO_UI": _player,
    "AUDIO_RECORD": _recorder,
    "WEBCAM": lambda spec: [WidgetSpec(name=spec.name, kind=Kind.BLANK)],
    "PREVIEW_3D": _view,
    "PREVIEW_3D_ANIMATION": _view,
    "LOAD_3D": _scene,
    "LOAD_3D_ANIMATION": _scene,
    "FILEUPLOAD": _with(""),
    "COLOR": _with("#000000", "default"),
    "IMAGECOMPARE": _with(["", ""]),
    "TREESELECT": _with(""),
    "MULTISELECT": _with([]),
    "CHART": _with({}, "data"),
    "GALLERIA": _with([], "images"),
    "SELECTBUTTON": _with(""),
    "TEXTAREA": _with("", "default"),
}


def fill(specs: tuple[WidgetSpec, ...], values: list[Any] | dict[str, Any]) -> list[Widget]:
    """The widgets of a node with its saved values: a list in the order of those kept, or by name."""
    widgets: list[Widget] = []
    waiting = list(reversed(specs))
    places = iter(values if isinstance(values, list) else ())
    while waiting:
        widget = Widget(waiting.pop())
        name = widget.spec.name
        if isinstance(values, dict) and name in values and widget.spec.kept:
            widget.value = values[name]
        elif widget.spec.kept and (value := next(places, NOTHING)) is not NOTHING:
            widget.value = value
        widgets.append(widget)
        if widget.spec.branches and isinstance(widget.value, str):
            waiting += reversed(widget.spec.branches.get(widget.value, ()))
    return widgets
