"""The simulator's own routes, which no ComfyUI has: POST and GET /simulator/faults, GET /simulator/stats."""

from typing import Any, Protocol

from aiohttp import web

from test.simulator.faults import FaultError
from test.simulator.instance import Instance
from test.simulator.wire import answer


class Controlled(Protocol):
    """What these routes need of the simulator."""

    @property
    def instance(self) -> Instance: ...

    def set_faults(self, **change: Any) -> None: ...

    def statistics(self) -> dict[str, Any]: ...


class ControlRoutes:
    """Handlers bound to one simulator."""

    def __init__(self, simulator: Controlled) -> None:
        self._simulator = simulator

    def table(self) -> list[web.RouteDef]:
        return [
            web.get("/simulator/faults", self.show_faults),
            web.post("/simulator/faults", self.change_faults),
            web.get("/simulator/stats", self.statistics),
        ]

    async def show_faults(self, _: web.Request) -> web.Response:
        return answer(self._simulator.instance.machine.faults)

    async def change_faults(self, request: web.Request) -> web.Response:
        change: Any = await request.json()
        if not isinstance(change, dict):
            return answer({"error": "expected a JSON object"}, status=400)
        try:
            self._simulator.set_faults(**change)
        except FaultError as error:
            return answer({"error": str(error)}, status=400)
        return answer(self._simulator.instance.machine.faults)

    async def statistics(self, _: web.Request) -> web.Response:
        return answer(self._simulator.statistics())
