"""A call → the parameters of a workflow: by the workflow's `openai` section, else by the usual names. Pure functions.

| field | parameter |
|---|---|
| prompt | `text`, `prompt` or `positive`, else the only text |
| size | `width` and `height` |
| image, image[] | the parameters that take a picture, in order |
| mask | the parameter that takes a mask |
| n | that many tasks; with a seed the following ones count up from it |
| quality | `quality`, else nothing |
| anything else | the parameter of that name |
"""

from collections.abc import Mapping
from typing import Any

import msgspec

from comfy_balancer.openai_api.requests import ImageRequest
from comfy_shared.errors import FieldProblem, InvalidTask
from comfy_shared.http.problems import invalid
from comfy_shared.needs import nearest
from comfy_shared.workflows import OpenAIMapping, Parameter, ParameterType, Workflow

PROMPT_NAMES = ("text", "prompt", "positive", "positive_text", "positive_prompt")


class Places(msgspec.Struct, frozen=True, kw_only=True):
    """Which parameter takes what; empty: none does."""

    prompt: str
    width: str
    height: str
    seed: str
    images: tuple[str, ...]
    mask: str

    def field_of(self, parameter: str) -> str:
        """The field of the call that set this parameter."""
        named = {self.prompt: "prompt", self.width: "size", self.height: "size", self.mask: "mask"}
        named |= dict.fromkeys(self.images, "image")
        return named.get(parameter, parameter)


def places_of(workflow: Workflow) -> Places:
    """Where the fields of a call go."""
    own = workflow.openai or OpenAIMapping()
    by_name = {parameter.name: parameter for parameter in workflow.parameters}

    def of_type(type_: ParameterType) -> tuple[str, ...]:
        return tuple(parameter.name for parameter in workflow.parameters if parameter.type is type_)

    seeds, masks = of_type(ParameterType.SEED), of_type(ParameterType.MASK)
    return Places(
        prompt=own.prompt or _prompt(by_name, of_type(ParameterType.TEXT)),
        width=own.width or ("width" if "width" in by_name else ""),
        height=own.height or ("height" if "height" in by_name else ""),
        seed=own.seed or ("seed" if "seed" in by_name else next(iter(seeds), "")),
        images=own.images or of_type(ParameterType.IMAGE),
        mask=own.mask or next(iter(masks), ""),
    )


def _prompt(by_name: Mapping[str, Parameter], texts: tuple[str, ...]) -> str:
    named = next((name for name in PROMPT_NAMES if name in by_name), "")
    return named or (texts[0] if len(texts) == 1 else "")


def parameters_of(workflow: Workflow, places: Places, request: ImageRequest) -> list[dict[str, Any]]:
    """The parameters of each of the `n` tasks. Raises InvalidTask."""
    values: dict[str, Any] = {}
    if places.prompt:
        values[places.prompt] = request.prompt
    if request.size is not None:
        if not places.width or not places.height:
            raise invalid("size", f"the model {workflow.name} has a size of its own; leave it out, or say auto")
        values[places.width], values[places.height] = request.size
    values |= _quality(workflow, request) | _pictures(workflow, places, request)
    values |= _more(workflow, places, request.more, values)
    seed = values.get(places.seed)
    if type(seed) is not int or seed < 0:
        return [dict(values) for _ in range(request.n)]
    return [values | {places.seed: seed + number} for number in range(request.n)]


def _quality(workflow: Workflow, request: ImageRequest) -> dict[str, Any]:
    if request.quality in (None, "auto"):
        return {}
    own = workflow.openai.quality if workflow.openai else None
    if own is not None:
        if request.quality not in own.values:
            known = [*own.values]
            raise invalid("quality", f"must be one of {', '.join(known)}", limits={"choices": known})
        return {own.parameter: own.values[request.quality]}
    has = any(parameter.name == "quality" for parameter in workflow.parameters)
    return {"quality": request.quality} if has else {}


def _pictures(workflow: Workflow, places: Places, request: ImageRequest) -> dict[str, Any]:
    if len(request.images) > len(places.images):
        limits = {"maximum": len(places.images)}
        raise invalid("image", f"the model {workflow.name} takes {len(places.images)} pictures", limits=limits)
    if request.mask is not None and not places.mask:
        raise invalid("mask", f"the model {workflow.name} takes no mask")
    found = {name: image.sha256 for name, image in zip(places.images, request.images, strict=False)}
    return found | ({places.mask: request.mask.sha256} if request.mask else {})


def _more(workflow: Workflow, places: Places, more: Mapping[str, Any], taken: Mapping[str, Any]) -> dict[str, Any]:
    known = [parameter.name for parameter in workflow.parameters]
    values = {}
    for name, value in more.items():
        own = places.seed if name == "seed" and places.seed else name
        if own not in known:
            message = f"is no field of this call, and no parameter of the model {workflow.name}"
            raise invalid(name, message, nearest=nearest(name, known))
        if own in taken:
            raise invalid(name, f"is set by {places.field_of(own)} already")
        values[own] = value
    return values


def told(error: InvalidTask, places: Places) -> InvalidTask:
    """The same problems, with the fields that the client wrote: `tasks.0.parameters.width` is its `size`."""

    def field_of(field: str) -> str:
        name = field.partition(".parameters.")[2]
        return places.field_of(name) if name else field.removeprefix("tasks.0.")

    problems = [
        FieldProblem(
            field=field_of(problem.field), message=problem.message, nearest=problem.nearest, limits=problem.limits
        )
        for problem in error.problems
    ]
    return InvalidTask(tuple({problem.field: problem for problem in problems}.values()))
