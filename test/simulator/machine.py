"""The pretended machine under the nodes: its clock, its GPU memory, the interrupt flag, and the faults in force.

Nodes run on the event loop; every pause they make goes through `pause`, where slowness and hanging are applied.
Interruption is cooperative as in ComfyUI: `check` raises at the start of a node and at each progress step, never in
the middle of a load.
"""

import asyncio
from collections.abc import Callable

import msgspec

from test.simulator.faults import Faults
from test.simulator.options import Options

GIB = 1024**3
_GIB_PER_MEGAPIXEL = 1.0  # what a sampler needs beyond its model for each megapixel of the batch


class Interrupted(Exception):
    """The prompt was interrupted by a client."""


class Crashed(BaseException):
    """The process is dead; only seen when the simulator lives inside another process."""


class OutOfMemoryError(RuntimeError):
    """What PyTorch raises when the GPU is full; goes by PyTorch's name in the error event."""


OutOfMemoryError.__module__ = "torch"


class Machine:
    """Clock, memory and faults of one instance."""

    def __init__(self, options: Options, crash: Callable[[], None]) -> None:
        self._options = options
        self._crash = crash
        self._loaded: dict[str, None] = {}  # models in memory, oldest use first
        self._used_now: set[str] = set()  # those of the running prompt
        self._steps = 0  # progress steps of the running prompt
        self._may_run = asyncio.Event()
        self.faults = options.faults
        self.interrupt_requested = False
        self.apply(options.faults)

    def apply(self, faults: Faults) -> None:
        """Put `faults` in force."""
        self.faults = faults
        if faults.hang:
            self._may_run.clear()
        else:
            self._may_run.set()

    def use_up(self, field: str) -> bool:
        """Whether a counted fault hits now; counts it down unless it is -1 (always)."""
        left: int = getattr(self.faults, field)
        if left > 0:
            self.faults = msgspec.structs.replace(self.faults, **{field: left - 1})
        return left != 0

    async def begin_prompt(self) -> None:
        """A prompt starts: the interrupt flag is lowered, the faults that hit at its start do."""
        self.interrupt_requested = False
        self._steps = 0
        self._used_now.clear()
        if self.faults.crash == "start" and self.use_up("crash_count"):
            self._die()
        if not self._may_run.is_set():
            await self._may_run.wait()

    def end_prompt(self) -> None:
        """A prompt ended: of the other models only the newest `kept_models` stay in memory."""
        others = [name for name in self._loaded if name not in self._used_now]
        for name in others[: max(0, len(others) - self._options.kept_models)]:
            del self._loaded[name]

    def check(self) -> None:
        """Raise Interrupted if somebody asked for it since the prompt began."""
        if self.interrupt_requested:
            self.interrupt_requested = False
            raise Interrupted

    async def pause(self, seconds: float) -> None:
        """Let `seconds` pass, times the slowness; never returns while the instance hangs."""
        if seconds > 0:
            await asyncio.sleep(seconds * self.faults.slow)
        if not self._may_run.is_set():
            await self._may_run.wait()

    def step(self) -> None:
        """Count a progress step: a crash may be set to happen after some."""
        self._steps += 1
        due = self._steps >= self.faults.crash_after_steps
        if self.faults.crash == "steps" and due and self.use_up("crash_count"):
            self._die()

    def _die(self) -> None:
        self._crash()
        raise Crashed

    async def load(self, model: str) -> None:
        """Read a model file, unless it is remembered from an earlier prompt."""
        remembered = model in self._loaded and (self._options.kept_models > 0 or model in self._used_now)
        if not remembered:
            await self.pause(self._options.load_seconds)
        self._touch(model)

    async def need(self, model: str) -> None:
        """A sampler is about to use the model: it is loaded again if POST /free had thrown it out."""
        if model not in self._loaded:
            await self.pause(self._options.load_seconds)
        self._touch(model)

    def _touch(self, model: str) -> None:
        self._loaded.pop(model, None)
        self._loaded[model] = None
        self._used_now.add(model)
        for name in list(self._loaded):
            if len(self._loaded) * self._options.model_gib <= self._options.vram_gib:
                break
            if name not in self._used_now:
                del self._loaded[name]

    def reserve(self, width: int, height: int, batch: int) -> None:
        """Raise OutOfMemoryError if a sampler's images do not fit beside its model, or if the fault says so."""
        needed = self._options.model_gib + width * height * batch / 1e6 * _GIB_PER_MEGAPIXEL
        if needed > self._options.vram_gib or self.use_up("out_of_memory"):
            self.unload()
            raise OutOfMemoryError("Allocation on device ")

    def unload(self) -> None:
        """Throw all models out of memory."""
        self._loaded.clear()

    def vram_free(self) -> int:
        """Bytes left on the pretended GPU."""
        return int((self._options.vram_gib - len(self._loaded) * self._options.model_gib) * GIB)
