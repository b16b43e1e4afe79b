"""Settings of the balancer, from the environment or `.env`. Every limit that a client can run into is one of them."""

from typing import Self

from pydantic import Field, field_validator, model_validator

from comfy_balancer.addresses import AddressPolicy, networks
from comfy_balancer.node_policy import CORE, RISKY, RUNS_CODE
from comfy_shared.callers import Role
from comfy_shared.settings import Count, Seconds, SharedSettings

MiB = 1024 * 1024


class BalancerSettings(SharedSettings):
    """One balancer; all of its processes."""

    service_host: str = Field("0.0.0.0", description="Address that the balancer listens on.")
    service_port: int = Field(7999, ge=1, le=65535, description="Port that the balancer listens on.")
    balancer_workers: Count = Field(2, description="Processes that answer requests.")

    open_port: int = Field(0, ge=0, le=65535, description="A port that asks for no log-in; 0: none.")
    open_port_host: str = Field("127.0.0.1", description="Address that it listens on.")
    open_port_owner: str = Field(
        "", pattern=r"^([A-Za-z0-9][A-Za-z0-9_.@-]{0,63})?$", description="In whose name every request there acts."
    )
    open_port_role: Role = Field(Role.USER, description="What requests there may do: `user` or `admin`.")
    ticket_seconds: Seconds = Field(30.0, le=60, description="How long a ticket is good.")

    queue_limit: Count = Field(100_000, description="Most tasks that may wait.")
    owner_queued_limit: Count = Field(50_000, description="Most tasks of one owner that may wait.")
    idempotency_ttl: Seconds = Field(86400.0, description="How long an Idempotency-Key is remembered.")
    default_timeout: Seconds = Field(3600.0, description="Time limit of an attempt when the task names none.")
    longest_timeout: Seconds = Field(86400.0, description="Longest time limit that a task may name.")
    batch_limit: Count = Field(1000, description="Most tasks of one batch.")
    streams_limit: Count = Field(1000, description="Most event streams of one owner in one process.")
    node_limit: Count = Field(5000, description="Most nodes of one prompt.")

    openai_default_model: str = Field("", description="Workflow of an OpenAI call that names no model; empty: refused.")
    openai_seconds: Seconds = Field(600.0, description="Longest wait of an OpenAI call for its pictures.")
    public_url: str = Field("", description="How clients reach us, for addresses in answers; empty: as they did now.")
    mcp_seconds: Seconds = Field(600.0, description="Longest wait of a tool call over MCP for its result.")
    link_seconds: Seconds = Field(3600.0, description="How long an address of a picture in an answer is good.")

    nodes_allowed_user: str = Field(
        ",".join(CORE), description="Node classes that prompts of the role user may name: patterns, or module:PATTERN."
    )
    nodes_denied_user: str = Field(",".join(RISKY), description="Those that they may not name all the same.")
    nodes_allowed_admin: str = Field("*", description="The same for the role admin.")
    nodes_denied_admin: str = Field(",".join(RUNS_CODE), description="The same for the role admin.")

    json_limit: Count = Field(16 * MiB, description="Most bytes of a JSON body.")
    values_limit: Count = Field(100_000, description="Most values (commas, objects, lists) of a JSON body.")
    form_limit: Count = Field(512 * MiB, description="Most bytes of a multipart body.")
    file_limit: Count = Field(100 * MiB, description="Most bytes of one uploaded file.")
    files_limit: Count = Field(32, description="Most files of one multipart body.")
    pixel_limit: Count = Field(100_000_000, description="Most pixels of an uploaded picture, all frames together.")
    userdata_limit: Count = Field(64 * MiB, description="Most bytes of what an owner saves in the ComfyUI editor.")
    input_retention: Seconds = Field(86400.0, description="How long an uploaded file that no task names is kept.")

    fetch_timeout: Seconds = Field(
        20.0, description="How long an input URL may take to be fetched, redirects included."
    )
    fetch_limit: Count = Field(100 * MiB, description="Most bytes behind one input URL.")
    fetch_redirects: int = Field(3, ge=0, le=20, description="Redirects of an input URL that are followed.")
    fetch_private: str = Field(
        "",
        description="Addresses that are not public and may be fetched from all the same, on any port: networks "
        "separated by commas, or `true` for all.",
    )
    fetch_ports: str = Field("80,443", description="Ports of public addresses that may be fetched from.")
    sheet_limit: Count = Field(200, description="Most pictures of one contact sheet.")

    purge_seconds: Seconds = Field(30.0, description="Time between two purges.")
    sweep_seconds: Seconds = Field(1.0, description="Longest time between two sweeps.")
    ready_seconds: Seconds = Field(1.0, description="Longest wait of /readyz for Redis and the file store.")

    @field_validator("fetch_private")
    @classmethod
    def _networks(cls, value: str) -> str:
        networks(value)
        return value

    @field_validator("fetch_ports")
    @classmethod
    def _ports(cls, value: str) -> str:
        if not all(part.strip().isdecimal() and 0 < int(part) < 65536 for part in value.split(",")):
            raise ValueError("FETCH_PORTS must be numbers separated by commas")
        return value

    @property
    def address_policy(self) -> AddressPolicy:
        ports = frozenset(int(part) for part in self.fetch_ports.split(","))
        return AddressPolicy(private=networks(self.fetch_private), ports=ports)

    @model_validator(mode="after")
    def _open_port_is_somebodys(self) -> Self:
        if self.open_port and not self.open_port_owner:
            raise ValueError("OPEN_PORT needs OPEN_PORT_OWNER: in whose name its requests act")
        if self.open_port == self.service_port:
            raise ValueError("OPEN_PORT must not be SERVICE_PORT")
        return self
