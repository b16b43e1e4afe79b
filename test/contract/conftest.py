"""The servers that the contract suite runs against: a fresh simulator and our balancer before another one always; the
real ComfyUI, and our balancer before it, when COMFYUI_URL names one.

Where the balancer differs on purpose, `differences` says so and why: there a test must fail, or the list is wrong.
"""

import os
from collections.abc import AsyncIterator, Iterator

import aiohttp
import pytest

from test.cluster import Cluster
from test.contract.comfy import Comfy
from test.contract.differences import DIFFERENCES, NOT_OURS
from test.simulator import Options, Simulator

REAL = pytest.mark.real
TARGETS = [
    "simulator",
    pytest.param("real", marks=REAL),
    "balancer",
    pytest.param("balancer-real", marks=REAL),
]


def real_url() -> str:
    url = os.environ.get("COMFYUI_URL", "").rstrip("/")
    if not url:
        pytest.skip("COMFYUI_URL names no real ComfyUI")
    return url


@pytest.fixture(scope="session")
def balancer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Our system before one simulated instance: what runs first and what is cached is as predictable as there."""
    with Cluster(tmp_path_factory.mktemp("balancer"), agents=1, settings={"BALANCER_WORKERS": "1"}) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def balancer_before_real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with Cluster(tmp_path_factory.mktemp("balancer-real"), comfyui_urls=(real_url(),)) as cluster:
        yield cluster


@pytest.fixture(params=TARGETS)
async def comfyui(request: pytest.FixtureRequest) -> AsyncIterator[Comfy]:
    """A ComfyUI, which on the real side others may be using at the same time."""
    target: str = request.param
    timeout = aiohttp.ClientTimeout(total=25)
    if target.startswith("balancer"):
        expect_differences(request)
        name = "balancer" if target == "balancer" else "balancer_before_real"
        cluster: Cluster = request.getfixturevalue(name)
        login = {"Authorization": aiohttp.encode_basic_auth(*cluster.auth)}
        async with aiohttp.ClientSession(timeout=timeout, headers=login) as session:
            comfy = Comfy(cluster.url, session, simulated=target == "balancer", direct=False)
            yield comfy
            # A test that fails where we differ may leave prompts behind, for whose end the next one would wait.
            await comfy.post("/queue", {"clear": True})
            await comfy.post("/interrupt")
        return
    async with aiohttp.ClientSession(timeout=timeout) as session:
        if target == "simulator":
            async with Simulator(Options()) as simulator:
                yield Comfy(simulator.url, session, simulated=True)
            return
        yield Comfy(real_url(), session, simulated=False)


def expect_differences(request: pytest.FixtureRequest) -> None:
    """Marks a test that must fail through the balancer, and leaves out what is not its business."""
    name = request.node.originalname
    values = request.node.callspec.id.removeprefix(f"{request.param}-")
    if reason := NOT_OURS.get(name):
        pytest.skip(reason)
    if reason := DIFFERENCES.get(name) or DIFFERENCES.get(f"{name}[{values}]"):
        # Before a real instance the moment decides some of them: only the simulated one is held to the list.
        request.applymarker(pytest.mark.xfail(reason=reason, strict=request.param == "balancer"))
        patch: pytest.MonkeyPatch = request.getfixturevalue("monkeypatch")
        patch.setattr("test.contract.comfy.PATIENCE", 3.0)  # what is expected not to come is not waited for in vain


@pytest.fixture
async def lab(comfyui: Comfy) -> Comfy:
    """A ComfyUI that has our lab nodes."""
    if not (await comfyui.get("/object_info/SlowProgress")).json:
        pytest.skip("this ComfyUI lacks test/contract/lab_nodes.py in its custom_nodes")
    return comfyui


@pytest.fixture
async def idle(lab: Comfy) -> Comfy:
    """A ComfyUI with the lab nodes that nobody uses just now, for tests that others would disturb or be disturbed
    by.
    """
    if (await lab.get("/prompt")).json["exec_info"]["queue_remaining"]:
        pytest.skip("this ComfyUI is in use")
    return lab
