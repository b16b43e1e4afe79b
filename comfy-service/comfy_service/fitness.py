"""Whether the instance is to be given tasks although it answers: the circuit breaker and the memory guard at work.

`fit` is set while it is. Otherwise the agent claims nothing, withdraws its offer and says why, until a prompt of our
own succeeds there, or until the machine has its memory back.
"""

import asyncio
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import structlog

from comfy_service.guards import Breaker, Growth
from comfy_service.heartbeat import Heartbeat
from comfy_service.instance.client import Instance, Place
from comfy_service.instance.history import judge
from comfy_service.settings import ServiceSettings
from comfy_shared.errors import InstanceLost, RunError, RunTimeout
from comfy_shared.lifecycle import Loops, first_of
from comfy_shared.models import Prompt

log = structlog.get_logger(__name__)

PROBE_SECONDS = 60.0  # what our own prompt may take; it may wait for one of somebody else


class Fitness:
    """Judges one instance by how attempts end there and by what it says of its memory."""

    def __init__(
        self,
        settings: ServiceSettings,
        instance: Instance,
        heartbeat: Heartbeat,
        *,
        knows: Callable[[str], bool],
        idle: Callable[[], bool],
    ) -> None:
        self.fit = asyncio.Event()
        self.fit.set()
        self._agent = settings.agent
        self._instance = instance
        self._heartbeat = heartbeat
        self._knows = knows  # whether the instance has a node class
        self._idle = idle  # whether none of our prompts runs there
        self._breaker = Breaker(settings.breaker_failures, settings.breaker_seconds)
        self._growth = Growth(settings.memory_growth_limit)
        self._drains = settings.memory_guard == "drain"
        self._tripped = asyncio.Event()
        self._failing = self._grown = ""  # why no task is claimed; empty: no reason
        self._freed = False

    # The breaker.

    def judged(self, error: RunError | None) -> None:
        """An attempt ended: with its outputs stored, or badly."""
        if error is None:
            self._breaker.succeeded()
        elif self._breaker.failed(error):
            self._tripped.set()
            self._decide()

    async def run(self, loops: Loops) -> None:
        """Waits for the breaker to open, and closes it when a prompt of our own succeeds."""
        while not loops.stop.is_set():
            await first_of(loops.stop, self._tripped)
            while not loops.stop.is_set() and not await self._well_again(loops):
                self._breaker.found_unwell()
            self._breaker.found_well()
            self._failing = ""
            self._tripped.clear()
            self._decide()

    async def _well_again(self, loops: Loops) -> bool:
        codes = ", ".join(sorted(self._breaker.codes))
        pause = self._breaker.pause()
        if pause:
            self._failing = f"tasks fail here one after the other ({codes}): it gets none until a probe succeeds"
            self._decide()
            log.warning("The instance fails what it is given", action="breaker.open", codes=codes, pause=pause)
        if await loops.pause(pause):
            return True
        try:
            await self._probe()
        except RunError as error:
            log.warning("The probe failed", action="breaker.probe_failed", code=error.code, reason=error.message)
            return False
        log.info("The probe succeeded", action="breaker.probe_succeeded", codes=codes)
        return True

    async def _probe(self) -> None:
        """Runs a small prompt of our own, on the GPU if the instance has a node for that.

        Raises:
            RunError: it failed.
        """
        prompt = probe_prompt(self._knows)
        if not prompt:
            return  # the next task tells
        prompt_id = str(uuid4())
        await self._instance.submit(
            prompt, prompt_id=prompt_id, client_id=uuid4().hex, extra_data={"comfy_agent": self._agent}
        )
        try:
            async with asyncio.timeout(PROBE_SECONDS):
                await self._ended(prompt_id)
        except TimeoutError as error:
            await self._instance.remove(prompt_id)
            raise RunTimeout(f"The probe took longer than {PROBE_SECONDS:g} s.") from error

    async def _ended(self, prompt_id: str) -> None:
        wait = 0.05
        while True:  # its events go to no socket of ours: it is looked at, ever less often
            entry = await self._instance.history(prompt_id)
            if entry is not None:
                return judge(entry)
            if await self._instance.whereabouts(prompt_id) is Place.NOWHERE:
                raise InstanceLost("The instance forgot the probe.")
            await asyncio.sleep(wait)
            wait = min(2.0, wait * 2)

    # The memory guard.

    async def stats(self) -> dict[str, Any]:
        """What the instance says of its machine, which is weighed on the way.

        Raises:
            RunError: it does not answer.
        """
        stats = await self._instance.system_stats()
        text = self._growth.beyond(stats)
        if text and not self._grown:
            log.warning("Memory has grown beyond its limit", action="memory.grown", reason=text, drains=self._drains)
        self._grown = text
        if not self._drains:
            self._heartbeat.note(text)
        elif not text:
            self._freed = False
        elif self._idle() and not self._freed:
            self._freed = True  # once: what this does not give back only a restart does
            await self._instance.release_memory(unload_models=True, free_memory=True)
        self._decide()
        return stats

    def _decide(self) -> None:
        drains = self._grown if self._drains else ""
        if self._failing:
            self._heartbeat.hold("waiting", self._failing)
        elif drains:
            self._heartbeat.hold("draining", drains)
        else:
            self._heartbeat.lift()
        if self._failing or drains or self._tripped.is_set():
            self.fit.clear()
        else:
            self.fit.set()


def probe_prompt(knows: Callable[[str], bool]) -> Prompt:
    """A picture of 64 x 64 that nobody keeps; empty when the instance lacks the nodes for it."""
    if not (knows("EmptyImage") and knows("PreviewImage")):
        return {}
    color = uuid4().int % 0x1000000  # so that no cache answers
    size = {"width": 64, "height": 64, "batch_size": 1, "color": color}
    prompt: Prompt = {"1": {"class_type": "EmptyImage", "inputs": size}}
    if knows("ImageBlur"):  # computes on the GPU
        inputs = {"image": ["1", 0], "blur_radius": 1, "sigma": 1.0}
        prompt["2"] = {"class_type": "ImageBlur", "inputs": inputs}
    prompt["3"] = {"class_type": "PreviewImage", "inputs": {"images": [max(prompt), 0]}}
    return prompt
