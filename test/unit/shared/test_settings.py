"""Settings: what is refused, what is secret, what makes a password weak."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from comfy_shared.settings import RedisSettings, SharedSettings
from test.support.settings import FixedSettings


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """In a folder of its own and without settings of the developer."""
    monkeypatch.chdir(tmp_path)
    for name in SharedSettings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
        monkeypatch.delenv(name, raising=False)


def test_the_environment_goes_before_the_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("REDIS_HOST=of-the-file\nREDIS_PORT=7000\nSOMETHING_ELSE=x\n")
    monkeypatch.setenv("REDIS_HOST", "of-the-environment")
    settings = SharedSettings()
    assert (settings.redis_host, settings.redis_port) == ("of-the-environment", 7000)


def test_settings_of_tests_read_neither(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("REDIS_PORT=7000\n")
    monkeypatch.setenv("REDIS_HOST", "of-the-environment")
    assert (FixedSettings().redis_host, FixedSettings().redis_port) == ("127.0.0.1", 6379)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("redis_port", 0),
        ("redis_port", 65536),
        ("redis_port", "six"),
        ("redis_db", -1),
        ("redis_timeout", 0),
        ("redis_connections", 3),
        ("lease_seconds", 0),
        ("lease_seconds", -1),
        ("task_retention", 0),
        ("redis_namespace", ""),
        ("redis_namespace", "a b"),
        ("redis_namespace", "a}b"),
        ("redis_namespace", "a:b"),
        ("redis_namespace", "a\n"),
        ("log_level", "LOUD"),
        ("logdy_port", 70000),
        ("lease_seconds", float("nan")),
    ],
)
def test_a_value_that_cannot_work_is_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(ValidationError, match=name):
        FixedSettings(**{name: value})


def test_secrets_do_not_show() -> None:
    secrets = ("redis_password", "api_password", "s3_access_key_id", "s3_secret_access_key")
    values: dict[str, Any] = {name: f"hidden-{name}" for name in secrets}
    settings = FixedSettings(**values)
    for name in secrets:
        assert getattr(settings, name).get_secret_value() == f"hidden-{name}"
    assert "hidden" not in f"{settings!r} {settings} {settings.model_dump()} {settings.model_dump_json()}"


def test_leases_are_counted_in_milliseconds() -> None:
    assert FixedSettings(lease_seconds=0.25).lease_ms == 250


@pytest.mark.parametrize(
    ("user", "password", "weakness"),
    [
        ("", "long-enough-password", "empty"),
        ("admin", "", "empty"),
        ("admin", "admin", "defaults"),
        ("ann", "short", "shorter than 12"),
        ("a-very-long-name", "A-very-long-name", "equals the user name"),
        ("ann", "twelve chars", None),
    ],
)
def test_weak_passwords_are_named(user: str, password: str, weakness: str | None) -> None:
    found = FixedSettings(api_username=user, api_password=password).password_weakness()
    assert (weakness in found) if found and weakness else (found is weakness)


def test_production_is_a_word() -> None:
    assert FixedSettings(comfy_env="production").production
    assert not FixedSettings().production


def test_every_setting_is_described() -> None:
    for name, field in (RedisSettings.model_fields | SharedSettings.model_fields).items():
        assert field.description, name
