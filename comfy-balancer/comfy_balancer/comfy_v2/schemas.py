"""What this door answers with: the contract's objects, field by field. `UNSET` leaves an optional one out."""

from typing import Any

from msgspec import UNSET, Struct, UnsetType


class Asset(Struct, frozen=True, kw_only=True):
    """An upload, or an output."""

    id: str
    hash: str | None  # blake3:HEX; None: not known (of an output)
    size_bytes: int
    content_type: str
    file_path: str | None
    created_new: bool | UnsetType = UNSET  # only in answers that create
    created_at: str
    url: str
    url_expires_at: str
    expires_at: str
    job_id: str | UnsetType = UNSET  # only of outputs


class Output(Struct, frozen=True, kw_only=True):
    """What a job produced."""

    node_id: str
    name: str
    type: str  # image, video, audio, text, file, latent
    content_type: str
    size_bytes: int
    id: str
    hash: str | None
    url: str
    url_expires_at: str
    job_id: str


class Progress(Struct, frozen=True, kw_only=True):
    """How far a running job is: each a whole picture."""

    value: float
    nodes_done: int
    nodes_total: int
    current_node: str | None = None
    current_node_class: str | None = None
    step: int | None = None
    steps: int | None = None
    message: str | None = None


class JobError(Struct, frozen=True, kw_only=True):
    """Why a job failed."""

    code: str
    message: str
    node_id: str | None
    class_type: str | None
    traceback: str | None = None


class JobUrls(Struct, frozen=True, kw_only=True):
    """Where to go on from a job."""

    self: str
    events: str
    cancel: str


class Job(Struct, frozen=True, kw_only=True):
    """One execution of a workflow."""

    id: str
    status: str
    created_at: str
    started_at: str | None
    completed_at: str | None
    expires_at: str
    queue_position: int | None
    progress: Progress | None
    outputs: list[Output]
    error: JobError | None
    metrics: dict[str, int | None]
    outputs_reused: bool | UnsetType
    urls: JobUrls
    metadata: str | dict[str, str] | UnsetType = UNSET
    priority: int | UnsetType = UNSET
    create_time: str | UnsetType = UNSET  # only in lists: what the SDKs' summaries read
    update_time: str | UnsetType = UNSET


class JobList(Struct, frozen=True, kw_only=True):
    """One page of jobs, newest first."""

    jobs: list[Job]
    truncated: bool  # fewer than asked for, because the search was cut short
    next_cursor: str | UnsetType = UNSET


class JobWorkflow(Struct, frozen=True, kw_only=True):
    """The graph that runs."""

    workflow: dict[str, Any]
    format: str = "api"


class StatusEvent(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A job's status, told live."""

    status: str
    queue_position: int | None = None


class PreviewEvent(Struct, frozen=True, kw_only=True):
    """A picture of a step."""

    node_id: str
    content_type: str
    data_base64: str


class Health(Struct, frozen=True, kw_only=True):
    """This process answers."""

    status: str = "healthy"
