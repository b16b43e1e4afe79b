"""Settings of an agent that come from the test alone."""

from typing import Any

from pydantic_settings import BaseSettings, PydanticBaseSettingsSource

from comfy_service.settings import ServiceSettings


class FixedServiceSettings(ServiceSettings):
    """`ServiceSettings` from its arguments and defaults only."""

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


def service_settings(**changes: Any) -> ServiceSettings:
    """The defaults with `changes`."""
    return FixedServiceSettings(**changes)
