"""A submission → a task: references become files, and what the queue refuses is told in the contract's codes."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from comfy_balancer.accepted import Accepted
from comfy_balancer.assets import Asset
from comfy_balancer.comfy_v2.bodies import Submission, level_of
from comfy_balancer.comfy_v2.errors import Refusal, invalid_request
from comfy_balancer.comfy_v2.naming import find_named
from comfy_balancer.comfy_v2.outputs import find_output
from comfy_balancer.comfy_v2.references import Reference, find_references, misplaced, put_files
from comfy_balancer.comfyui_api.names import Names
from comfy_balancer.dependencies import Resources
from comfy_balancer.drafts import DoorRequest
from comfy_balancer.references import NOT_STORED
from comfy_balancer.service import KEY
from comfy_balancer.uploads import STORED, Kind
from comfy_shared.callers import Caller
from comfy_shared.errors import FieldProblem, IdempotencyConflict, InvalidTask, NotFound, Refused
from comfy_shared.models import PRIORITY_HIGHEST, PRIORITY_NORMAL, Task
from comfy_shared.partner import PartnerKeys

MOST_MISSING = 50  # ids told in one refusal


class Named(msgspec.Struct, frozen=True, kw_only=True):
    """The file of a reference, and how its owner calls it."""

    sha256: str
    extension: str
    name: str


class Submitter:
    """Accepts jobs."""

    def __init__(self, here: Resources) -> None:
        keys = here.service.queue.keys
        self._fleet = here.fleet
        self._names = Names(here.redis, keys, retention=here.settings.task_retention)
        self._service = here.service
        self._partner = PartnerKeys(here.redis, keys)
        self._assets = here.assets
        self._inputs = here.inputs

    async def submit(self, submission: Submission, who: Caller, key: str | None) -> Task:
        """The task that was accepted. Raises Refusal, QueueFull, Unavailable."""
        if key is not None and not KEY.fullmatch(key):
            raise invalid_request("Idempotency-Key must be 1-255 characters.", 400)
        references = find_references(submission.workflow)
        files = await self._files(submission.workflow, references, who)
        request = _request(submission, files, who)
        try:
            accepted = await self._accept(request, submission.partner_key, who, key)
        except InvalidTask as error:
            raise refused(error.problems, submission.workflow, references) from None
        except IdempotencyConflict:
            raise _reused() from None
        if accepted.replayed:
            raise _reused()
        return accepted.tasks[0]

    async def _accept(self, request: DoorRequest, partner_key: str | None, who: Caller, key: str | None) -> Accepted:
        if partner_key is None:
            return await self._service.submit(request, who, key=key)
        token = await self._partner.keep(partner_key)
        request = msgspec.structs.replace(request, notes={**request.notes, "partner": token})
        try:
            return await self._service.submit(request, who, key=key)
        except Refused:
            await self._partner.forget(token)
            raise

    async def _files(
        self, workflow: Mapping[str, Any], references: Sequence[Reference], who: Caller
    ) -> dict[str, dict[str, Named]]:
        """The file of each reference: node → input → file. Raises Refusal when one leads nowhere."""
        found = await find_named(self._names, workflow, await self._fleet.offers(), who)
        files: dict[str, dict[str, Named]] = {}
        known: dict[tuple[str | None, str | None], Named | None] = {}
        for reference in references:
            names = (reference.id, reference.hash)
            if names not in known:
                known[names] = await self._file(reference, who)
            file = known[names]
            if file is not None and STORED[file.extension] is Kind.OTHER:
                message = f"Node {reference.node[:64]}: {reference.input[:64]}: must be a picture, video or audio file."
                raise Refusal(422, "invalid_workflow", message)
            if file is not None:
                files.setdefault(reference.node, {})[reference.input] = file
        if missing := [item for item in references if known[item.id, item.hash] is None]:
            raise _missing(missing)
        for node_id in misplaced(workflow):
            message = f"Node {node_id[:64]}: a core/ASSET reference must be the whole value of an input."
            raise Refusal(422, "invalid_workflow", message)
        for (node_id, name), (value, named) in found.items():
            file = Named(sha256=named.sha256, extension=named.extension, name=value)
            files.setdefault(node_id, {})[name] = file
        return files

    async def _file(self, reference: Reference, who: Caller) -> Named | None:
        for look in (self._by_id, self._by_hash):
            try:
                if found := await look(reference, who):
                    return found
            except NotFound:
                continue
        return None

    async def _by_id(self, reference: Reference, who: Caller) -> Named | None:
        if reference.id is None:
            return None
        if (found := await find_output(self._service, reference.id, who)) is not None:
            task, index = found
            output = task.outputs[index]
            stored = await self._inputs.take(output)
            return Named(sha256=stored.sha256, extension=stored.extension, name=output.name) if stored else None
        return _named(await self._assets.find(reference.id, who))

    async def _by_hash(self, reference: Reference, who: Caller) -> Named | None:
        if reference.hash is None:
            return None
        return _named(await self._assets.find_by_hash(reference.hash, who))


def _named(asset: Asset) -> Named:
    record = asset.record
    return Named(sha256=record.sha256, extension=record.extension, name=record.file_path)


def _request(submission: Submission, files: Mapping[str, Mapping[str, Named]], who: Caller) -> DoorRequest:
    hashes = {node_id: {name: file.sha256 for name, file in inputs.items()} for node_id, inputs in files.items()}
    notes: dict[str, Any] = {}
    if submission.note is not None:
        notes["metadata"] = submission.note
    if submission.priority is not None:
        notes["priority"] = submission.priority
    if files:
        notes["files"] = {file.sha256: file.name for inputs in files.values() for file in inputs.values()}
    return DoorRequest(
        prompt=put_files(submission.workflow, hashes),
        priority=level_of(submission.priority, highest=PRIORITY_HIGHEST if who.is_admin else PRIORITY_NORMAL),
        labels=submission.labels,
        files=hashes,
        notes=notes,
    )


def refused(problems: Sequence[FieldProblem], workflow: Mapping[str, Any], references: Sequence[Reference]) -> Refusal:
    """What the checks found, in the contract's codes."""
    first = problems[0]
    if first.field.startswith("labels"):
        return Refusal(422, "metadata_invalid", f"{first.field.removeprefix('labels.')}: {first.message}")
    places = {f"prompt.{item.node}.inputs.{item.input}": item for item in references}
    lost = [places[problem.field] for problem in problems if problem.message == NOT_STORED and problem.field in places]
    if lost or first.field == "inputs":
        return _missing(lost or references)
    errors: dict[str, Any] = {}
    for problem in problems:
        if (node_id := _node_of(problem.field, workflow)) is not None:
            entry = errors.setdefault(node_id, {"errors": [], "dependent_outputs": [], "class_type": None})
            entry["errors"].append(_node_error(problem, node_id))
            entry["class_type"] = _class_of(workflow[node_id])
    return Refusal(422, "invalid_workflow", _sentence(first, workflow), {"node_errors": errors})


def _node_of(field: str, workflow: Mapping[str, Any]) -> str | None:
    """The node that a field belongs to; ids may hold dots themselves."""
    place = field.removeprefix("prompt.")
    if place == field:
        return None
    fits = (place[:at] for at in range(len(place), 0, -1) if at == len(place) or place[at] == ".")
    return next((node_id for node_id in fits if node_id in workflow), None)


def _node_error(problem: FieldProblem, node_id: str) -> dict[str, Any]:
    place = problem.field.removeprefix(f"prompt.{node_id}").removeprefix(".")
    more = {"nearest": problem.nearest} if problem.nearest else {}
    return {
        "type": "invalid_input" if place.startswith("inputs.") else "invalid_node",
        "message": problem.message,
        "details": place.removeprefix("inputs."),
        "extra_info": {"input_name": place.removeprefix("inputs."), **more} if place.startswith("inputs.") else more,
    }


def _class_of(node: Any) -> str | None:
    found = node.get("class_type") if isinstance(node, dict) else None
    return found if isinstance(found, str) else None


def _sentence(problem: FieldProblem, workflow: Mapping[str, Any]) -> str:
    node_id = _node_of(problem.field, workflow)
    if node_id is None:
        return (
            f"The workflow {problem.message}." if problem.field == "prompt" else f"{problem.field}: {problem.message}"
        )
    name = _class_of(workflow[node_id])
    place = problem.field.removeprefix(f"prompt.{node_id}").removeprefix(".").removeprefix("inputs.")
    return f"Node {node_id} ({name}): {place}: {problem.message}" if place else f"Node {node_id}: {problem.message}"


def _missing(references: Sequence[Reference]) -> Refusal:
    ids = [reference.told for reference in references[:MOST_MISSING]]
    message = f"Unresolvable core/ASSET reference(s): {', '.join(ids[:5])}"
    return Refusal(422, "missing_asset", message, {"missing_ids": ids})


def _reused() -> Refusal:
    message = (
        "This Idempotency-Key has already been used. Keys are single-use; poll or list your jobs instead of "
        "resubmitting with the same key."
    )
    return Refusal(422, "idempotency_key_reuse", message)
