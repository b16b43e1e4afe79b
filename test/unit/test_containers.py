"""What the compose file promises of our containers (FAULTS.md S18, S2): read from the files, no engine needed."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent.parent
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
OURS = ("comfy_balancer", "comfy_service_1", "comfy_service_2")


def test_the_services_and_ports_are_the_promised_ones() -> None:
    names = {name for name, service in COMPOSE["services"].items() if "profiles" not in service}
    assert names == {"redis", "logdy", *OURS}
    ports = {port for service in COMPOSE["services"].values() for port in service.get("ports", [])}
    assert ports == {"8080:8080", "7999:7999", "8101:8101", "8102:8102"}
    assert list(COMPOSE["networks"]) == ["comfy_net"]


@pytest.mark.parametrize("name", OURS)
def test_our_containers_have_no_more_rights_than_they_need(name: str) -> None:
    service = COMPOSE["services"][name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert "privileged" not in service


def test_nobody_gets_the_docker_socket() -> None:
    assert "docker.sock" not in (ROOT / "docker-compose.yml").read_text()


@pytest.mark.parametrize("folder", ["comfy-balancer", "comfy-service", "test/simulator"])
def test_images_run_as_a_user_and_install_by_hash(folder: str) -> None:
    text = (ROOT / folder / "Dockerfile").read_text()
    assert re.search(r"^USER 10001$", text, re.MULTILINE)
    assert "--require-hashes" in text
    assert "HEALTHCHECK" in text


def test_no_password_is_on_a_command_line() -> None:
    for service in COMPOSE["services"].values():
        for word in service.get("command", []):
            assert not re.search(r"--(requirepass|password|ui-pass)\b", word)
