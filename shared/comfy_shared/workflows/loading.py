"""Reads workflows from a folder. Whatever is wrong becomes a `WorkflowError` with the file, and the line where known.

The YAML is read once, as nodes with marks: they give the lines, and show a key that is there twice, which a plain load
would swallow.
"""

import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import yaml

from comfy_shared.workflows.checks import Flaw, Incomplete, check_graph
from comfy_shared.workflows.completing import ParameterDraft, WorkflowDraft, complete_workflow
from comfy_shared.workflows.converting import ConversionError, ObjectInfo
from comfy_shared.workflows.values import (
    Graph,
    Limit,
    NeedsObjectInfo,
    OpenAIMapping,
    ParameterType,
    Target,
    Workflow,
    WorkflowError,
)

API, EDITOR, PARAMETERS = "-api.json", ".json", ".yaml"
LARGEST_FILE = 16 * 1024 * 1024  # bytes
LARGEST_YAML = 256 * 1024  # characters of a parameter file
MOST_YAML = 50_000  # values in it
WORKFLOW_NAME = re.compile(r"(?!.*-api$)[A-Za-z0-9][A-Za-z0-9_-]{0,63}")

T = TypeVar("T")
_Path = tuple[str, ...]  # keys from the top of the YAML: ("parameters", "width", "minimum")


class _TargetEntry(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    node_id: str | int  # people forget the quotes
    input_name: str


class _ParameterEntry(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """One entry under `parameters`, as it is written."""

    type: ParameterType | None = None
    node_id: str | int | None = None
    input_name: str | None = None
    targets: list[_TargetEntry] = []
    default_value: Any = None
    required: bool = False
    minimum: Limit | None = None
    maximum: Limit | None = None
    step: Limit | None = None
    max_length: int | None = None
    choices: list[str | int | float] | None = None
    description: str = ""
    group: str = ""
    order: int | None = None


class _File(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """`PREFIX.yaml`, as it is written."""

    title: str = ""
    description: str = ""
    parameters: dict[Any, Any] | None = None
    openai: OpenAIMapping | None = None
    infer: bool | None = None


class _Yaml(msgspec.Struct, frozen=True, kw_only=True):
    data: Any
    lines: dict[_Path, int]

    def line(self, *path: str) -> int | None:
        """The line of the key, or of the nearest key above it."""
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path)


def find_workflows(folder: Path, *, editor_alone: bool = False) -> list[str]:
    """The names of the workflows in a folder, sorted: each prefix that has a graph in API format or a parameter file.

    An editor's graph alone is a workflow too, but only where object info is known (`editor_alone`): see
    `load_workflow`.

    Raises:
        WorkflowError: the folder cannot be read.
    """
    names = set()
    try:
        for path in folder.iterdir():
            for suffix in (API, PARAMETERS, EDITOR) if editor_alone else (API, PARAMETERS):
                if path.name.endswith(suffix) and not path.name.startswith("."):
                    names.add(path.name.removesuffix(suffix))
                    break
    except OSError as error:
        raise WorkflowError(f"the folder of workflows cannot be read: {error.strerror}", workflow="") from error
    return sorted(names)


def load_workflows(folder: Path, object_info: ObjectInfo | None = None) -> tuple[list[Workflow], list[WorkflowError]]:
    """Every workflow of a folder, and what is wrong with those that cannot be used; see `load_workflow`.

    Raises:
        WorkflowError: the folder cannot be read.
    """
    workflows, errors = [], []
    for name in find_workflows(folder, editor_alone=object_info is not None):
        try:
            workflows.append(load_workflow(folder, name, object_info))
        except WorkflowError as error:
            errors.append(error)
    return workflows, errors


def load_workflow(folder: Path, name: str, object_info: ObjectInfo | None = None) -> Workflow:
    """Reads and checks one workflow.

    With object info, which an agent's instance gives, only one of the two graphs is needed, and the parameters may be
    partial or missing. Without it, the graph in API format and the parameters must be there.

    Raises:
        NeedsObjectInfo: it is not complete, and there is no object info.
        WorkflowError: the first thing that is wrong with it.
    """
    check_name(name)
    if object_info is None:
        _check_complete(folder, name)
    editor = _read_editor(folder, name)
    prompt = None
    if object_info is None or editor is None or (folder / (name + API)).exists():
        prompt = _read_json(folder, name, API)
        _check(name, prompt)
    optional = object_info is not None and not (folder / (name + PARAMETERS)).exists()
    source = _Yaml(data={}, lines={}) if optional else _read_yaml(name, _read_text(folder, name, PARAMETERS))
    return _assemble(name, prompt, editor, source, object_info)


def _check_complete(folder: Path, name: str) -> None:
    there = [suffix for suffix in (API, EDITOR, PARAMETERS) if (folder / (name + suffix)).exists()]
    if PARAMETERS not in there or there == [EDITOR, PARAMETERS]:
        file = name + (API if PARAMETERS in there else PARAMETERS)
        raise NeedsObjectInfo("the file is missing", workflow=name, file=file)


def files_digest(folder: Path, name: str) -> str:
    """sha256 over the files of a workflow, hex. A file that is missing or unreadable counts as empty."""
    digest = hashlib.sha256()
    for suffix in (API, EDITOR, PARAMETERS):
        try:
            data = (folder / (name + suffix)).read_bytes()[: LARGEST_FILE + 1]
        except OSError:
            data = b""
        digest.update(f"{suffix} {len(data)}\n".encode() + data)
    return digest.hexdigest()


def make_from_request(
    name: str,
    prompt: Graph | None,
    editor: dict[str, Any] | None,
    parameters: str | dict[str, Any],
    *,
    title: str = "",
    description: str = "",
    object_info: ObjectInfo | None = None,
) -> Workflow:
    """A workflow that does not come from files; `parameters` is the text of a parameter file, or what stands in one
    under `parameters`. What is missing of them, or the prompt, is made from `object_info`.

    Raises:
        WorkflowError: the first thing that is wrong with it; the file is the one that it would be in.
    """
    check_name(name)
    if prompt is not None:
        _check(name, prompt)
    if isinstance(parameters, str):
        source = _read_yaml(name, parameters)
    else:
        source = _Yaml(data={"parameters": parameters}, lines={})
    return _assemble(name, prompt, editor, source, object_info, title=title, description=description)


def check_name(name: str) -> None:
    """Raises WorkflowError when no workflow can have this name."""
    if not WORKFLOW_NAME.fullmatch(name):
        message = "a workflow's name has 1 to 64 letters, digits, - and _, begins with a letter or digit"
        raise WorkflowError(message + ", and does not end in -api", workflow=name)


def _assemble(
    name: str,
    prompt: Graph | None,
    editor: dict[str, Any] | None,
    source: _Yaml,
    object_info: ObjectInfo | None,
    *,
    title: str = "",
    description: str = "",
) -> Workflow:
    entries = _convert(name, source, _File, source.data)
    draft = WorkflowDraft(
        name=name,
        title=title or entries.title,
        description=description or entries.description,
        prompt=prompt,
        editor=editor,
        parameters=tuple(_parameters(name, source, entries.parameters or {})),
        openai=entries.openai,
        infer=entries.infer,
    )
    try:
        return complete_workflow(draft, object_info)
    except Flaw as flaw:
        line = source.line("parameters", flaw.parameter, flaw.key) if flaw.parameter else None
        file = name + PARAMETERS if flaw.parameter else None
        kind = NeedsObjectInfo if isinstance(flaw, Incomplete) else WorkflowError
        raise kind(str(flaw), workflow=name, file=file, line=line) from flaw
    except ConversionError as error:
        raise WorkflowError(str(error), workflow=name, file=name + EDITOR) from error


def _check(name: str, prompt: Graph) -> None:
    try:
        check_graph(prompt)
    except Flaw as flaw:
        raise WorkflowError(str(flaw), workflow=name, file=name + API) from flaw


def _read_text(folder: Path, name: str, suffix: str) -> str:
    file = name + suffix
    try:
        if (size := (folder / file).stat().st_size) > LARGEST_FILE:
            message = f"has {size} bytes; the limit is {LARGEST_FILE}"
            raise WorkflowError(message, workflow=name, file=file)
        return (folder / file).read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise WorkflowError("the file is missing", workflow=name, file=file) from error
    except OSError as error:
        raise WorkflowError(f"cannot be read: {error.strerror}", workflow=name, file=file) from error
    except UnicodeDecodeError as error:
        raise WorkflowError("is not UTF-8", workflow=name, file=file) from error


def _read_json(folder: Path, name: str, suffix: str) -> dict[str, Any]:
    file = name + suffix
    text = _read_text(folder, name, suffix)
    try:
        data = json.loads(text, object_pairs_hook=_unique, parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        raise WorkflowError(f"is not JSON: {error.msg}", workflow=name, file=file, line=error.lineno) from error
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise WorkflowError(f"is not usable JSON: {reason}", workflow=name, file=file) from error
    if not isinstance(data, dict):
        raise WorkflowError("must hold a JSON object", workflow=name, file=file)
    return data


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A key that is there twice would silently drop a node."""
    data = dict(pairs)
    if len(data) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key {twice!r} is there twice")
    return data


def _no_constant(word: str) -> None:
    raise ValueError(f"{word} is not a JSON value")


def _read_editor(folder: Path, name: str) -> dict[str, Any] | None:
    if not (folder / (name + EDITOR)).exists():
        return None
    editor = _read_json(folder, name, EDITOR)
    if not isinstance(editor.get("nodes"), list):
        message = "is not a graph of the editor: it has no list of nodes"
        raise WorkflowError(message, workflow=name, file=name + EDITOR)
    return editor


def _read_yaml(name: str, text: str) -> _Yaml:
    file = name + PARAMETERS
    if len(text) > LARGEST_YAML:
        message = f"has {len(text)} characters; the limit is {LARGEST_YAML}"
        raise WorkflowError(message, workflow=name, file=file)
    try:
        loader = yaml.SafeLoader(text)
        root = loader.get_single_node()
        _check_size(name, root)
        lines = dict(_lines(name, root, ()))
        return _Yaml(data={} if root is None else loader.construct_document(root), lines=lines)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else None
        message = f"is not YAML: {error.problem or error.context}"
        raise WorkflowError(message, workflow=name, file=file, line=line) from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise WorkflowError(f"is not YAML: {type(error).__name__}", workflow=name, file=file) from error


def _check_size(name: str, root: yaml.Node | None) -> None:
    """Aliases of aliases make a short text a tree without end: what they stand for counts each time."""
    waiting, seen = [root], 0
    while waiting:
        node = waiting.pop()
        seen += 1
        if isinstance(node, yaml.MappingNode):
            waiting += [part for pair in node.value for part in pair]
        elif isinstance(node, yaml.SequenceNode):
            waiting += node.value
        if seen + len(waiting) > MOST_YAML:
            message = f"holds more than {MOST_YAML} values, those that aliases stand for counted each time"
            raise WorkflowError(message, workflow=name, file=name + PARAMETERS)


def _lines(name: str, node: yaml.Node | None, path: _Path) -> Iterator[tuple[_Path, int]]:
    """Where each key down to those of a parameter stands. No deeper, so that an alias to itself cannot loop."""
    if not isinstance(node, yaml.MappingNode) or len(path) > 2:
        return
    seen = set()
    for key, value in node.value:
        if not isinstance(key, yaml.ScalarNode):
            continue
        line = key.start_mark.line + 1
        if key.value in seen:
            what = "parameter" if path == ("parameters",) else "key"
            message = f"the {what} {key.value} is there twice"
            raise WorkflowError(message, workflow=name, file=name + PARAMETERS, line=line)
        seen.add(key.value)
        yield (*path, key.value), line
        yield from _lines(name, value, (*path, key.value))


def _convert(name: str, source: _Yaml, type_: type[T], data: Any, *path: str) -> T:
    """Checks keys and types of what was written.

    Raises:
        WorkflowError: with msgspec's words, and the line of the key they are about.
    """
    try:
        return msgspec.convert(data, type_)
    except msgspec.ValidationError as error:
        text = str(error)
        found = re.search(r"unknown field `([^`]*)`|at `\$\.(\w+)", text)
        key = (found[1] or found[2]) if found else ""
        prefix = f"parameter {path[-1]}: " if path else ""
        if key == "type":
            text = f"{text}; the types are {', '.join(ParameterType)}"
        line = source.line(*path, key)
        raise WorkflowError(prefix + text, workflow=name, file=name + PARAMETERS, line=line) from error


def _parameters(name: str, source: _Yaml, entries: dict[Any, Any]) -> Iterator[ParameterDraft]:
    for key, data in entries.items():
        entry = _convert(name, source, _ParameterEntry, data, "parameters", str(key))
        if entry.choices == []:
            message, line = f"parameter {key}: choices are empty", source.line("parameters", str(key), "choices")
            raise WorkflowError(message, workflow=name, file=name + PARAMETERS, line=line)
        yield ParameterDraft(
            name=str(key),
            type=entry.type,
            targets=_targets(name, source, str(key), entry),
            default=entry.default_value,
            required=entry.required,
            minimum=entry.minimum,
            maximum=entry.maximum,
            step=entry.step,
            max_length=entry.max_length,
            choices=tuple(entry.choices or ()),
            description=entry.description,
            group=entry.group,
            order=entry.order,
        )


def _targets(name: str, source: _Yaml, parameter: str, entry: _ParameterEntry) -> tuple[Target, ...]:
    if (entry.node_id, entry.input_name) == (None, None) and not entry.targets:
        return ()
    short = entry.node_id is not None and entry.input_name is not None
    if short == bool(entry.targets) or (entry.targets and (entry.node_id, entry.input_name) != (None, None)):
        message = f"parameter {parameter}: needs either node_id and input_name, or targets"
        line = source.line("parameters", parameter)
        raise WorkflowError(message, workflow=name, file=name + PARAMETERS, line=line)
    if entry.node_id is not None and entry.input_name is not None:
        return (Target(node_id=str(entry.node_id), input_name=entry.input_name),)
    return tuple(Target(node_id=str(target.node_id), input_name=target.input_name) for target in entry.targets)
