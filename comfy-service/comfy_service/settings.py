"""Settings of one agent, from the environment or `.env`."""

import socket
from typing import Literal

from pydantic import Field, field_validator

from comfy_shared.settings import Count, Seconds, SharedSettings


class ServiceSettings(SharedSettings):
    """One agent and its instance."""

    service_host: str = Field("0.0.0.0", description="Address that the agent's own routes listen on.")
    service_port: int = Field(8101, ge=1, le=65535, description="Port of the agent's own routes.")
    service_address: str = Field(
        "", description="Address of those routes as others see it; empty: made of host name and port."
    )
    comfyui_url: str = Field(
        "http://127.0.0.1:8188",
        description="Address of the ComfyUI instance; of several, separated by commas, the first that answers is used.",
    )
    agent_id: str = Field(
        "", pattern=r"^[A-Za-z0-9_.-]{0,64}$", description="Stable id of this agent; empty: host name and port."
    )
    agent_labels: str = Field("", description="Labels of this agent: name=value,name=value.")
    workflows_folder: str = Field("workflows", description="Folder whose workflows are loaded into Redis at start.")
    editor_publish: bool = Field(
        False,
        description="Publish what is saved in this instance's editor in the folder publish/, or with the tag publish.",
    )
    lock_folder: str = Field("/tmp", description="Folder of the lock that keeps the agent loop in one process.")

    heartbeat_seconds: Seconds = Field(5.0, description="Time between two heartbeats.")
    heartbeat_ttl: Seconds = Field(15.0, description="Silence after which the agent counts as gone.")
    grace_seconds: Seconds = Field(
        30.0, description="How long a stop waits for running tasks before it gives them back."
    )
    silence_seconds: Seconds = Field(
        2.0, description="Silence of the websocket after which queue and history are asked."
    )
    patience_seconds: Seconds = Field(
        30.0, description="How long an instance may answer nothing before it counts as lost."
    )
    recheck_seconds: Seconds = Field(
        15.0, description="Longest wait of an idle agent between two claims, should a wake-up be lost."
    )
    breaker_failures: int = Field(
        5, ge=0, description="Attempts in a row that must fail before no task is claimed until a probe works; 0: never."
    )
    breaker_seconds: Seconds = Field(15.0, description="Wait before the first probe; it doubles while probes fail.")
    memory_growth_limit: float = Field(
        0.8, ge=0, le=1, description="Share of the machine's memory by which its use may grow; 0: no limit."
    )
    memory_guard: Literal["report", "drain"] = Field(
        "report", description="At that limit: only say so, or also claim no more until memory is free again."
    )
    storing_limit: Count = Field(
        4, description="Finished prompts whose outputs may be on their way while the next one runs."
    )
    largest_output: Count = Field(4 * 1024**3, description="Most bytes of one output.")
    most_outputs: Count = Field(1000, description="Most outputs of one task.")
    pixel_limit: Count = Field(100_000_000, description="Most pixels of a picture that is converted.")
    strip_metadata: bool = Field(
        False, description="Take the graph out of PNG outputs of tasks that do not say themselves."
    )

    @field_validator("comfyui_url")
    @classmethod
    def _addresses(cls, value: str) -> str:
        if not all(url.strip().startswith(("http://", "https://")) for url in value.split(",")):
            raise ValueError("COMFYUI_URL must begin with http:// or https://")
        return value

    @property
    def comfyui_urls(self) -> tuple[str, ...]:
        return tuple(url.strip().rstrip("/") for url in self.comfyui_url.split(","))

    @property
    def agent(self) -> str:
        return self.agent_id or f"{socket.gethostname()}-{self.service_port}"

    @property
    def address(self) -> str:
        return self.service_address or f"http://{socket.gethostname()}:{self.service_port}"

    def labels(self) -> dict[str, str]:
        pairs = (item.partition("=") for item in self.agent_labels.split(",") if item.strip())
        return {name.strip(): value.strip() for name, _, value in pairs}
