"""One ComfyUI instance over HTTP. Every foreign error stops here and becomes one of ours.

Absence from /history does not tell queued from lost, and an id may be in neither for some milliseconds between the
two: `whereabouts` asks both.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from enum import Enum
from typing import Any
from urllib.parse import quote

import httpx
import msgspec
from httpx_aiohttp import AiohttpTransport

from comfy_shared.errors import InstanceLost, OutputMissing, PromptRejected, RunError
from comfy_shared.models import Prompt


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
        limits = httpx.Limits(max_connections=32, max_keepalive_connections=16)
        # No Origin is sent and Host is the instance's own: it refuses a loopback Host with a foreign Origin.
        self.http = httpx.AsyncClient(
            base_url=self.url,
            timeout=httpx.Timeout(patience, connect=2.0),
            transport=AiohttpTransport(limits=limits, trust_env=False),  # a third of the time of httpx's own
            trust_env=False,
        )

    async def close(self) -> None:
        await self.http.aclose()

    async def _find(self) -> None:
        for url in self.urls:
            try:
                answer = await self.http.get(f"{url}/system_stats", timeout=5.0)
            except httpx.HTTPError:
                continue
            if answer.status_code == 200:
                self.url, self._found = url, True
                self.http.base_url = httpx.URL(url)
                return

    async def _ask(self, method: str, path: str, **options: Any) -> httpx.Response:
        if not self._found:
            await self._find()
        try:
            response = await self.http.request(method, path, **options)
        except httpx.HTTPError as error:
            self._found = len(self.urls) == 1
            raise InstanceLost(f"ComfyUI does not answer {method} {path} ({type(error).__name__}).") from error
        if response.status_code >= 500:
            raise BadAnswer(f"ComfyUI answered {method} {path} with {response.status_code}.")
        return response

    async def _json(self, path: str, **options: Any) -> dict[str, Any]:
        response = await self._ask("GET", path, **options)
        try:
            return msgspec.json.decode(response.content, type=dict[str, Any])
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            raise BadAnswer(f"ComfyUI answered GET {path} with something that is no JSON object.") from error

    async def get(self, path: str, **options: Any) -> httpx.Response:
        """An answer as it is, unless it is a server error."""
        return await self._ask("GET", path, **options)

    async def post_form(
        self, path: str, files: Mapping[str, tuple[str, bytes]], form: Mapping[str, str]
    ) -> httpx.Response:
        """Posts a multipart form."""
        return await self._ask("POST", path, files=files, data=form)

    async def open(self, path: str, **options: Any) -> httpx.Response:
        """An answer whose body is yet to be read; the caller closes it."""
        try:
            return await self.http.send(self.http.build_request("GET", path, **options), stream=True)
        except httpx.HTTPError as error:
            raise InstanceLost(f"ComfyUI does not answer GET {path} ({type(error).__name__}).") from error

    async def system_stats(self) -> dict[str, Any]:
        """Machine and devices; cheap."""
        stats = await self._json("/system_stats", timeout=5.0)
        if not isinstance(stats.get("system"), dict) or not isinstance(stats.get("devices"), list):
            raise BadAnswer("What answers GET /system_stats is no ComfyUI.")
        return stats

    async def object_info(self) -> dict[str, Any]:
        """All node classes; hundreds of KB."""
        return await self._json("/object_info")

    async def saved_workflows(self) -> list[SavedFile]:
        """What is saved in its editor; cheap."""
        query = {"dir": "workflows", "recurse": "true", "full_info": "true"}
        response = await self._ask("GET", "/userdata", params=query, timeout=5.0)
        if response.status_code == 404:  # nothing was ever saved
            return []
        try:
            return msgspec.json.decode(response.content, type=list[SavedFile])
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            raise BadAnswer("ComfyUI answered GET /userdata with something that is no list of files.") from error

    async def saved_workflow(self, path: str) -> bytes | None:
        """A saved workflow's bytes; None when it is gone."""
        response = await self._ask("GET", "/userdata/" + quote(f"workflows/{path}", safe=""))
        return response.content if response.status_code == 200 else None

    async def submit(self, prompt: Prompt, *, prompt_id: str, client_id: str, extra_data: Mapping[str, Any]) -> None:
        """Queues a prompt under an id of our own.

        Raises:
            PromptRejected: the graph is invalid, wholly or in one of its outputs; it is not left half-running.
        """
        body = {"prompt": prompt, "prompt_id": prompt_id, "client_id": client_id, "extra_data": extra_data}
        try:
            response = await self._ask("POST", "/prompt", content=msgspec.json.encode(body))
            answer = _answer(response)
        except (InstanceLost, BadAnswer):
            # The answer may be lost and the prompt accepted all the same: never post an id twice without looking.
            if await self.whereabouts(prompt_id) is Place.NOWHERE:
                raise
            return
        if response.status_code != 200:
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
        entry = (await self._json(f"/history/{prompt_id}")).get(prompt_id)
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
        await self._ask("POST", "/queue", json={"delete": [prompt_id]})
        await self.interrupt(prompt_id)

    async def interrupt(self, prompt_id: str) -> None:
        """Stops this prompt if it runs now, and no other."""
        await self._ask("POST", "/interrupt", json={"prompt_id": prompt_id})

    async def release_memory(self, *, unload_models: bool, free_memory: bool) -> None:
        """Unloads the models, drops the cached results; after the prompt that runs now."""
        await self._ask("POST", "/free", json={"unload_models": unload_models, "free_memory": free_memory})

    async def subscribe_logs(self, client_id: str) -> None:
        """Has the instance's log lines sent to that client's socket."""
        await self._ask("PATCH", "/internal/logs/subscribe", json={"clientId": client_id, "enabled": True})

    async def upload(self, name: str, data: bytes) -> str:
        """Puts a file into the input folder; returns what a node's input has to name."""
        response = await self.post_form("/upload/image", {"image": (name, data)}, {"type": "input"})
        if response.status_code != 200:
            raise BadAnswer(f"ComfyUI refused an input file with {response.status_code}.")
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
        try:
            async with self.http.stream("GET", "/view", params=parameters) as response:
                if response.status_code in (400, 403, 404):
                    raise OutputMissing(f"ComfyUI no longer has the output {parameters['filename']!r}.")
                if response.status_code != 200:
                    raise BadAnswer(f"ComfyUI answered GET /view with {response.status_code}.")
                yield response.aiter_bytes(1024 * 1024)
        except httpx.HTTPError as error:
            raise InstanceLost(f"ComfyUI broke off an output ({type(error).__name__}).") from error


def _answer(response: httpx.Response) -> dict[str, Any]:
    try:
        return msgspec.json.decode(response.content, type=dict[str, Any])
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise BadAnswer(f"ComfyUI answered with {response.status_code} and no JSON object.") from error


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
