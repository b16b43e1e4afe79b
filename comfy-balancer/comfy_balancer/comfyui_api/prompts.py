"""POST /prompt: the body of a ComfyUI client → a task, refused in ComfyUI's own words.

The prompt id is the task's id (`ids`): the same call again, after a lost answer, finds the task that it made and is
answered alike; another body or another owner is refused. Tokens that a client sends for ComfyUI's paid services are
dropped at once: they are stored nowhere, and nodes that need one cannot be run through us.
"""

import asyncio
import hashlib
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from comfy_balancer.accepted import Given
from comfy_balancer.catalog import Fleet
from comfy_balancer.checks import SHA256, file_inputs
from comfy_balancer.comfyui_api.definitions import Classes, Merger
from comfy_balancer.comfyui_api.files import ClientFiles
from comfy_balancer.comfyui_api.ids import prompt_id_of, task_id_of
from comfy_balancer.comfyui_api.names import NamedFile, place_of
from comfy_balancer.comfyui_api.validation import NO_OUTPUTS, NO_PROMPT, Verdict, problem, validate
from comfy_balancer.decoding import decode_body
from comfy_balancer.eligibility import different
from comfy_balancer.schemas import TaskRequest
from comfy_balancer.service import TaskService
from comfy_balancer.settings import BalancerSettings
from comfy_shared.callers import Caller
from comfy_shared.errors import ComfyError, FieldProblem, InvalidTask
from comfy_shared.http.problems import MalformedBody
from comfy_shared.ids import new_id
from comfy_shared.models import Extra
from comfy_shared.needs import Offer

TOKENS = frozenset({"auth_token_comfy_org", "api_key_comfy_org"})
CLIENT_ID = re.compile(r"[^\x00-\x1f\x7f]{0,256}")
HEAVY_NODES = 100  # from here a prompt is checked beside the event loop
_INPUT_FIELD = re.compile(r"prompt\.(.+)\.inputs\.(.+)", re.DOTALL)
_CLASS_FIELD = re.compile(r"prompt\.(.+)\.class_type", re.DOTALL)


class PromptRefused(ComfyError):
    """The prompt is not taken: the answer is ComfyUI's."""

    def __init__(self, error: Mapping[str, Any], node_errors: Mapping[str, Any] = {}) -> None:
        super().__init__(str(error["message"]))
        self.body = {"error": error, "node_errors": node_errors}


@dataclass(frozen=True, kw_only=True, slots=True)
class Wanted:
    """What a body asks for."""

    prompt: dict[str, Any]
    task_id: str
    client_id: str | None
    number: float
    front: bool
    data: dict[str, Any]  # extra_data, without tokens and client id
    targets: list[str] | None


def read_body(body: bytes, settings: BalancerSettings) -> Wanted:
    """Raises PromptRefused."""
    try:
        given = decode_body(body, Any, values_limit=settings.values_limit)
    except (MalformedBody, InvalidTask) as error:
        raise PromptRefused(problem("invalid_json", "The body is not taken", error.message)) from None
    if not isinstance(given, dict) or given.get("prompt") is None:
        raise PromptRefused(NO_PROMPT)
    prompt = given["prompt"]
    if not prompt:
        raise PromptRefused(NO_OUTPUTS)
    if not isinstance(prompt, dict):
        raise _odd("prompt", "must be an object of nodes in API format")
    number, front = _number(given)
    data = given.get("extra_data")
    if data is not None and not isinstance(data, dict):
        raise _odd("extra_data", "must be an object")
    data = dict(data or {})
    client_id = given.get("client_id", data.pop("client_id", None))
    if client_id is not None and not CLIENT_ID.fullmatch(client_id := str(client_id)):
        raise _odd("client_id", "must be at most 256 printable characters")
    if not isinstance(data.get("extra_pnginfo", {}), dict):
        raise _odd("extra_data.extra_pnginfo", "must be an object")
    targets = given.get("partial_execution_targets")
    if targets is not None and not isinstance(targets, list):
        raise _odd("partial_execution_targets", "must be a list of node ids")
    return Wanted(
        prompt=prompt,
        task_id=_task_id(given.get("prompt_id")),
        client_id=client_id,
        number=number,
        front=front,
        data={key: value for key, value in data.items() if key not in TOKENS},
        targets=None if targets is None else [str(target) for target in targets],
    )


def _odd(field: str, why: str) -> PromptRefused:
    return PromptRefused(problem("invalid_request", f"{field} {why}", field))


def _number(given: Mapping[str, Any]) -> tuple[float, bool]:
    """The number as it is answered, and whether the prompt goes before the caller's others."""
    if given.get("number") is not None:
        try:
            number = float(given["number"])
        except (ValueError, TypeError, OverflowError):
            raise _odd("number", "must be a number") from None
        if not abs(number) < 2**53:
            raise _odd("number", "must be a number below 2^53")
        return number, number < 0
    now = int(time.time() * 1000)
    front = bool(given.get("front"))
    return (-now if front else now), front


def _task_id(prompt_id: object) -> str:
    if prompt_id is None:
        return new_id()
    task_id = task_id_of(prompt_id) if isinstance(prompt_id, str) else None
    if task_id is None:
        text = "prompt_id must be a valid UUID"
        raise PromptRefused(problem("invalid_prompt_id", text, str(prompt_id)[:200]))
    return task_id


class Prompts:
    """Takes prompts of ComfyUI clients."""

    def __init__(self, service: TaskService, fleet: Fleet, files: ClientFiles, settings: BalancerSettings) -> None:
        self._service = service
        self._fleet = fleet
        self._files = files
        self._settings = settings
        self._merger = Merger()

    async def submit(self, body: bytes, who: Caller) -> dict[str, Any]:
        """The answer to POST /prompt.

        Raises:
            PromptRefused: in ComfyUI's words.
            QueueFull, Unavailable.
        """
        wanted = read_body(body, self._settings)
        offers = different(await self._fleet.members())
        named = await self._files.named(who, _file_names(wanted.prompt, offers))
        verdict = await _judge(wanted, self._merger.of(offers), named)
        if verdict.error is not None:
            raise PromptRefused(verdict.error, verdict.node_errors)
        prompt, names = _with_content(verdict.prompt, offers, named)
        extra = Extra(
            client_id=wanted.client_id,
            number=wanted.number,
            targets=verdict.targets,
            data=wanted.data,
            names=names,
            digest=hashlib.sha256(body).hexdigest(),
        )
        try:
            request = TaskRequest(prompt=prompt)
            given = Given(task_id=wanted.task_id, extra=extra, front=wanted.front)
            accepted = await self._service.submit(request, who, given=given)
        except InvalidTask as error:
            raise _refusal(error.problems, prompt) from None
        task = accepted.tasks[0]
        answered = wanted.number
        if accepted.replayed:
            before = task.extra if task.owner == who.owner else Extra()
            if before.digest != extra.digest:
                raise PromptRefused(problem("invalid_prompt_id", "prompt_id is used already", prompt_id_of(task.id)))
            answered = before.number if before.number is not None else answered
        return {"prompt_id": prompt_id_of(task.id), "number": answered, "node_errors": verdict.node_errors}


async def _judge(wanted: Wanted, classes: Classes, named: Mapping[str, NamedFile]) -> Verdict:
    if not classes:  # nothing is known of any agent: the prompt waits for one, and is judged there
        return Verdict(prompt=wanted.prompt)

    def work() -> Verdict:
        try:
            return validate(
                wanted.prompt,
                classes,
                targets=wanted.targets,
                exists=lambda value: place_of(value).field in named or SHA256.fullmatch(value) is not None,
            )
        except RecursionError:
            raise PromptRefused(problem("invalid_prompt", "The prompt is nested too deeply")) from None

    return await asyncio.to_thread(work) if len(wanted.prompt) >= HEAVY_NODES else work()


def _file_names(prompt: Mapping[str, Any], offers: list[Offer]) -> list[str]:
    """What inputs that take a file say, as far as the graph is one."""
    nodes = {
        node_id: node
        for node_id, node in prompt.items()
        if isinstance(node, dict) and isinstance(node.get("inputs"), dict) and isinstance(node.get("class_type"), str)
    }
    values = (value for _, _, value in file_inputs(nodes, offers))
    return [value for value in values if isinstance(value, str) and len(value) <= 1024][:1000]


def _with_content(
    prompt: dict[str, Any], offers: list[Offer], named: Mapping[str, NamedFile]
) -> tuple[dict[str, Any], dict[str, dict[str, str]]]:
    """The graph with each file by its content, and the names that stood there."""
    changed = dict(prompt)
    names: dict[str, dict[str, str]] = {}
    if not named:
        return changed, names
    for node_id, name, value in list(file_inputs(prompt, offers)):
        file = named.get(place_of(value).field) if isinstance(value, str) else None
        if file is not None:
            node = changed[node_id]
            changed[node_id] = {**node, "inputs": {**node["inputs"], name: file.sha256}}
            names.setdefault(node_id, {})[name] = str(value)
    return changed, names


def _refusal(problems: tuple[FieldProblem, ...], prompt: Mapping[str, Any]) -> PromptRefused:
    """Our own pre-flight's problems in ComfyUI's shape."""
    node_errors: dict[str, Any] = {}
    for each in problems:
        found = _CLASS_FIELD.fullmatch(each.field)
        if found and found.group(1) in prompt:
            return PromptRefused(problem("invalid_prompt", each.message, f"Node ID '#{found.group(1)}'"))
        found = _INPUT_FIELD.fullmatch(each.field)
        if not found or found.group(1) not in prompt:
            return PromptRefused(problem("invalid_prompt", f"{each.field}: {each.message}", each.field))
        node_id, name = found.groups()
        fresh = {"errors": [], "dependent_outputs": [], "class_type": prompt[node_id]["class_type"]}
        node_errors.setdefault(node_id, fresh)["errors"].append(
            problem(
                "custom_validation_failed",
                "Custom validation failed for node",
                f"{name} - {each.message}",
                {"input_name": name, "nearest": each.nearest},
            )
        )
    kind, message = "prompt_outputs_failed_validation", "Prompt outputs failed validation"
    return PromptRefused(problem(kind, message), node_errors)
