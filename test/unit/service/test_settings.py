"""Settings of an agent: what is derived from them, and what is refused."""

from typing import Any

import pytest
from pydantic import ValidationError

from test.unit.service.support import service_settings


def test_the_agent_has_a_stable_name_and_address_without_being_told() -> None:
    settings = service_settings(service_port=8102)
    assert settings.agent.endswith("-8102")
    assert settings.address == f"http://{settings.agent.removesuffix('-8102')}:8102"


def test_given_names_are_kept() -> None:
    settings = service_settings(agent_id="gpu-1", service_address="http://service:8101")
    assert (settings.agent, settings.address) == ("gpu-1", "http://service:8101")


def test_labels_are_pairs() -> None:
    assert service_settings(agent_labels=" gpu=4090, room = 2 ,,plain").labels() == {
        "gpu": "4090",
        "room": "2",
        "plain": "",
    }
    assert service_settings().labels() == {}


def test_several_addresses_of_one_instance_are_separated_by_commas() -> None:
    settings = service_settings(comfyui_url="http://a:8188/, https://b/comfyui/")
    assert settings.comfyui_urls == ("http://a:8188", "https://b/comfyui")


@pytest.mark.parametrize(
    "wrong",
    [
        {"comfyui_url": "a:8188"},
        {"comfyui_url": "http://a,ftp://b"},
        {"comfyui_url": ""},
        {"agent_id": "a/../b"},
        {"agent_id": "a b"},
        {"agent_id": "x" * 65},
        {"grace_seconds": 0},
        {"storing_limit": 0},
        {"service_port": 0},
    ],
)
def test_what_cannot_work_is_refused_at_the_start(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        service_settings(**wrong)
