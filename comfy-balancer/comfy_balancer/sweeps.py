"""One request whose parameters are lists → the tasks of a batch. Pure.

No type of parameter takes a list, so a list is always a sweep: each of its values is used by tasks of its own. A list
within a list stays a value, and is refused like any other that does not fit.
"""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from secrets import randbelow
from typing import Any

import msgspec

from comfy_balancer.drafts import draw_seed
from comfy_balancer.schemas import TaskRequest
from comfy_shared.batches import NewBatch
from comfy_shared.errors import FieldProblem, InvalidTask
from comfy_shared.ids import new_id
from comfy_shared.models import NewTask
from comfy_shared.workflows.checks import DRAW

WIDEST = 20  # columns of a contact sheet that follow the last list


@dataclass(frozen=True, kw_only=True, slots=True)
class Point:
    """One task of a call."""

    request: TaskRequest  # each parameter has one value
    places: Mapping[str, int] = field(default_factory=dict)  # swept parameter → which of its values, from 0
    prefix: str = ""  # of its fields, as the client knows them
    seed: int | None = None  # for seeds left open: one for the whole sweep, so that its pictures compare; None: any
    chance: int | None = None  # of the canary: for the same reason all tasks of a sweep run one version

    def draw_seed(self) -> int:
        return draw_seed() if self.seed is None else self.seed

    def told(self, problems: Iterable[FieldProblem]) -> list[FieldProblem]:
        """The problems with the fields that the client wrote."""
        return [msgspec.structs.replace(problem, field=self.field_of(problem.field)) for problem in problems]

    def field_of(self, name: str) -> str:
        for parameter, place in self.places.items():
            if name == f"parameters.{parameter}":
                name = f"{name}.{place}"
        return self.prefix + name


@dataclass(frozen=True, kw_only=True, slots=True)
class Expanded:
    """The tasks of a call, in order."""

    points: tuple[Point, ...]
    axes: tuple[str, ...]  # swept parameters, the one that changes fastest last
    columns: int  # of a contact sheet; 0: as it comes


def expand(requests: Sequence[TaskRequest], *, limit: int, batch: bool) -> Expanded:
    """Every combination of the lists (`product`), or their first values, their second ones … (`zip`).

    Raises:
        InvalidTask: a list is empty, lists of a zip differ in length, or there are more than `limit` tasks.
    """
    points: list[Point] = []
    axes: dict[str, int] = {}
    for index, request in enumerate(requests):
        prefix = f"tasks.{index}." if batch else ""
        lists = {name: value for name, value in request.parameters.items() if isinstance(value, list)}
        if not lists:
            points.append(Point(request=request, prefix=prefix))
        else:
            points += _sweep(request, lists, prefix=prefix, limit=limit - len(points))
            axes |= {name: len(values) for name, values in lists.items()}
        if len(points) > limit:
            raise _problem("tasks", f"a batch has at most {limit} tasks", maximum=limit)
    grid = len(requests) == 1 and len(axes) > 1 and requests[0].sweep == "product"
    columns = list(axes.values())[-1] if grid else 0
    return Expanded(points=tuple(points), axes=tuple(axes), columns=columns if columns <= WIDEST else 0)


def weigh(points: Sequence[Point], *, limit: int) -> None:
    """Refuses a sweep whose texts, repeated for each of its tasks, are larger than the tasks could be sent one by one.

    Raises:
        InvalidTask: they have more than `limit` characters together.
    """
    total = 0
    for point in points:
        texts = {name: len(value) for name, value in point.request.parameters.items() if isinstance(value, str)}
        total += sum(texts.values()) if point.places else 0
        if total > limit:
            longest = point.field_of(f"parameters.{max(texts, key=lambda name: texts[name])}")
            raise _problem(longest, f"the texts of the sweep's tasks are larger than {limit} together", maximum=limit)


def new_ids(number: int) -> list[str]:
    """Ids for the tasks of one call, in the order in which they sort."""
    return sorted([new_id() for _ in range(number)])


def new_batch(expanded: Expanded, tasks: Sequence[NewTask]) -> NewBatch:
    workflows = {task.workflow for task in tasks}
    return NewBatch(
        id=new_ids(1)[0],
        owner=tasks[0].owner,
        workflow=workflows.pop() if len(workflows) == 1 else "",
        axes=expanded.axes,
        columns=expanded.columns,
    )


def distinct(problems: Iterable[FieldProblem]) -> tuple[FieldProblem, ...]:
    """Each problem once: tasks of a sweep share what is wrong with them."""
    return tuple({(problem.field, problem.message): problem for problem in problems}.values())


def _sweep(request: TaskRequest, lists: dict[str, list[Any]], *, prefix: str, limit: int) -> list[Point]:
    for name, values in lists.items():
        if not values:
            raise _problem(f"{prefix}parameters.{name}", "is an empty list: a sweep needs at least one value")
    lengths = [len(values) for values in lists.values()]
    if request.sweep == "zip" and len(set(lengths)) > 1:
        told = ", ".join(f"{name[:64]} {len(values)}" for name, values in list(lists.items())[:8])
        odd = next(name for name, values in lists.items() if len(values) != lengths[0])
        raise _problem(f"{prefix}parameters.{odd}", f"lists that are zipped have the same length; here: {told}")
    number = lengths[0] if request.sweep == "zip" else prod(lengths)
    if number > limit:
        longest = max(lists, key=lambda name: len(lists[name]))
        message = f"the sweep makes {number} tasks; a batch has at most {limit}"
        raise _problem(f"{prefix}parameters.{longest}", message, maximum=limit)
    combine = zip if request.sweep == "zip" else itertools.product
    open_seeds = any(value is None or value == DRAW for inner in lists.values() for value in inner)
    seed, chance = None if open_seeds else draw_seed(), randbelow(100)
    points = []
    for places in combine(*(range(length) for length in lengths)):
        chosen = dict(zip(lists, places, strict=True))
        one_each = {name: lists[name][place] for name, place in chosen.items()}
        one = msgspec.structs.replace(request, parameters={**request.parameters, **one_each})
        points.append(Point(request=one, places=chosen, prefix=prefix, seed=seed, chance=chance))
    return points


def _problem(name: str, message: str, **limits: Any) -> InvalidTask:
    return InvalidTask((FieldProblem(field=name, message=message, limits=limits),))
