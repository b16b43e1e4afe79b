"""What the agent says of itself: that it is there, what its instance offers, and how it is."""

import asyncio
from collections.abc import Callable
from typing import Any

import structlog

from comfy_service.settings import ServiceSettings
from comfy_shared.errors import ComfyError, Unavailable
from comfy_shared.lifecycle import Backoff, Loops, first_of
from comfy_shared.registry import AgentRecord, Device, PackedOffer, Registry, Vitals

log = structlog.get_logger(__name__)


class Heartbeat:
    """Registers the agent, and again at every change and every `heartbeat_seconds`.

    `on_forgotten` is called when Redis had forgotten it: all else that Redis was given may be gone, too.
    """

    def __init__(
        self, settings: ServiceSettings, registry: Registry, session: str, on_forgotten: Callable[[], None]
    ) -> None:
        self._settings = settings
        self._registry = registry
        self._session = session
        self._on_forgotten = on_forgotten
        self._state = "waiting"
        self._reason = "the instance was not reached yet"
        self._version = ""
        self._devices: tuple[Device, ...] = ()
        self._vram_free = 0
        self._ram_free = 0
        self._offer: PackedOffer | None = None
        self._held: tuple[str, str] | None = None
        self._note = ""
        self._first = True
        self._news = asyncio.Event()
        self.draining = False  # told so by an administrator, as of the last heartbeat

    def instance_ready(self, stats: dict[str, Any], offer: PackedOffer) -> None:
        """The instance answers; from now on its offer counts."""
        self._state, self._reason, self._offer = "ready", "", offer
        system = stats.get("system") or {}
        self._version = str(system.get("comfyui_version", ""))
        self._measure(stats)
        self._news.set()

    def instance_absent(self, reason: str) -> None:
        """The instance does not answer: the offer is withdrawn until it does."""
        if (self._state, self._reason) != ("waiting", reason):
            self._state, self._reason, self._offer = "waiting", reason, None
            self._news.set()

    def hold(self, state: str, reason: str) -> None:
        """The instance answers and yet is to get no tasks: the offer is withdrawn until `lift`."""
        if self._held != (state, reason):
            self._held = (state, reason)
            self._news.set()

    def lift(self) -> None:
        """What `hold` said is over."""
        if self._held:
            self._held = None
            self._news.set()

    def note(self, text: str) -> None:
        """Something to know of an agent that works; empty: nothing any more."""
        if self._note != text:
            self._note = text
            self._news.set()

    def stopping(self) -> None:
        """The agent claims no more because it is about to go."""
        self._state, self._reason, self._offer = "stopping", "the agent stops", None
        self._news.set()

    def _measure(self, stats: dict[str, Any]) -> None:
        devices = [device for device in stats.get("devices") or [] if isinstance(device, dict)]
        self._devices = tuple(
            Device(
                name=str(device.get("name", "")),
                type=str(device.get("type", "")),
                vram_total=_whole(device.get("vram_total")),
            )
            for device in devices
        )
        self._vram_free = sum(_whole(device.get("vram_free")) for device in devices)
        self._ram_free = _whole((stats.get("system") or {}).get("ram_free"))

    async def run(self, loops: Loops, vitals: Callable[[], Vitals], measure: Callable[[], Any]) -> None:
        """Beats until the stop. Raises Replaced when another process took over this agent's id."""
        backoff = Backoff(0.5, 2.0)
        while not loops.stop.is_set():
            try:
                await self.beat(vitals())
                backoff.reset()
            except Unavailable as error:
                log.warning("Heartbeat failed", action="agent.heartbeat_failed", reason=error.message)
                await loops.pause(backoff.next())
                continue
            await first_of(loops.stop, self._news, timeout=self._settings.heartbeat_seconds)
            if not self._news.is_set():
                await self._refresh(measure)

    async def _refresh(self, measure: Callable[[], Any]) -> None:
        if self._state == "ready":
            try:
                self._measure(await measure())
            except ComfyError:
                return  # the loop that watches the instance deals with that

    async def beat(self, vitals: Vitals) -> None:
        """Registers now. Raises Unavailable, Replaced."""
        self._news.clear()
        held = self._held if self._state == "ready" else None
        state, reason = held or (self._state, self._reason or self._note)
        record = AgentRecord(
            id=self._settings.agent,
            address=self._settings.address,
            state=state,
            reason=reason,
            labels=self._settings.labels(),
            comfyui_version=self._version,
            devices=self._devices,
        )
        registered = await self._registry.register(
            record,
            Vitals(
                running=vitals.running,
                storing=vitals.storing,
                vram_free=self._vram_free,
                ram_free=self._ram_free,
            ),
            session=self._session,
            offer=None if held else self._offer,
            takeover=self._first,
        )
        self.draining = registered.draining
        if registered.forgotten:
            log.warning("Redis had forgotten the agent", action="agent.forgotten")
            self._on_forgotten()
        if self._first:
            self._first = False
            log.info("Agent registered", action="agent.registered", state=self._state)

    async def goodbye(self) -> None:
        """Deregisters; a Redis that is away forgets us by itself."""
        try:
            await self._registry.deregister(self._settings.agent, self._session)
        except Unavailable as error:
            log.warning("Agent could not deregister", action="agent.deregister_failed", reason=error.message)


def _whole(value: object) -> int:
    """Bytes as an instance tells them; another shape than a number is nothing known."""
    return int(value) if isinstance(value, int | float) else 0
