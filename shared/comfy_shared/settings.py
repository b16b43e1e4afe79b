"""Settings that both tiers read from the environment (or `.env`), under the same names."""

from ipaddress import ip_network
from typing import Annotated

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Count = Annotated[int, Field(gt=0)]

DEFAULT_USERNAME, DEFAULT_PASSWORD = "admin", "admin"
SHORTEST_PASSWORD = 12  # characters, in production


class RedisSettings(BaseSettings):
    """Where Redis is."""

    model_config = SettingsConfigDict(env_file=".env", extra="ignore")

    redis_host: str = Field("127.0.0.1", description="Host of Redis.")
    redis_port: int = Field(6379, ge=1, le=65535, description="Port of Redis.")
    redis_password: SecretStr = Field(SecretStr(""), description="Password of Redis; empty for none.")
    redis_db: int = Field(0, ge=0, description="Number of the database.")
    redis_namespace: str = Field("comfy", pattern=r"^[A-Za-z0-9_.-]+$", description="First part of every key.")
    redis_timeout: Seconds = Field(4.0, description="Longest wait for one command, in seconds.")
    redis_connections: int = Field(64, ge=4, description="Most connections of one process; a few are always in use.")


class SharedSettings(RedisSettings):
    """What the queue, the file store and the logs of both tiers must agree on."""

    comfy_env: str = Field("development", description="`production` refuses unsafe settings.")
    api_username: str = Field(DEFAULT_USERNAME, description="User name of the log-in.")
    api_password: SecretStr = Field(SecretStr(DEFAULT_PASSWORD), description="Password of the log-in.")
    trusted_proxies: str = Field(
        "", description="Addresses or networks of proxies whose X-Forwarded-For and -Proto count, separated by commas."
    )
    login_failures: Count = Field(20, description="Wrong log-ins of one address within `login_window`; then 429.")
    login_window: Seconds = Field(60.0, description="Seconds over which wrong log-ins are counted.")

    lease_seconds: Seconds = Field(15.0, description="How long a task stays with an agent that says nothing.")
    priority_ageing: Seconds = Field(
        3600.0, description="Waiting that counts as much as one level of priority: nobody starves."
    )
    owner_running_limit: int = Field(0, ge=0, description="Most tasks of one owner that run at a time; 0: no limit.")
    task_retention: Seconds = Field(7 * 86400.0, description="How long a finished task and its outputs are kept.")
    agent_retention: Seconds = Field(3600.0, description="How long an agent that fell silent is remembered.")
    avoid_seconds: Seconds = Field(
        10.0,
        description="How long another agent goes first after an agent failed a task.",
    )

    file_store: str = Field(
        "file:///var/lib/comfy/files",
        description="Where inputs and outputs are: file:///folder or s3://bucket/prefix.",
    )
    s3_endpoint: str = Field("", description="Address of an S3-compatible server; empty for Amazon's.")
    s3_region: str = Field("us-east-1", description="Region of the bucket.")
    s3_access_key_id: SecretStr = Field(SecretStr(""), description="Empty: from the machine's own credentials.")
    s3_secret_access_key: SecretStr = Field(SecretStr(""), description="Empty: from the machine's own credentials.")

    log_level: str = Field("INFO", pattern="^(DEBUG|INFO|WARNING|ERROR)$", description="Least level that is logged.")
    logdy_host: str = Field("", description="Host of Logdy; empty sends nothing there.")
    logdy_port: int = Field(8475, ge=1, le=65535, description="TCP port of Logdy.")

    @field_validator("trusted_proxies")
    @classmethod
    def _networks(cls, value: str) -> str:
        for part in filter(None, (part.strip() for part in value.split(","))):
            ip_network(part)
        return value

    @property
    def lease_ms(self) -> int:
        return int(self.lease_seconds * 1000)

    @property
    def production(self) -> bool:
        return self.comfy_env == "production"

    def password_weakness(self) -> str | None:
        """Why the log-in must not be used in production, or None when it is fit."""
        password = self.api_password.get_secret_value()
        if not self.api_username or not password:
            return "API_USERNAME or API_PASSWORD is empty"
        if (self.api_username, password) == (DEFAULT_USERNAME, DEFAULT_PASSWORD):
            return "API_USERNAME and API_PASSWORD are the defaults"
        if len(password) < SHORTEST_PASSWORD or password.lower() == self.api_username.lower():
            return f"API_PASSWORD is shorter than {SHORTEST_PASSWORD} characters or equals the user name"
        return None
