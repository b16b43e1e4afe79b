"""Stands before a ComfyUI and adds the one route that comfy-api-proxy needs of newer ones: POST /api/jobs/ID/cancel.

    python -m test.comfy_v2.newer --port 8190 --to http://127.0.0.1:8188

Everything else, websockets too, passes through.
"""

import argparse
import asyncio

import aiohttp
from aiohttp import web

HOP = frozenset({"host", "connection", "transfer-encoding", "content-length", "content-encoding", "upgrade"})


class Front:
    """The handlers."""

    def __init__(self, target: str) -> None:
        self._target = target.rstrip("/")
        self._session: aiohttp.ClientSession | None = None

    @property
    def session(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(auto_decompress=False)
        return self._session

    async def cancel(self, request: web.Request) -> web.Response:
        """Takes a prompt out of the queue, or interrupts it."""
        prompt_id = request.match_info["id"]
        await self.session.post(f"{self._target}/queue", json={"delete": [prompt_id]})
        await self.session.post(f"{self._target}/interrupt", json={"prompt_id": prompt_id})
        return web.json_response({})

    async def forward(self, request: web.Request) -> web.StreamResponse:
        """Passes a request and its answer on."""
        if request.headers.get("Upgrade", "").lower() == "websocket":
            return await self._websocket(request)
        headers = {name: value for name, value in request.headers.items() if name.lower() not in HOP}
        async with self.session.request(
            request.method, self._target + request.path_qs, headers=headers, data=await request.read()
        ) as answer:
            told = {name: value for name, value in answer.headers.items() if name.lower() not in HOP}
            return web.Response(status=answer.status, body=await answer.read(), headers=told)

    async def _websocket(self, request: web.Request) -> web.WebSocketResponse:
        ours = web.WebSocketResponse(max_msg_size=0)
        await ours.prepare(request)
        async with self.session.ws_connect(self._target + request.path_qs, max_msg_size=0) as theirs:
            ways = [asyncio.create_task(_pass(ours, theirs)), asyncio.create_task(_pass(theirs, ours))]
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            for way in ways:
                way.cancel()
        return ours


Socket = web.WebSocketResponse | aiohttp.ClientWebSocketResponse


async def _pass(source: Socket, sink: Socket) -> None:
    async for message in source:
        if message.type is aiohttp.WSMsgType.TEXT:
            await sink.send_str(message.data)
        elif message.type is aiohttp.WSMsgType.BINARY:
            await sink.send_bytes(message.data)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--to", required=True, help="address of the ComfyUI")
    options = parser.parse_args()
    front = Front(options.to)
    app = web.Application(client_max_size=1 << 30)
    app.router.add_post("/api/jobs/{id}/cancel", front.cancel)
    app.router.add_route("*", "/{path:.*}", front.forward)
    web.run_app(app, host="127.0.0.1", port=options.port, print=lambda *_: None)


if __name__ == "__main__":
    main()
