"""The values that both tiers exchange: frozen, keyword-only, decoded and checked by msgspec.

A task's record in Redis is a hash of flat fields, so that a Lua transition changes one of them without decoding the
rest;
`Task.from_hash` is the only reader. Times are whole milliseconds since 1970 by the clock of Redis, unless a name says
otherwise.
"""

import zlib
from collections.abc import Mapping
from enum import StrEnum
from typing import Any, TypeVar

import msgspec
from isal import isal_zlib

from comfy_shared.errors import Damaged
from comfy_shared.output_options import OutputOptions

Prompt = dict[str, dict[str, Any]]

PRIORITY_LOWEST, PRIORITY_NORMAL, PRIORITY_HIGHEST = 0, 5, 9
COMPRESS_FROM = 512  # bytes; below it compressing saves nothing worth a call


class Status(StrEnum):
    """A task's status; finer detail is an event."""

    PENDING = "pending"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELED = "canceled"

    @property
    def final(self) -> bool:
        return self in (Status.COMPLETED, Status.FAILED, Status.CANCELED)


class Policy(StrEnum):
    """Which task an agent is given next."""

    LANE = "lane"  # by what its instance holds in memory, as late as possible
    FIFO = "fifo"  # the oldest, as late as possible
    ROUND_ROBIN = "round-robin"  # bound when it comes, to one agent after the other
    LEAST_LOADED = "least-loaded"  # bound when it comes, to the agent with the fewest tasks
    WEIGHTED_ROUND_ROBIN = "weighted-round-robin"  # bound when it comes, by free VRAM and tasks


class EventType(StrEnum):
    """What one line of a task's story tells."""

    QUEUED = "queued"
    CLAIMED = "claimed"
    STARTED = "started"
    PROGRESS = "progress"
    OUTPUT = "output"
    ADOPTED = "adopted"
    RETRYING = "retrying"
    RELEASED = "released"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELED = "canceled"

    @property
    def final(self) -> bool:
        return self in (EventType.COMPLETED, EventType.FAILED, EventType.CANCELED)


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """How far a prompt is."""

    fraction: float  # of the whole prompt, 0 to 1; never goes back within an attempt
    node: str | None = None  # id of the node that runs now
    node_class: str | None = None  # its class_type
    value: float = 0  # step of the node that runs now
    maximum: float = 0  # steps of the node that runs now; 0 = it tells none
    nodes_done: int = 0  # nodes finished or cached
    nodes_total: int = 0  # nodes of the prompt


class Output(msgspec.Struct, frozen=True, kw_only=True):
    """A file, or a text, that a prompt produced."""

    name: str  # unique within the task, made by us, safe as a file name
    node: str  # id of the node that produced it
    kind: str  # the key ComfyUI lists it under: images, gifs, audio, text, 3d …
    content_type: str  # by its extension; application/octet-stream when unknown
    size: int  # bytes
    sha256: str  # of its bytes, hex
    key: str  # where it is in the file store
    temporary: bool = False  # a preview that ComfyUI would have deleted
    filename: str = ""  # the instance's own name for the file; empty when it is none
    subfolder: str = ""  # where the instance had it
    original: str = ""  # name of the output that this one was converted from; empty: the prompt made it
    problem: str = ""  # why it could not be converted as the task wished; empty: it was, or nobody wished it


class TaskError(msgspec.Struct, frozen=True, kw_only=True):
    """Why an attempt, or the whole task, failed."""

    code: str  # stable word: node_failed, prompt_rejected, instance_lost, timeout …
    message: str  # for a person
    node: str | None = None  # id of the node at fault
    node_class: str | None = None  # its class_type
    details: dict[str, Any] = {}  # ComfyUI's own node errors, the exception type …


class InputFile(msgspec.Struct, frozen=True, kw_only=True):
    """A file of the file store that has to be on the instance before the prompt runs there."""

    node: str  # whose input takes the file's name
    input: str  # name of that input
    sha256: str  # of its bytes, hex: its address
    extension: str  # with the dot, by content: ".png"
    size: int  # bytes


class Needs(msgspec.Struct, frozen=True, kw_only=True):
    """What an instance must offer to run a prompt. Tasks with equal needs share a lane."""

    classes: tuple[str, ...]  # class_type names, sorted, each once
    choices: tuple[
        tuple[str, str, str], ...
    ] = ()  # (class, input, value): must be in that input's list, e.g. a model file
    labels: tuple[tuple[str, str], ...] = ()  # (name, value) that the agent must carry, sorted


class Extra(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a ComfyUI client sent beside its prompt."""

    client_id: str | None = None  # whose sockets are told
    number: int | float | None = None  # as it was answered
    targets: tuple[str, ...] = ()  # nodes that end the graph and are run
    data: dict[str, Any] = {}  # extra_data without its tokens; goes to the instance with the prompt
    names: dict[str, dict[str, str]] = {}  # node → input → the client's own name of an uploaded file
    digest: str = ""  # of the body: the same again is the same call


class Shown(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What an instance's history says of a prompt that succeeded, for ComfyUI clients."""

    outputs: dict[str, Any] = {}  # node → kind → items; files by the instance's own names
    meta: dict[str, Any] = {}
    cached: tuple[str, ...] = ()  # nodes that were taken from the cache


class NewTask(msgspec.Struct, frozen=True, kw_only=True):
    """A task as it is handed to the queue."""

    id: str
    owner: str
    prompt: bytes  # the graph as JSON; inputs that take files still hold what the client wrote
    needs: Needs
    lane: str
    priority: int = PRIORITY_NORMAL
    workflow: str = ""  # name, or empty for a raw prompt
    workflow_digest: str = ""
    workflow_version: int = 0  # 0 for a raw prompt
    parameters: dict[str, Any] = {}  # effective values, a drawn seed included
    labels: dict[str, str] = {}
    inputs: tuple[InputFile, ...] = ()
    timeout: float = 0  # seconds an attempt may run
    max_attempts: int = 3
    reuse: str = ""  # what the result depends on: a task of the same may share it; empty: renders itself
    notes: dict[str, Any] = {}  # what the door that took it wants back with it
    extra: Extra | None = None  # of a ComfyUI client
    front: bool = False  # goes before the owner's own tasks that wait in its lane
    output_options: OutputOptions | None = None


class Task(msgspec.Struct, frozen=True, kw_only=True):
    """A task's record as read from Redis."""

    id: str
    owner: str
    status: Status
    priority: int
    lane: str
    attempt: int  # 0 = never claimed
    max_attempts: int
    created_at: int
    timeout: float  # seconds an attempt may run
    workflow: str = ""
    workflow_digest: str = ""
    workflow_version: int = 0  # which version of it runs; 0 for a raw prompt
    parameters: dict[str, Any] = {}
    labels: dict[str, str] = {}
    inputs: tuple[InputFile, ...] = ()
    agent: str = ""  # who holds or held the last attempt
    prompt_id: str = ""  # the last attempt's id at the instance
    started_at: int = 0  # of the last attempt; 0 = not yet
    finished_at: int = 0  # 0 = not yet
    progress: Progress | None = None
    outputs: tuple[Output, ...] = ()
    error: TaskError | None = None
    events: int = 0  # sequence number of its last event
    position: int | None = None  # tasks ahead of it in the queue; None unless pending
    joined: str = ""  # the task whose result it waits for; empty: it renders itself
    reused: str = ""  # the task whose result it has; empty: its own
    notes: dict[str, Any] = {}  # what the door that took it wants back with it
    batch: str = ""  # the batch that it came with; empty: alone
    output_options: OutputOptions | None = None
    hidden: str = ""  # not in its owner's history as ComfyUI clients see it
    packed_prompt: bytes = b""
    packed_extra: bytes = b""
    packed_shown: bytes = b""

    @property
    def extra(self) -> Extra:
        """What a ComfyUI client sent beside the prompt; empty when none did. Raises Damaged."""
        return decode(unpack(self.packed_extra), Extra) if self.packed_extra else Extra()

    @property
    def shown(self) -> Shown | None:
        """What the instance's history said; None when it was too much, or is not known. Raises Damaged."""
        return decode(unpack(self.packed_shown), Shown) if self.packed_shown else None

    @property
    def prompt(self) -> bytes:
        """The graph as JSON.

        Raises:
            Damaged: the stored bytes are not what `pack` made.
        """
        return unpack(self.packed_prompt)

    @classmethod
    def from_hash(cls, fields: Mapping[bytes, bytes], *, position: int | None = None) -> "Task":
        """Reads the fields that the Lua transitions keep.

        Raises:
            Damaged: a field is missing or is not what we wrote.
        """
        values: dict[str, Any] = {"position": position}
        try:
            for name, raw in fields.items():
                field = name.decode()
                if field in _TEXT_FIELDS:
                    values[field] = raw.decode()
                elif field in _INTEGER_FIELDS:
                    values[field] = int(raw)
                elif field in _JSON_FIELDS:
                    values[field] = _JSON_FIELDS[field].decode(raw)
            values["timeout"] = float(fields[b"timeout"])
            values["status"] = Status(fields[b"status"].decode())
            for packed in _PACKED_FIELDS:
                values[f"packed_{packed}"] = fields.get(packed.encode(), b"")
            return cls(**values)
        except (ValueError, TypeError, KeyError, RecursionError, msgspec.MsgspecError) as error:
            raise Damaged(f"the task record is damaged: {type(error).__name__}") from error


_TEXT_FIELDS = frozenset(
    {"id", "owner", "lane", "workflow", "workflow_digest", "agent", "prompt_id", "joined", "reused", "batch", "hidden"}
)
_PACKED_FIELDS = ("prompt", "extra", "shown")
_INTEGER_FIELDS = frozenset(
    {
        "priority", "attempt", "max_attempts", "created_at", "started_at", "finished_at", "events", "workflow_version",
    },
)  # fmt: skip
_JSON_FIELDS: dict[str, msgspec.json.Decoder[Any]] = {
    "parameters": msgspec.json.Decoder(dict[str, Any]),
    "labels": msgspec.json.Decoder(dict[str, str]),
    "notes": msgspec.json.Decoder(dict[str, Any]),
    "inputs": msgspec.json.Decoder(tuple[InputFile, ...]),
    "progress": msgspec.json.Decoder(Progress),
    "outputs": msgspec.json.Decoder(tuple[Output, ...]),
    "error": msgspec.json.Decoder(TaskError),
    "output_options": msgspec.json.Decoder(OutputOptions),
}


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """One line of a task's story."""

    seq: int  # 1, 2, 3 … within the task, without gaps
    task_id: str
    type: EventType
    at: int
    attempt: int
    data: dict[str, Any] = {}


def pack(data: bytes) -> bytes:
    """Bytes for Redis: compressed when that pays. The first byte tells which."""
    return b"z" + isal_zlib.compress(data, 1) if len(data) >= COMPRESS_FROM else b"j" + data


def unpack(data: bytes) -> bytes:
    """What `pack` was given.

    Raises:
        Damaged: it is not from `pack`.
    """
    if data[:1] == b"j":
        return data[1:]
    if data[:1] == b"z":
        try:
            return zlib.decompress(data[1:])
        except zlib.error as error:
            raise Damaged("compressed bytes are damaged") from error
    raise Damaged("stored bytes have no known mark")


T = TypeVar("T")


def decode(data: bytes, type_: type[T]) -> T:
    """Reads JSON that we wrote ourselves.

    Raises:
        Damaged: it is not.
    """
    try:
        return msgspec.json.decode(data, type=type_)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise Damaged(f"stored JSON is damaged: {type(error).__name__}") from error
