"""One ComfyUI instance over HTTP. Every foreign error stops here and becomes one of ours.

Absence from /history does not tell queued from lost, and an id may be in neither for some milliseconds between the
two: `whereabouts` asks both.
"""

import asyncio
import ssl
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from enum import Enum
from typing import Any
from urllib.parse import quote, urlencode

import certifi
import msgspec
from aiohttp import ClientError, ClientResponse, ClientSession, ClientTimeout, CookieJar, FormData, TCPConnector
from yarl import URL

from comfy_shared.errors import InstanceLost, OutputMissing, PromptRejected, RunError
from comfy_shared.models import Prompt

MOST_CONNECTIONS = 32
IDLE_SECONDS = 5.0  # after which an unused connection is closed
CONNECT_SECONDS = 2.0
QUICK = ClientTimeout(connect=5.0, sock_connect=5.0, sock_read=5.0)  # for what an instance always answers at once
PIECE = 1024 * 1024  # bytes of an output that are handed on at a time
JSON = {"Content-Type": "application/json"}
AS_IT_IS = {"Accept-Encoding": "identity"}  # files: what is counted is what is sent

_GONE = (ClientError, OSError)  # what aiohttp raises when there is no answer, or none to its end; also TimeoutError


class BadAnswer(RunError):
    """The ComfyUI instance answers what it never should."""

    code = "bad_answer"
    retryable = True


class Place(Enum):
    """Where a prompt is at its instance."""

    WAITING = "waiting"
    RUNNING = "running"
    ENDED = "ended"
    NOWHERE = "nowhere"


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """An answer that was read to its end."""

    status: int
    content_type: str | None
    content: bytes


class SavedFile(msgspec.Struct, frozen=True, kw_only=True):
    """A file that the editor saved."""

    path: str  # below the folder of workflows
    size: int  # bytes
    modified: float  # as the instance counts: to compare, not to read


class Instance:
    """The HTTP routes that an agent uses.

    Methods raise `InstanceLost` when the instance does not answer and `BadAnswer` when it answers with a server error
    or no JSON.
    """

    def __init__(self, urls: Sequence[str], *, patience: float) -> None:
        self.urls = urls  # of one instance, as seen from different networks: the first that answers is used
        self.url = urls[0]
        self._found = len(urls) == 1
        self._timeout = ClientTimeout(connect=patience, sock_connect=CONNECT_SECONDS, sock_read=patience)
        # aiohttp's client as it is: httpx above it more than doubled what a call costs, and a small prompt is three.
        # No Origin is sent and Host is the instance's own: it refuses a loopback Host with a foreign Origin.
        self._http = ClientSession(
            connector=TCPConnector(
                limit=MOST_CONNECTIONS,
                keepalive_timeout=IDLE_SECONDS,
                ssl=ssl.create_default_context(cafile=certifi.where()) if _any_https(urls) else True,
            ),
            cookie_jar=CookieJar(unsafe=True),
        )

    async def close(self) -> None:
        await self._http.close()

    async def _find(self) -> None:
        for url in self.urls:
            try:
                async with self._http.get(f"{url}/system_stats", timeout=QUICK, allow_redirects=False) as answer:
                    found = answer.status == 200
            except _GONE:
                continue
            if found:
                self.url, self._found = url, True
                return

    def _lost(self, reason: str) -> InstanceLost:
        self._found = len(self.urls) == 1
        return InstanceLost(reason)

    async def _begin(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, Any] | None = None,
        body: bytes | FormData | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: ClientTimeout | None = None,
    ) -> ClientResponse:
        """An answer whose body is yet to be read; `path` is percent-encoded."""
        if not self._found:
            await self._find()
        query = f"?{urlencode(params, quote_via=quote)}" if params else ""
        try:
            return await self._http.request(
                method,
                URL(f"{self.url}{path}{query}", encoded=True),
                data=body,
                headers=headers,
                timeout=timeout or self._timeout,
                allow_redirects=False,
            )
        except _GONE as error:
            raise self._lost(f"ComfyUI does not answer {method} {path} ({type(error).__name__}).") from error

    async def _ask(self, method: str, path: str, **options: Any) -> Answer:
        async with await self._begin(method, path, **options) as response:
            try:
                content = await response.read()
            except _GONE as error:
                raise self._lost(f"ComfyUI breaks off {method} {path} ({type(error).__name__}).") from error
        if response.status >= 500:
            raise BadAnswer(f"ComfyUI answered {method} {path} with {response.status}.")
        return Answer(status=response.status, content_type=response.headers.get("Content-Type"), content=content)

    async def _post(self, path: str, value: object) -> Answer:
        return await self._ask("POST", path, body=msgspec.json.encode(value), headers=JSON)

    async def _json(self, path: str, **options: Any) -> dict[str, Any]:
        answer = await self._ask("GET", path, **options)
        try:
            return msgspec.json.decode(answer.content, type=dict[str, Any])
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            raise BadAnswer(f"ComfyUI answered GET {path} with something that is no JSON object.") from error

    async def get(self, path: str, params: Mapping[str, Any] | None = None) -> Answer:
        """An answer as it is, unless it is a server error."""
        return await self._ask("GET", path, params=params)

    async def post_form(self, path: str, files: Mapping[str, tuple[str, bytes]], form: Mapping[str, str]) -> Answer:
        """Posts a multipart form."""
        body = FormData(form, quote_fields=False)  # ComfyUI takes a file's name as it is written
        for field, (name, data) in files.items():
            body.add_field(field, data, filename=name)
        return await self._ask("POST", path, body=body)

    async def open(self, path: str, params: Mapping[str, Any], headers: Mapping[str, str]) -> ClientResponse:
        """An answer whose body is yet to be read; the caller releases it."""
        return await self._begin("GET", path, params=params, headers={**AS_IT_IS, **headers})

    async def system_stats(self) -> dict[str, Any]:
        """Machine and devices; cheap."""
        stats = await self._json("/system_stats", timeout=QUICK)
        if not isinstance(stats.get("system"), dict) or not isinstance(stats.get("devices"), list):
            raise BadAnswer("What answers GET /system_stats is no ComfyUI.")
        return stats

    async def object_info(self) -> dict[str, Any]:
        """All node classes; hundreds of KB."""
        return await self._json("/object_info")

    async def saved_workflows(self) -> list[SavedFile]:
        """What is saved in its editor; cheap."""
        query = {"dir": "workflows", "recurse": "true", "full_info": "true"}
        response = await self._ask("GET", "/userdata", params=query, timeout=QUICK)
        if response.status == 404:  # nothing was ever saved
            return []
        try:
            return msgspec.json.decode(response.content, type=list[SavedFile])
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            raise BadAnswer("ComfyUI answered GET /userdata with something that is no list of files.") from error

    async def saved_workflow(self, path: str) -> bytes | None:
        """A saved workflow's bytes; None when it is gone."""
        response = await self._ask("GET", "/userdata/" + quote(f"workflows/{path}", safe=""))
        return response.content if response.status == 200 else None

    async def submit(self, prompt: Prompt, *, prompt_id: str, client_id: str, extra_data: Mapping[str, Any]) -> None:
        """Queues a prompt under an id of our own.

        Raises:
            PromptRejected: the graph is invalid, wholly or in one of its outputs; it is not left half-running.
        """
        body = {"prompt": prompt, "prompt_id": prompt_id, "client_id": client_id, "extra_data": extra_data}
        try:
            response = await self._post("/prompt", body)
            answer = _answer(response)
        except (InstanceLost, BadAnswer):
            # The answer may be lost and the prompt accepted all the same: never post an id twice without looking.
            if await self.whereabouts(prompt_id) is Place.NOWHERE:
                raise
            return
        if response.status != 200:
            raise _rejection(answer)
        if answer.get("node_errors"):
            await self.remove(prompt_id)
            raise _rejection(answer)

    async def queue(self) -> tuple[list[list[Any]], list[list[Any]]]:
        """Running and waiting items: [number, prompt id, prompt, extra data, outputs]."""
        answer = await self._json("/queue")
        return _items(answer.get("queue_running")), _items(answer.get("queue_pending"))

    async def history(self, prompt_id: str) -> dict[str, Any] | None:
        """The ended prompt's entry: outputs and status; None while it waits, runs or is unknown."""
        entry = (await self._json(f"/history/{quote(prompt_id, safe='')}")).get(prompt_id)
        return entry if isinstance(entry, dict) else None

    async def whereabouts(self, prompt_id: str) -> Place:
        """Where a prompt is, by history and queue; asked twice before it counts as nowhere."""
        for last in (False, True):
            if await self.history(prompt_id) is not None:
                return Place.ENDED
            running, waiting = await self.queue()
            if any(item[1] == prompt_id for item in running):
                return Place.RUNNING
            if any(item[1] == prompt_id for item in waiting):
                return Place.WAITING
            if not last:
                await asyncio.sleep(0.2)
        return Place.NOWHERE

    async def remove(self, prompt_id: str) -> None:
        """Stops this prompt, waiting or running, and no other."""
        await self._post("/queue", {"delete": [prompt_id]})
        await self.interrupt(prompt_id)

    async def interrupt(self, prompt_id: str) -> None:
        """Stops this prompt if it runs now, and no other."""
        await self._post("/interrupt", {"prompt_id": prompt_id})

    async def release_memory(self, *, unload_models: bool, free_memory: bool) -> None:
        """Unloads the models, drops the cached results; after the prompt that runs now."""
        await self._post("/free", {"unload_models": unload_models, "free_memory": free_memory})

    async def subscribe_logs(self, client_id: str) -> None:
        """Has the instance's log lines sent to that client's socket."""
        body = msgspec.json.encode({"clientId": client_id, "enabled": True})
        await self._ask("PATCH", "/internal/logs/subscribe", body=body, headers=JSON)

    async def upload(self, name: str, data: bytes) -> str:
        """Puts a file into the input folder; returns what a node's input has to name."""
        response = await self.post_form("/upload/image", {"image": (name, data)}, {"type": "input"})
        if response.status != 200:
            raise BadAnswer(f"ComfyUI refused an input file with {response.status}.")
        answer = _answer(response)
        given, subfolder = answer.get("name"), answer.get("subfolder")
        if not isinstance(given, str) or not given:
            raise BadAnswer("ComfyUI took an input file and did not say under which name.")
        return f"{subfolder}/{given}" if subfolder else given

    @asynccontextmanager
    async def view(self, file: Mapping[str, Any]) -> AsyncIterator[AsyncIterator[bytes]]:
        """The bytes of a file that history names (filename, subfolder, type).

        Raises:
            OutputMissing: it is not there (a cached run names old files).
        """
        parameters = {key: str(file.get(key, "")) for key in ("filename", "subfolder", "type")}
        async with await self.open("/view", parameters, {}) as response:
            if response.status in (400, 403, 404):
                raise OutputMissing(f"ComfyUI no longer has the output {parameters['filename']!r}.")
            if response.status != 200:
                raise BadAnswer(f"ComfyUI answered GET /view with {response.status}.")
            yield self._pieces(response)

    async def _pieces(self, response: ClientResponse) -> AsyncIterator[bytes]:
        held, size = [], 0
        try:
            async for chunk in response.content.iter_any():
                held.append(chunk)
                size += len(chunk)
                if size >= PIECE:
                    yield b"".join(held)
                    held, size = [], 0
        except _GONE as error:
            raise self._lost(f"ComfyUI broke off an output ({type(error).__name__}).") from error
        if held:
            yield b"".join(held)


def _any_https(urls: Sequence[str]) -> bool:
    return any(url.startswith("https:") for url in urls)


def _answer(response: Answer) -> dict[str, Any]:
    try:
        return msgspec.json.decode(response.content, type=dict[str, Any])
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise BadAnswer(f"ComfyUI answered with {response.status} and no JSON object.") from error


def _items(value: object) -> list[list[Any]]:
    if not isinstance(value, list) or not all(isinstance(item, list) and len(item) > 1 for item in value):
        raise BadAnswer("ComfyUI answered GET /queue with something that is no queue.")
    return value


def _rejection(answer: Mapping[str, Any]) -> PromptRejected:
    """ComfyUI's own words; the tracebacks of its validation carry server paths and stay here."""
    node_errors = answer.get("node_errors") or {}
    error = answer.get("error")
    error = error if isinstance(error, dict) else {}
    lines = [str(error.get("message", "A part of the prompt is invalid"))]
    if error.get("details"):
        lines.append(str(error["details"]))
    readable: dict[str, Any] = {}
    for node, entry in node_errors.items() if isinstance(node_errors, dict) else ():
        if not isinstance(entry, dict):
            continue
        errors = [item for item in entry.get("errors") or [] if isinstance(item, dict)]
        readable[node] = {
            "class_type": entry.get("class_type"),
            "errors": [{key: item.get(key) for key in ("type", "message", "details")} for item in errors],
        }
        lines += [f"node {node}: {item.get('message')}: {item.get('details')}" for item in errors]
    return PromptRejected(". ".join(lines)[:2000], {"type": error.get("type"), "node_errors": readable})
