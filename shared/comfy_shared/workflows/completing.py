"""A workflow from what somebody wrote of it: parts of three files, or a graph alone. Object info fills the rest. Pure.

What is written wins. A parameter that has its type and its slots (a choice: its choices too) is taken as it stands.
Of another, object info gives what is missing; one without slots takes those of the inferred parameter of its name.
When no parameter is written, or one of them is not complete, the graph's other parameters are inferred as well;
`infer` says it outright either way.
"""

from typing import Any

import msgspec

from comfy_shared.workflows.checks import Flaw, Incomplete, check_graph, check_parameter
from comfy_shared.workflows.converting import ObjectInfo, convert
from comfy_shared.workflows.inferring import describe, infer_parameters, specify
from comfy_shared.workflows.storing import make_workflow
from comfy_shared.workflows.tracing import Uses
from comfy_shared.workflows.values import Graph, Limit, OpenAIMapping, Parameter, ParameterType, Target, Workflow

_LIMITS = ("minimum", "maximum", "step", "choices")


class ParameterDraft(msgspec.Struct, frozen=True, kw_only=True):
    """A parameter as far as it is written; None or empty: not said."""

    name: str
    type: ParameterType | None = None
    targets: tuple[Target, ...] = ()
    default: Any = None
    required: bool = False
    minimum: Limit | None = None
    maximum: Limit | None = None
    step: Limit | None = None
    max_length: int | None = None
    choices: tuple[str | int | float, ...] = ()
    description: str = ""
    group: str = ""
    order: int | None = None

    @property
    def complete(self) -> bool:
        """Whether it can be used as it stands."""
        return bool(self.targets) and self.type is not None and (self.type is not ParameterType.CHOICE or self.limited)

    @property
    def limited(self) -> bool:
        return bool(self.choices)


class WorkflowDraft(msgspec.Struct, frozen=True, kw_only=True):
    """A workflow as far as it is written."""

    name: str
    title: str = ""  # empty: the name
    description: str = ""
    prompt: Graph | None = None  # None: to be made of the editor's graph
    editor: dict[str, Any] | None = None
    parameters: tuple[ParameterDraft, ...] = ()
    openai: OpenAIMapping | None = None
    infer: bool | None = None  # whether parameters that are not written are inferred; None: see above


def complete_workflow(draft: WorkflowDraft, object_info: ObjectInfo | None) -> Workflow:
    """The whole, checked workflow.

    `object_info` is what an instance that is to run it answers to GET /object_info; None: nothing can be filled in.
    Whether an instance would run all of the graph is another question: `soundness.check_sound`.

    Raises:
        ConversionError: there is no prompt, and the editor's graph cannot become one.
        Flaw: what is written contradicts itself or the graph; names the parameter and its key, if it is one.
    """
    prompt = draft.prompt
    if prompt is None:
        if draft.editor is None:
            raise Flaw("there is neither a graph in API format nor the editor's")
        if object_info is None:
            raise Incomplete("there is no graph in API format, and it takes an agent's object info to make it")
        prompt = convert(draft.editor, object_info)
    check_graph(prompt)
    return make_workflow(
        name=draft.name,
        title=draft.title or draft.name,
        description=draft.description,
        prompt=prompt,
        editor=draft.editor,
        parameters=_parameters(draft, prompt, object_info),
        openai=draft.openai,
    )


def _parameters(draft: WorkflowDraft, prompt: Graph, object_info: ObjectInfo | None) -> tuple[Parameter, ...]:
    incomplete = not draft.parameters or not all(written.complete for written in draft.parameters)
    others = incomplete if draft.infer is None else draft.infer
    if object_info is None or not (incomplete or others):
        return tuple(sorted(_as_written(draft.parameters), key=lambda parameter: parameter.order))
    taken = frozenset(written.name for written in draft.parameters if written.targets)
    inferred = infer_parameters(prompt, object_info, editor=draft.editor, taken=taken)
    uses = Uses(prompt, object_info)
    parameters = []
    for place, written in enumerate(draft.parameters, 1):
        named = next((each for each in inferred if each.name == written.name), None)
        known = named if not written.targets else _known(prompt, object_info, written, uses)
        parameters.append(written_as(written, place) if written.complete else _filled(prompt, written, place, known))
    if others:
        slots = {target for parameter in parameters for target in parameter.targets}
        names = {parameter.name for parameter in parameters}
        last = max((parameter.order for parameter in parameters), default=0)
        free = [each for each in inferred if each.name not in names and not slots.intersection(each.targets)]
        parameters += [msgspec.structs.replace(each, order=last + n) for n, each in enumerate(free, 1)]
    return tuple(sorted(parameters, key=lambda parameter: parameter.order))


def _as_written(drafts: tuple[ParameterDraft, ...]) -> list[Parameter]:
    for written in drafts:
        if written.type is None:
            raise Incomplete("has no type, and no object info tells it", parameter=written.name, key="type")
        if not written.targets:
            raise Incomplete("needs either node_id and input_name, or targets", parameter=written.name)
    return [written_as(written, place) for place, written in enumerate(drafts, 1)]


def written_as(written: ParameterDraft, place: int) -> Parameter:
    """A complete draft as a parameter; `place` is its order when it has none."""
    said = msgspec.structs.asdict(written) | {"order": place if written.order is None else written.order}
    return msgspec.convert(said, Parameter)


def _known(prompt: Graph, object_info: ObjectInfo, written: ParameterDraft, uses: Uses) -> Parameter | None:
    """What object info says of a written parameter's first slot."""
    target = written.targets[0]
    found = specify(prompt, object_info, target, uses)
    if found is None:
        return None
    return describe(prompt, written.type or found[0], written.name, target, found[1], order=0)


def _untold(written: ParameterDraft) -> Flaw:
    if not written.targets:
        return Flaw("is in no slot that could be inferred", parameter=written.name)
    lacking = "type" if written.type is None else "choices"
    return Flaw(f"has no {lacking}, and object info does not tell", parameter=written.name, key=lacking)


def _filled(prompt: Graph, written: ParameterDraft, place: int, known: Parameter | None) -> Parameter:
    """What is written, and of what is known as much as goes with it."""
    if known is None:
        raise _untold(written)
    type_ = written.type or known.type
    said = {
        "type": type_,
        "targets": written.targets or known.targets,
        "description": written.description or known.description,
        "group": written.group or known.group,
    }
    limits = {
        key: getattr(known, key)
        for key in _LIMITS
        if type_ is known.type and getattr(known, key) and not getattr(written, key)
    }
    plain = written_as(msgspec.structs.replace(written, **said), place)
    full = msgspec.structs.replace(plain, **limits)
    try:
        check_parameter(prompt, full)
    except Flaw:
        return plain  # a limit of object info that the written ones rule out; what is wrong beyond is told later
    return full
