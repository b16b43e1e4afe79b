"""`comfyctl workflow …`: what can be done to workflows without the system."""

import argparse
import json
import sys
from typing import Any

import yaml

from comfy_balancer.cli.errors import CommandError
from comfy_balancer.cli.reading import parse, read_bytes, read_object_info
from comfy_shared.workflows import (
    ConversionError,
    Parameter,
    ParameterType,
    Workflow,
    WorkflowDraft,
    complete_workflow,
    convert,
)
from comfy_shared.workflows.checks import Flaw, own_value
from comfy_shared.workflows.pictures import PictureError, is_picture, read_picture


def add(groups: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds the group."""
    parser = groups.add_parser("workflow", help="workflows", description="Works on workflows; needs no server.")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _add_convert(commands)
    _add_infer(commands)


def _add_convert(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    text = "Prints the API graph (the prompt) of a graph that the ComfyUI editor saved, as its own export would."
    parser = commands.add_parser("convert", help="editor graph to API graph", description=text)
    _add_sources(parser)
    parser.add_argument(
        "--keep-unknown",
        action="store_true",
        help="keep nodes of classes that object info lacks, as the editor does: without class_type",
    )
    parser.set_defaults(run=_convert)


def _add_infer(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    text = "Prints a parameter file (NAME.yaml) for a graph: what a caller would set, with types, limits and choices."
    parser = commands.add_parser("infer", help="parameters of a graph", description=text)
    _add_sources(parser)
    parser.set_defaults(run=_infer)


def _add_sources(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "graph", metavar="GRAPH", help="the saved graph, or a PNG or WebP picture that carries it; - reads stdin"
    )
    parser.add_argument(
        "--object-info",
        required=True,
        metavar="FILE_OR_URL",
        help="what GET /object_info answers: a file, or the address of a ComfyUI",
    )


def _convert(given: argparse.Namespace) -> int:
    graph = _graph(given.graph)
    object_info = read_object_info(given.object_info)
    try:
        prompt = convert(graph, object_info, keep_unknown=given.keep_unknown)
    except ConversionError as error:
        raise CommandError(f"{given.graph}: {error}") from error
    json.dump(prompt, sys.stdout, indent=2)
    sys.stdout.write("\n")
    return 0


def _infer(given: argparse.Namespace) -> int:
    graph = _graph(given.graph)
    if not isinstance(graph, dict):
        raise CommandError(f"{given.graph}: this is no graph: not an object")
    editor = graph if isinstance(graph.get("nodes"), list) else None
    draft = WorkflowDraft(name="graph", prompt=None if editor else graph, editor=editor)
    try:
        workflow = complete_workflow(draft, read_object_info(given.object_info))
    except (ConversionError, Flaw) as error:
        raise CommandError(f"{given.graph}: {error}") from error
    entries = {parameter.name: _entry(workflow, parameter) for parameter in workflow.parameters}
    yaml.safe_dump({"parameters": entries}, sys.stdout, sort_keys=False, width=120, allow_unicode=True)
    return 0


def _entry(workflow: Workflow, parameter: Parameter) -> dict[str, Any]:
    """A parameter as it stands in a parameter file, with the graph's own value as its default."""
    slots = [{"node_id": target.node_id, "input_name": target.input_name} for target in parameter.targets]
    entry: dict[str, Any] = {**slots[0]} if len(slots) == 1 else {"targets": slots}
    entry["type"] = parameter.type.value
    if not parameter.type.is_file and parameter.type is not ParameterType.SEED:
        entry["default_value"] = own_value(workflow.prompt, parameter)
    entry |= parameter.limits()
    return entry | {key: getattr(parameter, key) for key in ("group", "description") if getattr(parameter, key)}


def _graph(name: str) -> Any:
    data = read_bytes(name)
    if not is_picture(data):
        return parse(name, data)
    try:
        graphs = read_picture(data)
    except PictureError as error:
        raise CommandError(f"{name}: {error}") from error
    if graphs.workflow is None:
        raise CommandError(f"{name}: the picture carries the API graph, but not the editor's")
    return graphs.workflow
