"""Settings that come from the test alone: neither the environment nor a `.env` of the developer changes a test."""

from pathlib import Path
from typing import Any

from pydantic_settings import BaseSettings, PydanticBaseSettingsSource

from comfy_shared.settings import SharedSettings


class FixedSettings(SharedSettings):
    """`SharedSettings` from its arguments and defaults only."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (init_settings,)


def settings_for(port: int, namespace: str, folder: Path, **changes: Any) -> SharedSettings:
    """Settings for a Redis on `port` and a file store in `folder`."""
    values: dict[str, Any] = {
        "redis_port": port,
        "redis_namespace": namespace,
        "file_store": folder.resolve().as_uri(),
    }
    return FixedSettings(**(values | changes))
