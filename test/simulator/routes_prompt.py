"""The routes that queue, watch and stop prompts: /ws, /prompt, /queue, /interrupt, /history, /free.

Bodies are not checked beyond what ComfyUI checks: whatever Python raises on an odd one becomes the 500 that ComfyUI
answers.
"""

import json
import uuid
from typing import Any

from aiohttp import WSMsgType, web

from test.simulator.instance import Instance
from test.simulator.validation import validate
from test.simulator.wire import answer, body_of

_NO_PROMPT = {"type": "no_prompt", "message": "No prompt provided", "details": "No prompt provided", "extra_info": {}}


class PromptRoutes:
    """Handlers bound to one instance."""

    def __init__(self, instance: Instance) -> None:
        self._instance = instance
        self._sockets = instance.sockets
        self._queue = instance.queue

    def table(self) -> list[web.RouteDef]:
        return [
            web.get("/ws", self.websocket),
            web.get("/prompt", self.remaining),
            web.post("/prompt", self.submit),
            web.get("/queue", self.show_queue),
            web.post("/queue", self.change_queue),
            web.post("/interrupt", self.interrupt),
            web.get("/history", self.show_history),
            web.get("/history/{prompt_id}", self.show_entry),
            web.post("/history", self.change_history),
            web.post("/free", self.free),
        ]

    async def websocket(self, request: web.Request) -> web.StreamResponse:
        if self._instance.machine.faults.refuse_websockets:
            return web.Response(status=503)
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        sid = request.query.get("clientId", "") or uuid.uuid4().hex
        sockets, executor = self._sockets, self._instance.executor
        sockets.by_id[sid] = socket
        sockets.flags[sid] = {}
        assert request.transport is not None
        sockets.transports[socket] = request.transport
        try:
            await sockets.send_now("status", {"status": self._instance.queue_info(), "sid": sid}, sid)
            if executor.client_id == sid and executor.last_node_id is not None:
                await sockets.send_now("executing", {"node": executor.last_node_id}, sid)
            await self._listen(socket, sid)
        finally:
            sockets.by_id.pop(sid, None)  # whoever holds the id now: see the docstring of `wire`
            sockets.flags.pop(sid, None)
            sockets.transports.pop(socket, None)
        return socket

    async def _listen(self, socket: web.WebSocketResponse, sid: str) -> None:
        first = True
        async for message in socket:
            if message.type != WSMsgType.TEXT:
                continue
            try:
                data = json.loads(message.data)
                if first and data.get("type") == "feature_flags":
                    self._sockets.flags[sid] = data.get("data", {})
                    await self._sockets.send_now("feature_flags", features(self._instance), sid)
                first = False
            except (ValueError, AttributeError, KeyError):
                continue  # not JSON or no object: ignored, and does not count as the first frame

    async def remaining(self, _: web.Request) -> web.Response:
        return answer(self._instance.queue_info())

    async def submit(self, request: web.Request) -> web.Response:
        instance, wrong = self._instance, self._instance.machine.faults.wrong_prompt_answer
        if wrong == "500":
            return trouble()
        if wrong == "garbage":
            return garbage()
        instance.logs.line("got prompt")
        body = await body_of(request)
        number = self._number(body)
        if "prompt" not in body:
            return answer({"error": _NO_PROMPT, "node_errors": {}}, status=400)
        prompt = body["prompt"]
        prompt_id = str(body.get("prompt_id", uuid.uuid4()))
        targets = body.get("partial_execution_targets")
        verdict = validate(prompt, targets, instance.catalogue, instance.folders.exists)
        extra_data = body.get("extra_data", {})
        if "client_id" in body:
            extra_data["client_id"] = body["client_id"]
        if verdict.error is not None:
            instance.logs.line(f"invalid prompt: {verdict.error}")
            return answer({"error": verdict.error, "node_errors": verdict.node_errors}, status=400)
        instance.accept((number, prompt_id, prompt, extra_data, verdict.outputs))
        if wrong == "lost":
            return trouble()
        return answer({"prompt_id": prompt_id, "number": number, "node_errors": verdict.node_errors})

    def _number(self, body: Any) -> float:
        """The place in the queue: given, or the counter, negative for `front`; a given one does not advance the
        counter.
        """
        if "number" in body:
            return float(body["number"])
        number = self._instance.number
        self._instance.number += 1
        return -number if isinstance(body, dict) and body.get("front") else number

    async def show_queue(self, _: web.Request) -> web.Response:
        running = [] if self._queue.running is None else [self._queue.running]
        return answer({"queue_running": running, "queue_pending": self._queue.pending})

    async def change_queue(self, request: web.Request) -> web.Response:
        body: Any = await request.json()
        if body.get("clear"):
            self._queue.clear()
        for prompt_id in body.get("delete", ()):
            self._queue.delete(prompt_id)
        return web.Response()

    async def interrupt(self, request: web.Request) -> web.Response:
        try:
            body: Any = await request.json()
        except json.JSONDecodeError:
            body = {}
        prompt_id = body.get("prompt_id")
        running = self._queue.running
        if not prompt_id:
            self._instance.logs.line("Global interrupt (no prompt_id specified)")
            self._instance.machine.interrupt_requested = True
        elif running is not None and running[1] == prompt_id:
            self._instance.logs.line(f"Interrupting prompt {prompt_id}")
            self._instance.machine.interrupt_requested = True
        else:
            self._instance.logs.line(f"Prompt {prompt_id} is not currently running, skipping interrupt")
        return web.Response()

    async def show_history(self, request: web.Request) -> web.Response:
        max_items = request.query.get("max_items")
        offset = request.query.get("offset")
        return answer(
            self._queue.page(None if max_items is None else int(max_items), -1 if offset is None else int(offset))
        )

    async def show_entry(self, request: web.Request) -> web.Response:
        prompt_id = request.match_info["prompt_id"]
        entry = self._queue.history.get(prompt_id)
        return answer({} if entry is None else {prompt_id: entry})

    async def change_history(self, request: web.Request) -> web.Response:
        body: Any = await request.json()
        if body.get("clear"):
            self._queue.history.clear()
        for prompt_id in body.get("delete", ()):
            self._queue.history.pop(prompt_id, None)
        return web.Response()

    async def free(self, request: web.Request) -> web.Response:
        body: Any = await request.json()
        self._instance.unload_wanted |= bool(body.get("unload_models", False))
        self._instance.forget_wanted |= bool(body.get("free_memory", False))
        self._queue.wake()
        return web.Response()


def features(instance: Instance) -> dict[str, Any]:
    """What the server says it can do."""
    return {
        "supports_preview_metadata": True,
        "max_upload_size": round(instance.options.max_upload_mib * 1024 * 1024),
    }


def trouble() -> web.Response:
    """The 500 that aiohttp makes of an exception."""
    return web.Response(status=500, text="500 Internal Server Error\n\nServer got itself in trouble")


def garbage() -> web.Response:
    """A 200 whose body claims to be JSON and is not."""
    return web.Response(body=b'{"prompt_id": "\xff\xfe', content_type="application/json", charset="utf-8")
