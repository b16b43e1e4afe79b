"""The simulator as a server: start, stop, restart, and the faults that concern connections.

`Simulator` is an async context manager; inside a test it lives on the test's event loop, and a "crash" then means
what the outside sees of one: every connection cut, the port closed, all memory gone; `start` brings it back on the
same port with its files.
"""

import asyncio
import ipaddress
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

import msgspec
from aiohttp import web
from aiohttp.typedefs import Middleware

from test.simulator.faults import Faults, merge
from test.simulator.files import Folders
from test.simulator.instance import Instance
from test.simulator.options import Options
from test.simulator.routes_control import ControlRoutes
from test.simulator.routes_files import FileRoutes
from test.simulator.routes_info import InfoRoutes
from test.simulator.routes_prompt import PromptRoutes, garbage, trouble
from test.simulator.routes_user import UserRoutes

_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
_WEB_ROOT = Path(__file__).parent / "web"


class Simulator:
    """One simulated ComfyUI server, which may live several times one after the other."""

    def __init__(self, options: Options | None = None, on_crash: Callable[[], None] | None = None) -> None:
        """`on_crash` replaces what a crash does; the default kills this server but not the process around it."""
        self.options = options or Options()
        self.folders = Folders(self.options.base_directory)
        self._on_crash = on_crash or self._crash_inside
        self._port = self.options.port
        self._instance: Instance | None = None
        self._runner: web.AppRunner | None = None
        self._site: web.TCPSite | None = None
        self._loops: list[asyncio.Task[None]] = []
        self._ending: asyncio.Task[None] | None = None  # a crash or a refusal under way

    @property
    def url(self) -> str:
        """Where it listens, without a trailing slash. Valid from the first start on, also while it is down."""
        return f"http://{self.options.host}:{self._port}"

    @property
    def instance(self) -> Instance:
        """The memory of the present life."""
        assert self._instance is not None, "the simulator is not running"
        return self._instance

    async def __aenter__(self) -> "Simulator":
        await self.start()
        return self

    async def __aexit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        await self.stop()
        self.folders.remove()

    async def start(self) -> None:
        """Begin a new life with empty memory; temp is emptied, other files stay."""
        await self._wait_for_ending()
        self.folders.make()
        instance = self._instance = Instance(self.options, self.folders, self._on_crash)
        self._runner = web.AppRunner(self._application(instance), access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        await self._listen()
        self._loops = [
            asyncio.create_task(self._publish(instance), name="publish"),
            asyncio.create_task(instance.work_for_ever(), name="work"),
        ]

    async def stop(self) -> None:
        """End this life at once, as SIGKILL would (no close frames); `start` begins the next."""
        await self._wait_for_ending()
        await self._end()

    async def _publish(self, instance: Instance) -> None:
        """A client id that cannot be looked up (a list, say) ends ComfyUI's publish loop and with it the whole
        server.
        """
        try:
            await instance.sockets.publish_for_ever()
        except TypeError:
            self._on_crash()

    def set_faults(self, **change: Any) -> None:
        """Merge faults as POST /simulator/faults does; raises FaultError."""
        faults = merge(self.instance.machine.faults, change)
        once = {"drop_websockets": False, "refuse_seconds": 0.0}
        lasting = msgspec.structs.replace(faults, **once, crash="" if faults.crash == "now" else faults.crash)
        self.instance.apply(lasting)
        self._act(faults)

    def _act(self, faults: Faults) -> None:
        """What happens once, a moment later so that the request asking for it is answered."""
        loop = asyncio.get_running_loop()
        if faults.drop_websockets:
            loop.call_soon(self._cut, False)
        if faults.refuse_seconds > 0:
            self._ending = asyncio.create_task(self._refuse(faults.refuse_seconds), name="refuse")
        if faults.crash == "now":
            loop.call_later(0.01, self._on_crash)

    def statistics(self) -> dict[str, Any]:
        """What GET /simulator/stats says: counts, and the last 10,000 prompts that ended."""
        instance = self.instance
        return {
            "accepted": instance.accepted,
            "run": instance.run,
            "prompts": list(instance.prompts),
            "websockets": len(instance.sockets.transports),
        }

    async def _listen(self) -> None:
        assert self._runner is not None
        self._site = web.TCPSite(self._runner, self.options.host, self._port, reuse_address=True)
        await self._site.start()
        self._port = self._runner.addresses[0][1]

    def _crash_inside(self) -> None:
        self._cut(True)
        self._ending = asyncio.create_task(self._end(), name="crash")

    def _cut(self, everything: bool) -> None:
        """Reset the TCP connections of the websockets, or of everybody."""
        for transport in list(self.instance.sockets.transports.values()):
            transport.abort()
        if everything and self._runner is not None and self._runner.server is not None:
            for connection in list(self._runner.server.connections):
                if connection.transport is not None:
                    connection.transport.abort()

    async def _refuse(self, seconds: float) -> None:
        await asyncio.sleep(0.01)  # the request asking for it is answered first
        assert self._site is not None
        await self._site.stop()
        self._cut(True)
        await asyncio.sleep(seconds)
        await self._listen()

    async def _wait_for_ending(self) -> None:
        if self._ending is not None:
            if self._ending.get_name() == "refuse":
                self._ending.cancel()
            await asyncio.gather(self._ending, return_exceptions=True)
            self._ending = None

    async def _end(self) -> None:
        if self._runner is None:
            return
        self._cut(True)
        for task in self._loops:
            task.cancel()
        await asyncio.gather(*self._loops, return_exceptions=True)
        self._loops = []
        await self._runner.cleanup()
        self._runner = self._site = None

    def _application(self, instance: Instance) -> web.Application:
        limit = round(self.options.max_upload_mib * 1024 * 1024)
        application = web.Application(client_max_size=limit, middlewares=[_gate(instance)])
        info = InfoRoutes(instance)
        tables = PromptRoutes(instance), info, FileRoutes(self.folders), UserRoutes(self.folders)
        table = [route for routes in tables for route in routes.table()]
        application.add_routes(ControlRoutes(self).table())
        application.add_routes(info.internal_table())
        application.add_routes([web.route(each.method, f"/api{each.path}", each.handler) for each in table])
        application.add_routes([*table, web.get("/", _front_page), web.static("/", _WEB_ROOT)])
        return application


async def _front_page(_: web.Request) -> web.StreamResponse:
    return web.FileResponse(_WEB_ROOT / "index.html", headers={"Cache-Control": "no-cache"})


def _gate(instance: Instance) -> Middleware:
    """The middleware for faults of HTTP as a whole, and for requests of foreign web pages."""

    @web.middleware
    async def middleware(request: web.Request, handler: _Handler) -> web.StreamResponse:
        if not request.path.startswith("/simulator/"):
            if not instance.http_may_answer.is_set():
                await instance.http_may_answer.wait()
            wrong = instance.machine.faults.wrong_answer
            if wrong:
                return trouble() if wrong == "500" else garbage()
        answer = _refusal(request)
        return await handler(request) if answer is None else answer

    return middleware


def _refusal(request: web.Request) -> web.Response | None:
    """ComfyUI's guard against foreign web pages: on a loopback Host an Origin with another host or port is refused."""
    host, origin = request.headers.get("Host"), request.headers.get("Origin")
    if host and origin:
        ours, theirs = urlsplit(f"//{host.lower()}"), urlsplit(origin.lower())
        with_port = ours.port is not None and theirs.port is not None
        same = ours.netloc == theirs.netloc if with_port else ours.hostname == theirs.hostname
        if _is_loopback(ours.hostname) and theirs.hostname and not same:
            return web.Response(status=403)
    return web.Response() if request.method == "OPTIONS" else None


def _is_loopback(host: str | None) -> bool:
    try:
        return ipaddress.ip_address(host or "").is_loopback
    except ValueError:
        return host == "localhost"
