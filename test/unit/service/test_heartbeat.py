"""What an agent says of itself, and when."""

import asyncio
from typing import Any, cast

import pytest

from comfy_service.heartbeat import Heartbeat
from comfy_shared.errors import InstanceLost, Unavailable
from comfy_shared.lifecycle import Loops
from comfy_shared.registry import AgentRecord, PackedOffer, Registered, Registry, Replaced, Vitals
from test.support.waiting import wait_until
from test.unit.service.support import service_settings

OFFER = PackedOffer(digest="d", packed=b"p")
STATS = {
    "system": {"comfyui_version": "0.3.64", "ram_free": 5},
    "devices": [{"name": "cuda:0", "type": "cuda", "vram_total": 24, "vram_free": 7}],
}


class Registrations:
    """Stands for the registry: keeps what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[AgentRecord, Vitals, bool, PackedOffer | None]] = []
        self.errors: list[Exception] = []
        self.gone: list[tuple[str, str]] = []
        self.draining = False
        self.forgotten = False
        self.heard: list[str] = []

    async def register(
        self, record: AgentRecord, vitals: Vitals, *, session: str, offer: PackedOffer | None, takeover: bool
    ) -> Registered:
        assert session == "s1"
        if self.errors:
            raise self.errors.pop(0)
        self.told.append((record, vitals, takeover, offer))
        return Registered(draining=self.draining, forgotten=self.forgotten)

    async def deregister(self, agent: str, session: str) -> None:
        if self.errors:
            raise self.errors.pop(0)
        self.gone.append((agent, session))


@pytest.fixture
def registry() -> Registrations:
    return Registrations()


def heartbeat_of(registry: Registrations, **changes: Any) -> Heartbeat:
    settings = service_settings(agent_id="gpu-1", service_address="http://a:8101", agent_labels="x=1", **changes)
    return Heartbeat(settings, cast("Registry", registry), "s1", lambda: registry.heard.append("forgotten"))


async def test_before_the_instance_was_met_the_agent_waits_and_says_so(registry: Registrations) -> None:
    await heartbeat_of(registry).beat(Vitals())
    ((record, _, takeover, offer),) = registry.told
    assert (record.id, record.address, record.labels) == ("gpu-1", "http://a:8101", {"x": "1"})
    assert (record.state, record.reason, offer) == ("waiting", "the instance was not reached yet", None)
    assert takeover


async def test_only_the_first_registration_replaces_an_older_process(registry: Registrations) -> None:
    heartbeat = heartbeat_of(registry)
    registry.errors.append(Unavailable())
    with pytest.raises(Unavailable):
        await heartbeat.beat(Vitals())
    for _ in range(2):
        await heartbeat.beat(Vitals())
    assert [takeover for _, _, takeover, _ in registry.told] == [True, False]


async def test_it_is_told_when_redis_had_forgotten_the_agent(registry: Registrations) -> None:
    heartbeat = heartbeat_of(registry)
    await heartbeat.beat(Vitals())
    registry.forgotten = True
    await heartbeat.beat(Vitals())
    assert registry.heard == ["forgotten"]


async def test_a_ready_instance_is_described_with_what_is_free(registry: Registrations) -> None:
    heartbeat = heartbeat_of(registry)
    heartbeat.instance_ready(STATS, OFFER)
    await heartbeat.beat(Vitals(running=("t1",), storing=("t2",)))
    ((record, vitals, _, offer),) = registry.told
    assert (record.state, record.reason, record.comfyui_version, offer) == ("ready", "", "0.3.64", OFFER)
    assert [(device.name, device.vram_total) for device in record.devices] == [("cuda:0", 24)]
    assert vitals == Vitals(running=("t1",), storing=("t2",), vram_free=7, ram_free=5)


@pytest.mark.parametrize(
    "stats",
    [
        {"system": {}, "devices": []},
        {"system": {"ram_free": "much"}, "devices": [{"vram_total": "24 GB", "vram_free": None}, "odd", None]},
        {"system": {"comfyui_version": None, "ram_free": [1]}, "devices": [{"vram_total": {}, "name": 5}]},
    ],
)
async def test_odd_figures_of_an_instance_are_unknown_ones(registry: Registrations, stats: dict[str, Any]) -> None:
    """They ended the heartbeat, and with it the agent."""
    heartbeat = heartbeat_of(registry)
    heartbeat.instance_ready(stats, OFFER)
    await heartbeat.beat(Vitals())
    ((record, vitals, _, _),) = registry.told
    assert (vitals.vram_free, vitals.ram_free) == (0, 0)
    assert [device.vram_total for device in record.devices] == [0] * len(record.devices)


async def test_an_absent_instance_withdraws_the_offer_with_a_reason(registry: Registrations) -> None:
    heartbeat = heartbeat_of(registry)
    heartbeat.instance_ready(STATS, OFFER)
    heartbeat.instance_absent("it is away")
    await heartbeat.beat(Vitals())
    ((record, _, _, offer),) = registry.told
    assert (record.state, record.reason, offer) == ("waiting", "it is away", None)


async def test_a_stop_is_told(registry: Registrations) -> None:
    heartbeat = heartbeat_of(registry)
    heartbeat.instance_ready(STATS, OFFER)
    heartbeat.stopping()
    await heartbeat.beat(Vitals())
    assert registry.told[0][0].state == "stopping"
    await heartbeat.goodbye()
    assert registry.gone == [("gpu-1", "s1")]
    registry.errors.append(Unavailable())
    await heartbeat.goodbye()  # a Redis that is away forgets by itself


async def test_it_learns_that_it_is_to_drain(registry: Registrations) -> None:
    heartbeat = heartbeat_of(registry)
    registry.draining = True
    await heartbeat.beat(Vitals())
    assert heartbeat.draining


async def none() -> dict[str, Any]:
    raise AssertionError("not asked before the heartbeat is due")


async def test_a_change_is_told_at_once_and_not_with_the_next_beat(registry: Registrations) -> None:
    heartbeat = heartbeat_of(registry, heartbeat_seconds=60)
    async with Loops(lambda _: None) as loops:
        loops.start("heartbeat", lambda: heartbeat.run(loops, Vitals, none))
        await wait_until(lambda: len(registry.told) == 1, "it registered")
        heartbeat.instance_ready(STATS, OFFER)
        await wait_until(lambda: len(registry.told) == 2, "the news is told")
        heartbeat.instance_absent("away")
        heartbeat.instance_absent("away")
        await wait_until(lambda: len(registry.told) == 3, "the absence is told")
    assert [record.state for record, *_ in registry.told] == ["waiting", "ready", "waiting"]


async def test_what_is_free_is_measured_for_each_beat(registry: Registrations) -> None:
    heartbeat = heartbeat_of(registry, heartbeat_seconds=0.01)
    heartbeat.instance_ready(STATS, OFFER)
    answers: list[dict[str, Any] | Exception] = [InstanceLost(), {"system": {"ram_free": 4}, "devices": []}]

    async def measure() -> dict[str, Any]:
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    async with Loops(lambda _: None) as loops:
        loops.start("heartbeat", lambda: heartbeat.run(loops, Vitals, measure))
        await wait_until(lambda: bool(registry.told) and registry.told[-1][1].ram_free == 4, "the new figure is told")
    free = [vitals.ram_free for _, vitals, _, _ in registry.told]
    assert free[:2] == [5, 5]  # an instance that does not answer is another loop's business


async def test_a_replaced_agent_dies_loudly(registry: Registrations) -> None:
    registry.errors.append(Replaced())
    deaths: list[str] = []
    heartbeat = heartbeat_of(registry)
    async with Loops(deaths.append) as loops:
        loops.start("heartbeat", lambda: heartbeat.run(loops, Vitals, none))
        await wait_until(lambda: bool(deaths), "the death is told")
    assert deaths == ["heartbeat"]


async def test_a_redis_that_is_away_is_tried_again(registry: Registrations, monkeypatch: pytest.MonkeyPatch) -> None:
    registry.errors += [Unavailable(), Unavailable()]
    heartbeat = heartbeat_of(registry)
    async with Loops(lambda _: None) as loops:

        async def at_once(_: float) -> bool:
            await asyncio.sleep(0)
            return False

        monkeypatch.setattr(loops, "pause", at_once)
        loops.start("heartbeat", lambda: heartbeat.run(loops, Vitals, none))
        await wait_until(lambda: len(registry.told) == 1, "it registered")
