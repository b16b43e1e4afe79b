"""A request → a draft: the concrete prompt, checked, with the slots that take files. Pure functions; no I/O.

A draft names its files by hash only. Whether they are stored is the caller's to find out; everything else that can be
wrong with a task is found here, with the field that the client wrote: a slot that a parameter fills is
`parameters.NAME`.
"""

import re
import secrets
from collections.abc import Callable, Mapping, Sequence, Set
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec

from comfy_balancer.catalog import Release
from comfy_balancer.checks import (
    SHA256,
    check_outputs,
    check_paths,
    check_structure,
    file_inputs,
    takes_upload,
)
from comfy_balancer.eligibility import Member, check_needs
from comfy_balancer.linked_names import check_linked_names
from comfy_balancer.node_policy import NodePolicy
from comfy_balancer.schemas import TaskRequest
from comfy_balancer.settings import BalancerSettings
from comfy_balancer.uploads import Kind
from comfy_balancer.validation import check_complete, placed
from comfy_shared.errors import FieldProblem, InvalidTask
from comfy_shared.models import Needs, Prompt
from comfy_shared.needs import Offer, needs_of
from comfy_shared.output_options import OutputOptions, PictureFormat
from comfy_shared.workflows import ParameterError, ParameterType, Rendered, Workflow, render

LABEL_NAME = re.compile(r"[A-Za-z0-9_.-]{1,63}")
LABEL_LENGTH = 256  # characters of a label's value
KINDS: dict[ParameterType, frozenset[Kind]] = {
    ParameterType.IMAGE: frozenset({Kind.PICTURE}),
    ParameterType.MASK: frozenset({Kind.PICTURE}),
    ParameterType.VIDEO: frozenset({Kind.VIDEO}),
    ParameterType.AUDIO: frozenset({Kind.AUDIO, Kind.VIDEO}),
}
ANY_KIND = frozenset(Kind) - {Kind.OTHER}
NEEDS_FILE = "must be the sha256 of an upload, task:ID/NAME, a data URL, an http(s) URL, or a file part of the form"


class DoorRequest(TaskRequest, frozen=True, kw_only=True):
    """A task of a door that knows more of it than REST can say. Never decoded from a client's bytes."""

    # node → input → sha256: takes that file, whatever the object info says
    files: dict[str, dict[str, str]] = msgspec.field(default_factory=dict)
    notes: dict[str, Any] = msgspec.field(default_factory=dict)  # what the door wants back with the task


@dataclass(frozen=True, kw_only=True, slots=True)
class Slot:
    """An input of the prompt that takes a file."""

    node: str
    input: str
    sha256: str
    field: str  # as the client knows it
    kinds: frozenset[Kind]  # what it may be


class Draft(msgspec.Struct, frozen=True, kw_only=True):
    """A task that could run, if its files are there."""

    request: TaskRequest
    prompt: bytes  # the graph as JSON: what was checked, encoded again
    needs: Needs
    parameters: dict[str, Any]  # effective
    workflow: Workflow | None
    slots: tuple[Slot, ...]
    version: int = 0  # of the workflow


@dataclass(frozen=True, kw_only=True, slots=True)
class Surroundings:
    """What a request is checked against."""

    settings: BalancerSettings
    offers: Sequence[Offer]
    nodes: NodePolicy  # of the caller's role
    workflows: Mapping[str, Workflow]
    nearest: Mapping[str, list[str]] = field(default_factory=dict)  # of names that are no workflow
    releases: Mapping[str, Release] = field(default_factory=dict)  # which versions of the workflows run
    members: Sequence[Member] = ()  # whose the offers are
    hold: bool = False  # a task that no agent can run is to wait for one


def draw_seed() -> int:
    return secrets.randbits(53)


def draft(
    request: TaskRequest,
    around: Surroundings,
    parts: Mapping[str, str] = {},
    draw_seed: Callable[[], int] = draw_seed,
    chance: int | None = None,
) -> Draft:
    """The checked draft of one task. `parts` are the form's files: part name → sha256; `chance` (0 to 99) decides
    about the canary instead of a draw.

    Raises:
        InvalidTask: all that does not fit, as far as it can be told at once.
    """
    problems = check_fields(request, around.settings)
    if (request.workflow is None) == (request.prompt is None):
        problems.append(FieldProblem(field="workflow", message="either a workflow or a prompt must be given, not both"))
    if problems:
        raise InvalidTask(tuple(problems))
    if request.workflow is not None:
        return _from_release(request, request.workflow, around, parts, draw_seed, chance)
    try:
        return _from_prompt(request, around, parts)
    except InvalidTask as error:
        raise placed(error, None, request.prompt or {}) from None


def _from_release(
    request: TaskRequest,
    name: str,
    around: Surroundings,
    parts: Mapping[str, str],
    draw_seed: Callable[[], int],
    chance: int | None,
) -> Draft:
    """By the canary when it is drawn and the request fits it too, else by the active version."""
    release = around.releases.get(name)
    if release and release.canary and (secrets.randbelow(100) if chance is None else chance) < release.share:
        trial = replace(around, workflows={**around.workflows, name: release.canary})
        with suppress(InvalidTask):
            one = _from_workflow(request, name, trial, parts, draw_seed)
            return msgspec.structs.replace(one, version=release.canary_number)
    workflow = around.workflows.get(name)
    try:
        one = _from_workflow(request, name, around, parts, draw_seed)
    except InvalidTask as error:
        raise placed(error, workflow, workflow.prompt if workflow else {}) from None
    return msgspec.structs.replace(one, version=release.number if release else 0)


def check_fields(request: TaskRequest, settings: BalancerSettings) -> list[FieldProblem]:
    """What is wrong with the fields besides workflow, parameters and prompt."""
    problems = []
    if request.timeout is not None and request.timeout > settings.longest_timeout:
        message = f"must be at most {settings.longest_timeout:g}"
        limits = {"maximum": settings.longest_timeout}
        problems.append(FieldProblem(field="timeout", message=message, limits=limits))
    return (
        problems
        + _check_output(request.output)
        + _check_labels("labels", request.labels)
        + _check_labels("require", request.require)
    )


def _check_output(options: OutputOptions | None) -> list[FieldProblem]:
    if options is None or options.quality is None:
        return []
    if options.format is None:
        return [FieldProblem(field="output.quality", message="needs a format: jpeg, webp or avif")]
    if options.format is PictureFormat.PNG:
        return [FieldProblem(field="output.quality", message="does not apply to png, which loses nothing")]
    return []


def _check_labels(group: str, labels: Mapping[str, str]) -> list[FieldProblem]:
    problems = []
    for name, value in labels.items():
        where = f"{group}.{name[:64].encode('unicode_escape', 'replace').decode()}"
        if not LABEL_NAME.fullmatch(name):
            problems.append(FieldProblem(field=where, message="a name has 1 to 63 of A-Z a-z 0-9 _ . -"))
        elif len(value) > LABEL_LENGTH or not value.isprintable():
            problems.append(FieldProblem(field=where, message=f"must be at most {LABEL_LENGTH} printable characters"))
    return problems


def _from_workflow(
    request: TaskRequest, name: str, around: Surroundings, parts: Mapping[str, str], draw_seed: Callable[[], int]
) -> Draft:
    workflow = around.workflows.get(name)
    if workflow is None:
        near = list(around.nearest.get(name, []))
        message = f"there is no workflow {name[:64]!r}"
        raise InvalidTask((FieldProblem(field="workflow", message=message, nearest=near),))
    types = {parameter.name: parameter.type for parameter in workflow.parameters}
    _check_parts(request, workflow, parts)
    try:
        rendered = render(workflow, {**request.parameters, **parts}, draw_seed=draw_seed)
    except ParameterError as error:
        raise InvalidTask(tuple(_parameter_problem(problem) for problem in error.problems)) from None
    slots = tuple(
        Slot(
            node=file.node_id,
            input=file.input_name,
            sha256=file.value,
            field=f"parameters.{file.parameter}",
            kinds=KINDS[types[file.parameter]],
        )
        for file in rendered.inputs
    )
    problems = [
        FieldProblem(field=slot.field, message=NEEDS_FILE) for slot in slots if not SHA256.fullmatch(slot.sha256)
    ]
    needs = needs_of(rendered.prompt, around.offers, request.require)
    if not problems:
        problems = _check_rendered(request, workflow, rendered, needs, around)
    if problems:
        raise InvalidTask(tuple(problems))
    return Draft(
        request=request,
        prompt=msgspec.json.encode(rendered.prompt),
        needs=needs,
        parameters=rendered.parameters,
        workflow=workflow,
        slots=slots,
    )


def _check_parts(request: TaskRequest, workflow: Workflow, parts: Mapping[str, str]) -> None:
    files = [parameter.name for parameter in workflow.parameters if parameter.type.is_file]
    for part in parts:
        if part not in files:
            message = f"no parameter of {workflow.name} takes a file of this name"
            raise InvalidTask((FieldProblem(field=part, message=message, nearest=files),))
        if part in request.parameters:
            raise InvalidTask((FieldProblem(field=f"parameters.{part}", message="is also a file part"),))


def _parameter_problem(problem: Any) -> FieldProblem:
    return FieldProblem(
        field=f"parameters.{problem.parameter}",
        message=problem.message,
        nearest=list(problem.nearest),
        limits=problem.limits,
    )


def _check_rendered(
    request: TaskRequest,
    workflow: Workflow,
    rendered: Rendered,
    needs: Needs,
    around: Surroundings,
) -> list[FieldProblem]:
    """The graph is the operator's; what the caller put into it is checked like any other input."""
    filled: dict[str, str] = {}
    touched: Prompt = {}
    for parameter in workflow.parameters:
        for target in parameter.targets:
            filled[f"prompt.{target.node_id}.inputs.{target.input_name}"] = f"parameters.{parameter.name}"
            if parameter.name in request.parameters:
                node = rendered.prompt[target.node_id]
                part = touched.setdefault(target.node_id, {"class_type": node["class_type"], "inputs": {}})
                part["inputs"][target.input_name] = node["inputs"][target.input_name]
    problems = check_paths(touched, around.offers) or _check_runs(rendered.prompt, needs, around)
    return [msgspec.structs.replace(problem, field=filled.get(problem.field, problem.field)) for problem in problems]


def _check_runs(prompt: Prompt, needs: Needs, around: Surroundings) -> list[FieldProblem]:
    """Why no agent can run the prompt, or none would run all of it."""
    problems = check_needs(prompt, needs, around.offers, around.members, hold=around.hold)
    return problems or check_complete(prompt, needs, around.offers)


def _from_prompt(request: TaskRequest, around: Surroundings, parts: Mapping[str, str]) -> Draft:
    if request.parameters:
        raise InvalidTask((FieldProblem(field="parameters", message="only a workflow has parameters"),))
    problems = check_structure(request.prompt, node_limit=around.settings.node_limit)
    if problems:
        raise InvalidTask(tuple(problems))
    if problems := around.nodes.check(request.prompt or {}, around.offers, hold=around.hold):
        raise InvalidTask(tuple(problems))
    prompt: Prompt = {
        node_id: {**node, "inputs": {**node["inputs"]}} for node_id, node in (request.prompt or {}).items()
    }
    for part, sha256 in parts.items():
        node_id, name = _slot_of(part, prompt, around.offers)
        prompt[node_id]["inputs"][name] = sha256
    placed = _placed(request)
    # What a file of ours stands for on the instance is not known yet: no list of its has it.
    checked = _without(prompt, {(slot.node, slot.input) for slot in placed})
    problems = check_paths(checked, around.offers) + check_linked_names(checked, around.offers)
    slots, without_file = _upload_slots(checked, around.offers)
    told = {problem.field for problem in problems}
    problems += [problem for problem in without_file if problem.field not in told]
    needs = needs_of(checked, around.offers, request.require)
    problems = (
        problems
        or check_outputs(prompt, around.offers)
        or check_needs(checked, needs, around.offers, around.members, hold=around.hold)
        or check_complete(prompt, needs, around.offers)
    )
    if problems:
        raise InvalidTask(tuple(problems))
    return Draft(
        request=request,
        prompt=msgspec.json.encode(prompt),
        needs=needs,
        parameters={},
        workflow=None,
        slots=(*placed, *slots),
    )


def _upload_slots(prompt: Prompt, offers: Sequence[Offer]) -> tuple[list[Slot], list[FieldProblem]]:
    """The slots that the object info tells, and the inputs among them that name no file of ours."""
    slots, problems = [], []
    for node_id, name, value in file_inputs(prompt, offers):
        here = f"prompt.{node_id}.inputs.{name}"
        if isinstance(value, str) and SHA256.fullmatch(value):
            slots.append(Slot(node=node_id, input=name, sha256=value, field=here, kinds=ANY_KIND))
        else:
            problems.append(FieldProblem(field=here, message=NEEDS_FILE))
    return slots, problems


def _placed(request: TaskRequest) -> list[Slot]:
    """The slots that a door names itself."""
    files = request.files if isinstance(request, DoorRequest) else {}
    return [
        Slot(node=node_id, input=name, sha256=sha256, field=f"prompt.{node_id}.inputs.{name}", kinds=ANY_KIND)
        for node_id, inputs in files.items()
        for name, sha256 in inputs.items()
    ]


def _without(prompt: Prompt, left_out: Set[tuple[str, str]]) -> Prompt:
    """The prompt without some of its inputs."""
    changed = {
        node_id: {
            **prompt[node_id],
            "inputs": {
                name: value for name, value in prompt[node_id]["inputs"].items() if (node_id, name) not in left_out
            },
        }
        for node_id, _ in left_out
    }
    return {**prompt, **changed} if changed else prompt


def _slot_of(part: str, prompt: Prompt, offers: Sequence[Offer]) -> tuple[str, str]:
    """Node and input of a part's name; ids and names may hold dots themselves."""
    for at in (index for index, character in enumerate(part) if character == "."):
        node_id, name = part[:at], part[at + 1 :]
        if node_id in prompt and takes_upload(prompt[node_id]["class_type"], name, offers):
            return node_id, name
    message = "no input of the prompt takes a file of this name (NODE_ID.INPUT_NAME)"
    raise InvalidTask((FieldProblem(field=part, message=message),))
