"""What the queue is given and answers: frozen values.

The pair (task id, attempt number) together with the agent's session is the fence of every report.
"""

from collections.abc import Mapping
from typing import NamedTuple

import msgspec

from comfy_shared.models import Needs, Status, Task


class Idempotency(msgspec.Struct, frozen=True, kw_only=True):
    """What makes a repeated submit the same submit."""

    owner: str
    key: str  # the client's
    fingerprint: str  # of the body


class Submitted(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to a submit."""

    known: bool  # True: accepted by an earlier call with the same key
    ids: tuple[str, ...]  # of the tasks, in the order of the call
    created_at: int  # 0 when known
    positions: tuple[int, ...]  # tasks ahead of each; empty when known


class Attempt(msgspec.Struct, frozen=True, kw_only=True):
    """A claimed task: the fencing token of every report."""

    task: Task
    session: str

    @property
    def id(self) -> str:
        return self.task.id

    @property
    def number(self) -> int:
        return self.task.attempt


class BrokenAttempt(msgspec.Struct, frozen=True, kw_only=True):
    """A claimed task whose record cannot be read; only failing it is left."""

    id: str
    number: int
    session: str
    reason: str


class UnknownLanes(msgspec.Struct, frozen=True, kw_only=True):
    """Lanes that the agent has to judge before it can claim."""

    needs: Mapping[str, Needs | None]  # lane → what it needs; None: the record is gone, so try


class Nothing:
    """No task for this agent now; it counts as idle and will be woken."""


class Draining:
    """The agent was told to drain."""


class Unregistered:
    """Redis does not know this session of the agent: register first."""


ClaimReply = Attempt | BrokenAttempt | UnknownLanes | Nothing | Draining | Unregistered


class Swept(msgspec.Struct, frozen=True, kw_only=True):
    """What a sweep did."""

    statuses: Mapping[str, Status]  # task → its status after its lease had run out
    next_lease: float | None  # seconds until the next lease runs out


class Purged(NamedTuple):
    """What is past its retention."""

    tasks: tuple[str, ...]  # ids: forgotten
    inputs: tuple[str, ...]  # addresses of files that no task names any more
    outputs: tuple[str, ...]  # ids of tasks whose files no task names any more
