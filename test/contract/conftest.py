"""The two servers that the contract suite runs against: a fresh simulator always, the real ComfyUI when COMFYUI_URL
names one.
"""

import os
from collections.abc import AsyncIterator

import aiohttp
import pytest

from test.contract.comfy import Comfy
from test.simulator import Options, Simulator


@pytest.fixture(params=["simulator", pytest.param("real", marks=pytest.mark.real)])
async def comfyui(request: pytest.FixtureRequest) -> AsyncIterator[Comfy]:
    """A ComfyUI, which on the real side others may be using at the same time."""
    timeout = aiohttp.ClientTimeout(total=25)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        if request.param == "simulator":
            async with Simulator(Options()) as simulator:
                yield Comfy(simulator.url, session, simulated=True)
            return
        url = os.environ.get("COMFYUI_URL", "").rstrip("/")
        if not url:
            pytest.skip("COMFYUI_URL names no real ComfyUI")
        yield Comfy(url, session, simulated=False)


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
