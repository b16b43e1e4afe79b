"""`comfyctl workflow …`: what can be done to workflows without the system."""

import argparse
import json
import sys
from typing import Any

from comfy_balancer.cli.errors import CommandError
from comfy_balancer.cli.reading import parse, read_bytes, read_object_info
from comfy_shared.workflows.converting import ConversionError, convert
from comfy_shared.workflows.pictures import PictureError, is_picture, read_picture


def add(groups: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds the group."""
    parser = groups.add_parser("workflow", help="workflows", description="Works on workflows; needs no server.")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _add_convert(commands)


def _add_convert(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    text = "Prints the API graph (the prompt) of a graph that the ComfyUI editor saved, as its own export would."
    parser = commands.add_parser("convert", help="editor graph to API graph", description=text)
    parser.add_argument(
        "graph", metavar="GRAPH", help="the saved graph, or a PNG or WebP picture that carries it; - reads stdin"
    )
    parser.add_argument(
        "--object-info",
        required=True,
        metavar="FILE_OR_URL",
        help="what GET /object_info answers: a file, or the address of a ComfyUI",
    )
    parser.add_argument(
        "--keep-unknown",
        action="store_true",
        help="keep nodes of classes that object info lacks, as the editor does: without class_type",
    )
    parser.set_defaults(run=_convert)


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
