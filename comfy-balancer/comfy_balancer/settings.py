"""Settings of the balancer, from the environment or `.env`. Every limit that a client can run into is one of them."""

from pydantic import Field

from comfy_shared.settings import Count, Seconds, SharedSettings

MiB = 1024 * 1024


class BalancerSettings(SharedSettings):
    """One balancer; all of its processes."""

    service_host: str = Field("0.0.0.0", description="Address that the balancer listens on.")
    service_port: int = Field(7999, ge=1, le=65535, description="Port that the balancer listens on.")
    balancer_workers: Count = Field(2, description="Processes that answer requests.")

    queue_limit: Count = Field(100_000, description="Most tasks that may wait.")
    owner_queued_limit: Count = Field(50_000, description="Most tasks of one owner that may wait.")
    idempotency_ttl: Seconds = Field(86400.0, description="How long an Idempotency-Key is remembered.")
    default_timeout: Seconds = Field(3600.0, description="Time limit of an attempt when the task names none.")
    longest_timeout: Seconds = Field(86400.0, description="Longest time limit that a task may name.")
    batch_limit: Count = Field(1000, description="Most tasks of one batch.")
    streams_limit: Count = Field(1000, description="Most event streams of one owner in one process.")
    node_limit: Count = Field(5000, description="Most nodes of one prompt.")

    json_limit: Count = Field(16 * MiB, description="Most bytes of a JSON body.")
    values_limit: Count = Field(100_000, description="Most values (commas, objects, lists) of a JSON body.")
    form_limit: Count = Field(512 * MiB, description="Most bytes of a multipart body.")
    file_limit: Count = Field(100 * MiB, description="Most bytes of one uploaded file.")
    files_limit: Count = Field(32, description="Most files of one multipart body.")
    pixel_limit: Count = Field(100_000_000, description="Most pixels of an uploaded picture, all frames together.")
    input_retention: Seconds = Field(86400.0, description="How long an uploaded file that no task names is kept.")

    purge_seconds: Seconds = Field(30.0, description="Time between two purges.")
    sweep_seconds: Seconds = Field(1.0, description="Longest time between two sweeps.")
    ready_seconds: Seconds = Field(1.0, description="Longest wait of /readyz for Redis and the file store.")
