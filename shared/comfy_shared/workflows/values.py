"""The values of the workflows package: a workflow, its parameters, and the two errors."""

from enum import StrEnum
from typing import Any

import msgspec

Graph = dict[str, dict[str, Any]]  # node id -> {class_type, inputs, _meta}
Limit = int | float

# What ComfyUI and JSON both carry without loss: from the lowest signed to the highest unsigned 64-bit integer.
INTEGER_LOWEST, INTEGER_HIGHEST = -(2**63), 2**64 - 1


class ParameterType(StrEnum):
    """What a parameter takes."""

    TEXT = "text"
    INTEGER = "integer"
    NUMBER = "number"
    BOOLEAN = "boolean"
    CHOICE = "choice"
    IMAGE = "image"
    MASK = "mask"
    VIDEO = "video"
    AUDIO = "audio"
    MODEL = "model"
    SEED = "seed"

    @property
    def is_file(self) -> bool:
        """Whether the value refers to a file that must be on the instance before the prompt runs."""
        return self in (ParameterType.IMAGE, ParameterType.MASK, ParameterType.VIDEO, ParameterType.AUDIO)


class Target(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One slot of the graph."""

    node_id: str  # a key of the graph
    input_name: str  # an input of that node that holds a value, not a link


class Parameter(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A named, typed slot (or several) of a workflow."""

    name: str  # [a-z][a-z0-9_]*
    type: ParameterType
    targets: tuple[Target, ...]  # where the value goes; at least one
    default: Any = None  # the configured default; None = what the graph holds (a seed: drawn)
    required: bool = False  # the caller must give it
    minimum: Limit | None = None  # integer, number, seed: smallest value, itself included
    maximum: Limit | None = None  # largest value, itself included
    step: Limit | None = None  # integer, number: the value is a multiple of it
    max_length: int | None = None  # text: characters
    choices: tuple[str | int | float, ...] = ()  # choice, model: the only values; empty = not limited here
    description: str = ""  # for a person
    group: str = ""  # heading under which a form shows it
    order: int = 0  # place among the others: lower comes first

    def limits(self) -> dict[str, Any]:
        """The limits that are set, by name."""
        limits: dict[str, Any] = {
            "minimum": self.minimum,
            "maximum": self.maximum,
            "step": self.step,
            "max_length": self.max_length,
            "choices": list(self.choices) or None,
        }
        return {name: limit for name, limit in limits.items() if limit is not None}


class OpenAIQuality(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What an OpenAI client's `quality` means here."""

    parameter: str  # that it sets
    values: dict[str, Any]  # low, medium, high … → the parameter's value


class OpenAIMapping(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """Which parameters an OpenAI client's fields set, where their names do not tell."""

    prompt: str = ""  # name of a parameter; empty: by convention
    width: str = ""
    height: str = ""
    seed: str = ""
    images: tuple[str, ...] = ()  # parameters that take the pictures of an edit, in order
    mask: str = ""
    quality: OpenAIQuality | None = None

    def named(self) -> tuple[str, ...]:
        """All parameters that are named."""
        quality = self.quality.parameter if self.quality else ""
        single = (self.prompt, self.width, self.height, self.seed, self.mask, quality)
        return tuple(name for name in (*single, *self.images) if name)


# A workflow without the fields that have a default has the digest that it had before there were such fields.
class Workflow(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A named template."""

    name: str  # the prefix of its files
    title: str  # for a person, one line
    description: str
    prompt: Graph  # the graph in API format, with the values it was saved with
    editor: dict[str, Any] | None  # the graph as the editor saved it
    parameters: tuple[Parameter, ...]  # in the order to show them
    digest: str  # sha256 (hex) over all the others; equal whatever the order of keys in the files
    openai: OpenAIMapping | None = None


class WorkflowError(Exception):
    """A workflow that cannot be used: which one, in which file and line, and why."""

    def __init__(self, message: str, *, workflow: str, file: str | None = None, line: int | None = None) -> None:
        super().__init__(message)
        self.workflow = workflow  # its name; empty when stored bytes do not even tell that
        self.file = file  # name of the file within the folder; None when it was not read from one
        self.line = line  # counted from 1; None when unknown
        self.message = message

    def __str__(self) -> str:
        place = self.file or f"workflow {self.workflow or '?'}"
        return f"{place}:{self.line}: {self.message}" if self.line else f"{place}: {self.message}"


class NeedsObjectInfo(WorkflowError):
    """A workflow that only an instance's object info can complete."""


class ParameterProblem(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One parameter that does not fit, and what would."""

    parameter: str  # its name, made printable and short when the caller invented it
    message: str  # what is wrong, for a person; never repeats the value
    nearest: tuple[str, ...] = ()  # known names or choices that look like what was sent
    limits: dict[str, Any] = {}  # minimum, maximum, step, max_length, choices: those that are set


class ParameterError(Exception):
    """The parameters do not fit the workflow; all problems at once."""

    def __init__(self, problems: tuple[ParameterProblem, ...]) -> None:
        super().__init__("; ".join(f"{problem.parameter}: {problem.message}" for problem in problems))
        self.problems = problems
