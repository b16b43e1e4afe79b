"""The same script with the official SDK against our balancer over two instances, and against comfy-api-proxy over one:
the same answers, field for field, apart from ids, times and extra fields.

`COMFY_V2_URLS=http://a,http://b` takes real ones: both for us, and before that the first for the proxy.
"""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from test.cluster import Cluster
from test.comfy_v2.servers import create_key, official, simulated

pytest.importorskip("comfy_sdk", reason="needs comfy-sdk")
pytest.importorskip("comfy_api_proxy", reason="needs comfy-api-proxy")

from comfy_sdk import Comfy

from test.comfy_v2.journey import Answer, Journey, differences

REAL = os.environ.get("COMFY_V2_URLS", "")

# Where we answer otherwise, and why. The pattern is of a difference's place.
KNOWN = {
    r"(outputs\[0\]|output as asset\.body)\.size_bytes": "the proxy does not know how large an output is and says 0",
    r"(body|jobs\[0\])\.outputs_reused": "an extra field of theirs: what is cached differs between two",
    r"(refused|upload|list).*\.error\.message": "the code is the contract, the sentence beside it is for a person",
}


@contextmanager
def client(url: str, key: str | None, patch: pytest.MonkeyPatch) -> Iterator[Comfy]:
    patch.setenv("COMFY_BASE_URL", url)
    with Comfy(api_key=key) as made:
        yield made


@pytest.mark.timeout(180)
def test_every_answer_is_the_official_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = their_journey(tmp_path, monkeypatch)
    ours = our_journey(tmp_path, monkeypatch)
    assert ours.keys() == theirs.keys()
    found = list(differences(ours, theirs))
    unknown = [line for line in found if not is_known(line)]
    if unknown:
        pytest.fail("\n".join(unknown))


def is_known(difference: str) -> bool:
    return any(re.match(rf".*{pattern}: ", difference) for pattern in KNOWN)


def our_journey(folder: Path, patch: pytest.MonkeyPatch) -> Answer:
    urls = tuple(REAL.split(",")) if REAL else ()
    with (
        Cluster(folder / "ours", comfyui_urls=urls) as cluster,
        client(cluster.url, create_key(cluster, "journey"), patch) as comfy,
    ):
        return Journey(comfy, f"ours-{os.getpid()}").run()


def their_journey(folder: Path, patch: pytest.MonkeyPatch) -> Answer:
    (folder / "theirs").mkdir()
    with (
        one_instance(folder / "theirs") as instance,
        official(instance, folder / "theirs") as url,
        client(url, None, patch) as comfy,
    ):
        return Journey(comfy, f"theirs-{os.getpid()}").run()


@contextmanager
def one_instance(folder: Path) -> Iterator[str]:
    if REAL:
        yield REAL.split(",")[0]
        return
    with simulated(folder) as url:
        yield url
