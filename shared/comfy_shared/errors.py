"""One tree of errors for both tiers; the class docstring is the default message.

    ComfyError
    ├── Refused                  the caller must change something; nothing was enqueued
    │   ├── InvalidTask          fields that do not fit, all of them at once
    │   ├── NotFound             no such task, workflow, agent, output
    │   ├── Conflict             the thing is in a state in which this cannot be done
    │   ├── IdempotencyConflict  the key was used for another body
    │   ├── Forbidden            the caller's role does not allow it
    │   ├── QueueFull            the limit of the whole queue is reached
    │   └── TooLarge             a body, a file or a picture over its limit
    ├── Unavailable              a part that we need is away for now; try again
    ├── Damaged                  what is stored under a key is not what we wrote
    ├── LeaseLost                the right to run the task is gone: stop, report nothing
    └── RunError                 an attempt that ended badly; its class says whether another attempt can help
        ├── InstanceLost         the instance died, hangs or does not answer
        ├── OutOfMemory          the GPU ran out of memory
        ├── DeviceFailed         the GPU itself reports an error
        ├── RunTimeout           the task's time limit passed
        ├── OutputMissing        the prompt says it is done, but a file is not there
        ├── PromptRejected       the instance refuses the prompt (its own node errors)
        ├── NodeFailed           a node raised; ComfyUI's own message
        └── Interrupted          somebody interrupted the prompt at the instance

HTTP codes live in one table in the balancer. Foreign errors (redis, httpx, obstore) stop at the border where they
arise.
"""

from typing import Any

import msgspec


class FieldProblem(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One field that does not fit, and what would."""

    field: str  # where, as a dotted path of the request: "parameters.steps", "prompt.3.inputs.width"
    message: str  # what is wrong with it, for a person
    nearest: list[str] = []  # known names that look like what was sent
    limits: dict[str, Any] = {}  # the limits that were passed: minimum, maximum, choices …
    workflow: str = ""  # name of the workflow, if there is one
    parameter: str = ""  # name of its parameter
    node: str = ""  # id of the node at fault; of several, separated by commas


class ComfyError(Exception):
    """Something went wrong."""

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or type(self).__doc__)

    @property
    def message(self) -> str:
        return str(self.args[0])


class Refused(ComfyError):
    """The request cannot be accepted."""


class InvalidTask(Refused):
    """The request does not fit."""

    def __init__(self, problems: tuple[FieldProblem, ...], message: str | None = None) -> None:
        super().__init__(message or "; ".join(f"{problem.field}: {problem.message}" for problem in problems[:3]))
        self.problems = problems


class NotFound(Refused):
    """There is no such thing."""


class Conflict(Refused):
    """That cannot be done in the present state."""


class IdempotencyConflict(Refused):
    """This Idempotency-Key was used before with a different body."""


class Forbidden(Refused):
    """Your role does not allow this."""


class QueueFull(Refused):
    """The queue is full; try again later."""


class TooLarge(Refused):
    """That is larger than the limit."""


class Unavailable(ComfyError):
    """A part of the system is away for now; nothing was accepted; try again."""


class Damaged(ComfyError):
    """A stored record is not what we wrote."""


class LeaseLost(ComfyError):
    """The lease of this attempt is gone."""


class RunError(ComfyError):
    """The attempt failed."""

    code = "failed"
    retryable = False

    def __init__(self, message: str | None = None, details: dict[str, Any] | None = None) -> None:
        super().__init__(message)
        self.details = details or {}


class InstanceLost(RunError):
    """The ComfyUI instance died, hangs or does not answer."""

    code = "instance_lost"
    retryable = True


class OutOfMemory(RunError):
    """The GPU ran out of memory."""

    code = "out_of_memory"
    retryable = True


class DeviceFailed(RunError):
    """The GPU of the instance reports an error; often only a restart of ComfyUI helps."""

    code = "device_failed"
    retryable = True


class RunTimeout(RunError):
    """The task ran longer than its time limit."""

    code = "timeout"
    retryable = True


class OutputMissing(RunError):
    """The prompt is done, but a file that it names is not there."""

    code = "output_missing"
    retryable = True


class Interrupted(RunError):
    """The prompt was interrupted at the instance by somebody else."""

    code = "interrupted"
    retryable = True


class PromptRejected(RunError):
    """ComfyUI refuses the prompt."""

    code = "prompt_rejected"


class NodeFailed(RunError):
    """A node of the prompt failed."""

    code = "node_failed"
