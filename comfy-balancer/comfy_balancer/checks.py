"""Is this graph sound, and does it keep its hands off the instance's files? Pure functions; all problems at once.

ComfyUI trusts whoever reaches it: LoadImage reads what `..` leads to, an unknown link is an exception with a server
path. So structure is checked here, and every input that a node could use as a file name must be a plain relative
name. Ordinary text is left alone: which inputs name files is told by the object info and by their names.
"""

import re
import unicodedata
from collections.abc import Iterator, Sequence
from typing import Any, TypeGuard

from comfy_shared.errors import FieldProblem
from comfy_shared.models import Needs, Prompt
from comfy_shared.needs import Holders, Offer, is_upload, missing, nearest, nobody
from comfy_shared.workflows.checks import is_link
from comfy_shared.workflows.soundness import find_circle
from comfy_shared.workflows.values import INTEGER_HIGHEST, INTEGER_LOWEST

DEPTH = 64  # levels of lists and objects within each other
LONGEST_ID = 64  # characters of a node id
LONGEST_NAME = 256  # characters of a class or input name
MOST_INPUTS = 1000  # of one node
LONGEST_FILE_NAME = 1024  # characters of an input that names a file
MOST_PROBLEMS = 50
MOST_EXPLAINED = 16  # problems for which similar names are looked up
MOST_CHOICES = 64  # a longer list is not told
LONGEST_VALUE = 200  # characters of a value that is told
SHA256 = re.compile(r"[0-9a-f]{64}")

_FILE_INPUTS = frozenset(
    {
        "audio", "dir", "directory", "file", "filename", "filename_prefix", "filenames", "files", "folder", "image",
        "images", "mask", "model_file", "model_path", "path", "paths", "prefix", "uri", "url", "video", "videos",
    },
)  # fmt: skip
_FILE_LIKE = re.compile(
    r"(^|_)(file|filename|path|dir|directory|folder|url|uri|upload)s?\d*($|_)|(file|save|output|path)_prefix$|_name\d*$",
)
_LOADER_INPUTS = frozenset({"image", "mask", "audio", "video", "file"})
_ANNOTATION = re.compile(r"\[\s*(input|output|temp)\s*\]", re.IGNORECASE)
_MACRO = re.compile(r"%[A-Za-z][^%/\\]*%")  # %date:yyyy-MM-dd%, %Empty Latent Image.width%
_ESCAPED = re.compile(r"%(2e|2f|5c|00)", re.IGNORECASE)
_VARIABLE = re.compile(r"(^|/)\s*(~|\$[{(A-Za-z_])")


def check_structure(prompt: object, *, node_limit: int) -> list[FieldProblem]:
    """Whether it is a graph in API format: nodes, links that lead somewhere, no circle, nothing that cannot be kept."""
    if not isinstance(prompt, dict) or not prompt:
        return [_problem("prompt", "must be an object of nodes in API format, and not empty")]
    if isinstance(prompt.get("nodes"), list):
        return [_problem("prompt", "is the editor's graph; export it in API format")]
    if len(prompt) > node_limit:
        limits = {"maximum": node_limit}
        return [FieldProblem(field="prompt", message=f"has more than {node_limit} nodes", limits=limits)]
    problems = []
    for node_id, node in prompt.items():
        problems += _check_node(node_id, node, prompt)
        if len(problems) >= MOST_PROBLEMS:
            return problems
    if not problems and (circle := find_circle(prompt)):
        problems.append(_problem(f"prompt.{circle}", "is part of a circle of links"))
    return problems


def _problem(field: str, message: str, **more: Any) -> FieldProblem:
    return FieldProblem(field=field, message=message, **more)


def _check_node(node_id: str, node: Any, prompt: dict[str, Any]) -> list[FieldProblem]:
    if not node_id or len(node_id) > LONGEST_ID or not node_id.isprintable():
        shown = node_id[:LONGEST_ID].encode("unicode_escape", "replace").decode()
        return [_problem(f"prompt.{shown}", f"a node id has 1 to {LONGEST_ID} printable characters")]
    here = f"prompt.{node_id}"
    if not isinstance(node, dict):
        return [_problem(here, "must be an object with class_type and inputs")]
    problems = []
    class_type = node.get("class_type")
    if not isinstance(class_type, str) or not class_type or len(class_type) > LONGEST_NAME:
        problems.append(_problem(f"{here}.class_type", f"must be a text of 1 to {LONGEST_NAME} characters"))
    inputs = node.get("inputs")
    if not isinstance(inputs, dict):
        return [*problems, _problem(f"{here}.inputs", "must be an object")]
    if len(inputs) > MOST_INPUTS:
        return [*problems, _problem(f"{here}.inputs", f"has more than {MOST_INPUTS} inputs")]
    for name, value in inputs.items():
        where = f"{here}.inputs.{name[:LONGEST_NAME]}"
        if len(name) > LONGEST_NAME:
            problems.append(_problem(where, f"an input's name has at most {LONGEST_NAME} characters"))
        elif _is_link(value):
            problems += _check_link(where, value, prompt)
        else:
            problems += _check_value(where, value)
    for name in node.keys() - {"class_type", "inputs"}:
        problems += _check_value(f"{here}.{name[:LONGEST_NAME]}", node[name])
    return problems


def _is_link(value: object) -> TypeGuard[list[Any]]:
    return is_link(value)


def _check_link(where: str, link: list[Any], prompt: dict[str, Any]) -> list[FieldProblem]:
    node_id, slot = link
    if node_id not in prompt:
        return [_problem(where, f"is a link to node {node_id[:LONGEST_ID]!r}, which does not exist")]
    if not isinstance(slot, int) or not 0 <= slot < 1000:
        return [_problem(where, "is a link whose output slot is no whole number from 0")]
    return []


def _check_value(where: str, value: Any) -> list[FieldProblem]:
    """Walks level by level: no depth of the value can exhaust the stack."""
    level = [value]
    for _ in range(DEPTH - 3):  # the prompt, the node and its inputs are levels too
        inner: list[Any] = []
        for item in level:
            if isinstance(item, dict):
                inner += item.values()
            elif isinstance(item, list):
                inner += item
            elif isinstance(item, int) and not INTEGER_LOWEST <= item <= INTEGER_HIGHEST:
                limits = {"minimum": INTEGER_LOWEST, "maximum": INTEGER_HIGHEST}
                return [_problem(where, "holds an integer beyond 64 bits", limits=limits)]
        if not inner:
            return []
        level = inner
    return [_problem(where, f"is nested deeper than {DEPTH} levels", limits={"maximum": DEPTH})]


def check_outputs(prompt: Prompt, offers: Sequence[Offer]) -> list[FieldProblem]:
    """Whether some node ends the graph; without one ComfyUI has nothing to do."""
    classes = {node["class_type"] for node in prompt.values()}
    known = {name for name in classes if any(offer.knows(name) for offer in offers)}
    if not offers or known != classes or any(offer.is_output(name) for offer in offers for name in classes):
        return []
    return [_problem("prompt", "has no node that makes an output (such as SaveImage)")]


def check_offered(
    prompt: Prompt,
    needs: Needs,
    offers: Sequence[Offer],
    holders: Holders = nobody,
) -> list[FieldProblem]:
    """Why no agent can run the prompt. Only the first nodes at fault are explained: looking for similar names costs.

    `holders` names the agents that have a class or file all the same.
    """
    if not offers or any(offer.meets(needs) for offer in offers):
        return []
    lacking = {
        (class_type, name, value)
        for class_type, name, value in needs.choices
        if not any(value in (offer.choices(class_type, name) or ()) for offer in offers)
    }
    classes = {name for name in needs.classes if not any(offer.knows(name) for offer in offers)}
    suspects: Prompt = {}
    for node_id, node in prompt.items():
        files = ((node["class_type"], name, value) for name, value in node["inputs"].items() if isinstance(value, str))
        if node["class_type"] in classes or any(file in lacking for file in files):
            suspects[node_id] = node
        if len(suspects) == MOST_EXPLAINED:
            break
    return missing(suspects, needs, offers, holders)


def check_choices(prompt: Prompt, needs: Needs, offers: Sequence[Offer]) -> list[FieldProblem]:
    """Values outside the list of their input, on every agent that knows the class; the first few.

    Model files are needs and told by `check_offered`; uploads have no list. A value that one agent lists, or that one
    agent takes without a list, is fine.
    """
    files = set(needs.choices)
    knowing_of = {name: [offer for offer in offers if offer.knows(name)] for name in needs.classes}
    listed_of = {
        name: frozenset.intersection(*(offer.listed(name) for offer in knowing)) if knowing else frozenset[str]()
        for name, knowing in knowing_of.items()
    }
    problems: list[FieldProblem] = []
    for node_id, node in prompt.items():
        class_type = node["class_type"]
        knowing = knowing_of[class_type]
        listed = listed_of[class_type]
        for name, value in node["inputs"].items() if listed else ():
            if name not in listed or not isinstance(value, str | int | float) or (class_type, name, value) in files:
                continue
            if any(offer.takes(class_type, name, value) for offer in knowing):
                continue
            known = sorted({choice for offer in knowing for choice in offer.choices(class_type, name) or ()})
            problems.append(
                FieldProblem(
                    field=f"prompt.{node_id}.inputs.{name}",
                    message=f"no agent lists the value {_told(value)}",
                    nearest=nearest(str(value), known),
                    limits={"choices": known} if 0 < len(known) <= MOST_CHOICES else {},
                )
            )
            if len(problems) == MOST_EXPLAINED:
                return problems
    return problems


def _told(value: str | float) -> str:
    return repr(value[:LONGEST_VALUE] if isinstance(value, str) else value)


def file_inputs(prompt: Prompt, offers: Sequence[Offer]) -> Iterator[tuple[str, str, object]]:
    """(node, input, value) of the inputs that take an uploaded file."""
    for node_id, node in prompt.items():
        for name, value in node["inputs"].items():
            if not _is_link(value) and takes_upload(node["class_type"], name, offers):
                yield node_id, name, value


def takes_upload(class_type: str, name: str, offers: Sequence[Offer]) -> bool:
    """By the object info, or, for a class that no agent has shown yet, by its name."""
    entries = [offer.specification(class_type, name) for offer in offers if offer.knows(class_type)]
    if entries:
        return any(entry is not None and is_upload(entry) for entry in entries)
    return class_type.startswith("Load") and name in _LOADER_INPUTS


def check_paths(prompt: Prompt, offers: Sequence[Offer]) -> list[FieldProblem]:
    """Whether every input that a node may use as a file name is a plain relative name."""
    problems = []
    for node_id, node in prompt.items():
        class_type = node["class_type"]
        for name, value in node["inputs"].items():
            if isinstance(value, int | float) or _is_link(value):
                continue
            if not names_file(name) and not takes_upload(class_type, name, offers):
                continue
            for text in _texts(value):
                if any(text in (offer.choices(class_type, name) or ()) for offer in offers):
                    continue  # the instance's own name for one of its models
                if reason := path_trick(text):
                    problems.append(_problem(f"prompt.{node_id}.inputs.{name}", reason))
                    break
        if len(problems) >= MOST_PROBLEMS:
            break
    return problems


def names_file(name: str) -> bool:
    """Whether an input of this name is taken for a file name."""
    name = name.lower()
    return name in _FILE_INPUTS or _FILE_LIKE.search(name) is not None


def _texts(value: Any) -> Iterator[str]:
    level = [value]
    while level:
        item = level.pop()
        if isinstance(item, str):
            yield item
        elif isinstance(item, list):
            level += item
        elif isinstance(item, dict):
            level += item.values()


def path_trick(text: str) -> str | None:
    """What makes this file name leave its folder or mean something else, or None. Look-alike characters count."""
    if len(text) > LONGEST_FILE_NAME:
        return f"must have at most {LONGEST_FILE_NAME} characters"
    if any(unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp") for character in text):
        return "must not contain control or invisible characters"
    plain = _MACRO.sub("x", unicodedata.normalize("NFKC", text)).strip()
    plain = plain.translate({0x2215: "/", 0x2044: "/", 0x29F8: "/", 0x2216: "\\", 0x29F5: "\\"})
    if _ESCAPED.search(plain):
        return "must not contain escaped characters"
    if "\\" in plain:
        return "must not contain a backslash"
    if plain.startswith("/"):
        return "must not be an absolute path"
    if any(len(part) > 1 and not part.strip(". ") for part in (part.strip() for part in plain.split("/"))):
        return "must not contain .. as a folder"
    if ":" in plain:
        return "must not contain a colon (drive letter, URL, stream)"
    if _ANNOTATION.search(plain):
        return "must not name a folder by [input], [output] or [temp]"
    if _VARIABLE.search(plain):
        return "must not contain a home folder or a variable"
    return None
