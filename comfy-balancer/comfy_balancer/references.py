"""Where the file of an image-like input comes from when it is no upload: another task's output, a data URL, a URL.

A reference is replaced by the sha256 of what it means before the task is drafted, so that everything behind knows
one kind of file only. The bytes are checked like an upload, and stored once by their content.
"""

import asyncio
import base64
import binascii
import io
import re
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any, BinaryIO, cast

import msgspec

from comfy_balancer.addresses import Unsafe
from comfy_balancer.checks import takes_upload
from comfy_balancer.drafts import Draft, Surroundings
from comfy_balancer.fetching import Fetcher, FetchFailed
from comfy_balancer.settings import BalancerSettings
from comfy_balancer.sweeps import Point, distinct
from comfy_balancer.uploads import Inputs, StoredInput, Upload, know
from comfy_shared.callers import Caller
from comfy_shared.errors import FieldProblem, InvalidTask, NotFound, TooLarge
from comfy_shared.files import FileStore
from comfy_shared.http.problems import invalid
from comfy_shared.models import Output, Status
from comfy_shared.needs import nearest
from comfy_shared.queue import Queue

Found = Mapping[str, StoredInput]  # by hash

TASK = re.compile(r"task:([0-9a-z]{26})/([A-Za-z0-9._-]{1,160})")
DATA = re.compile(r"data:([A-Za-z0-9.+-]{1,64}/[A-Za-z0-9.+-]{1,64})?(;[A-Za-z0-9.+=-]{1,64})*;base64,")
SCHEMES = ("task:", "data:", "http:", "https:")
AT_ONCE = 4  # references of one call that are loaded at a time
NOT_STORED = "there is no stored file with this sha256"
SPOOLED = 1024 * 1024  # bytes of a file that stay in memory


@dataclass(frozen=True, kw_only=True, slots=True)
class Brought:
    """What the references of a call mean."""

    sha256s: Mapping[str, str]  # reference → hash
    uploads: tuple[Upload, ...]  # not stored yet


def references_of(point: Point, around: Surroundings) -> Iterator[tuple[str, str]]:
    """(field, reference) of the inputs that take a file. Takes any request, also one that a draft refuses."""
    request = point.request
    workflow = around.workflows.get(request.workflow or "")
    for parameter in workflow.parameters if workflow else ():
        value = request.parameters.get(parameter.name)
        if parameter.type.is_file and is_reference(value):
            yield f"parameters.{parameter.name}", cast("str", value)
    for node_id, node in (request.prompt or {}).items():
        for name, value in _inputs(node):
            if is_reference(value) and takes_upload(node["class_type"], name, around.offers):
                yield f"prompt.{node_id}.inputs.{name}", value


def is_reference(value: object) -> bool:
    return isinstance(value, str) and value[:6].lower().startswith(SCHEMES)


def _inputs(node: object) -> list[tuple[str, Any]]:
    if isinstance(node, dict) and isinstance(node.get("class_type"), str) and isinstance(node.get("inputs"), dict):
        return list(node["inputs"].items())
    return []


def with_files(point: Point, around: Surroundings, sha256s: Mapping[str, str]) -> Point:
    """The same with each reference replaced by a hash."""
    request = point.request
    parameters, prompt = dict(request.parameters), request.prompt
    for place, reference in references_of(point, around):
        if place.startswith("parameters."):
            parameters[place.removeprefix("parameters.")] = sha256s[reference]
    if prompt is not None:
        prompt = {node_id: _with_files(node, around, sha256s) for node_id, node in prompt.items()}
    changed = msgspec.structs.replace(request, parameters=parameters, prompt=prompt)
    return replace(point, request=changed)


def _with_files(node: Any, around: Surroundings, sha256s: Mapping[str, str]) -> Any:
    inputs = {
        name: sha256s[value]
        for name, value in _inputs(node)
        if is_reference(value) and value in sha256s and takes_upload(node["class_type"], name, around.offers)
    }
    return {**node, "inputs": {**node["inputs"], **inputs}} if inputs else node


def stand_ins(wanted: Mapping[str, str]) -> dict[str, str]:
    """Hashes that mean nothing: everything else of a task is checked before anything is loaded for it."""
    return {reference: f"{number:064x}" for number, reference in enumerate(wanted)}


class References:
    """Loads what references mean."""

    def __init__(
        self, queue: Queue, inputs: Inputs, files: FileStore, fetcher: Fetcher, settings: BalancerSettings
    ) -> None:
        self.inputs = inputs
        self._queue = queue
        self._files = files
        self._fetcher = fetcher
        self._settings = settings

    @asynccontextmanager
    async def brought(self, wanted: Mapping[str, str], who: Caller) -> AsyncIterator[Brought]:
        """What the references mean (`wanted`: reference → field); its files are gone after the block.

        Raises:
            InvalidTask: all references that lead nowhere.
            TooLarge: a file is over its limit.
        """
        self._count(wanted)
        slots = asyncio.Semaphore(AT_ONCE)
        uploads: list[Upload] = []

        async def one(reference: str, place: str) -> str:
            async with slots:
                found = await self._load(reference, place, who)
            if isinstance(found, Upload):
                uploads.append(found)
                if sum(upload.size for upload in uploads) > self._settings.form_limit:
                    raise TooLarge(f"The files of one call are larger than {self._settings.form_limit} bytes together.")
            return found.sha256

        loading = [asyncio.create_task(one(reference, place)) for reference, place in wanted.items()]
        try:
            if loading:
                await asyncio.wait(loading)
            yield Brought(sha256s=dict(zip(wanted, _results(loading), strict=True)), uploads=tuple(uploads))
        finally:
            for task in loading:
                task.cancel()
            await asyncio.gather(*loading, return_exceptions=True)
            for upload in uploads:
                upload.file.close()

    def _count(self, wanted: Mapping[str, str]) -> None:
        most = self._settings.files_limit
        loaded = [place for reference, place in wanted.items() if not reference.startswith("task:")]
        if len(loaded) > most:
            raise invalid(loaded[most], f"a call names at most {most} URLs", limits={"maximum": most})

    async def _load(self, reference: str, place: str, who: Caller) -> Upload | StoredInput:
        if reference[:5].lower() == "task:":
            return await self._output(reference, place, who)
        if reference[:5].lower() == "data:":
            return await self._data(reference, place)
        try:
            file = await self._fetcher.fetch(reference, limit=self._settings.fetch_limit)
        except (Unsafe, FetchFailed) as error:
            raise invalid(place, f"the URL {error}") from None
        return await self._known(place, file)

    async def _known(self, place: str, file: BinaryIO) -> Upload:
        try:
            return await know(place, file, self._settings.pixel_limit)
        except BaseException:
            file.close()
            raise

    async def _data(self, reference: str, place: str) -> Upload:
        head = DATA.match(reference)
        if head is None:
            raise invalid(place, "is no data URL of the form data:TYPE;base64,DATA")
        limit = self._settings.file_limit
        if (len(reference) - head.end()) * 3 // 4 > limit + 3:
            raise TooLarge(f"{place}: the data is larger than {limit} bytes.")
        try:
            data = await asyncio.to_thread(base64.b64decode, reference[head.end() :], validate=True)
        except (binascii.Error, ValueError):
            raise invalid(place, "is no data URL: its base64 is damaged") from None
        return await self._known(place, io.BytesIO(data))

    async def _output(self, reference: str, place: str, who: Caller) -> Upload | StoredInput:
        """The named output of a task that the caller may see."""
        output = await self._find_output(reference, place, who)
        stored = await self.inputs.find(output.sha256)
        if stored is not None:
            return stored
        if output.size > self._settings.file_limit:
            raise TooLarge(f"{place}: the output is larger than {self._settings.file_limit} bytes.")
        file = cast("BinaryIO", tempfile.SpooledTemporaryFile(max_size=SPOOLED))  # noqa: SIM115  # an Upload owns it
        try:
            async for chunk in self._files.read(output.key):
                await asyncio.to_thread(file.write, chunk)
        except NotFound:
            file.close()
            raise invalid(place, "the file of this output is gone") from None
        except BaseException:
            file.close()
            raise
        return await self._known(place, file)

    async def _find_output(self, reference: str, place: str, who: Caller) -> Output:
        match = TASK.fullmatch(reference)
        if match is None:
            raise invalid(place, "names no output: it must be task:ID/NAME")
        task_id, name = match.groups()
        try:
            task = await self._queue.get(task_id)
        except NotFound:
            task = None
        if task is None or not who.may_see(task.owner):
            raise invalid(place, f"there is no task {task_id}")
        if task.status is not Status.COMPLETED:
            raise invalid(place, f"task {task_id} is {task.status.value}; only a completed task has outputs")
        for output in task.outputs:
            if output.name == name:
                return output
        names = [output.name for output in task.outputs]
        raise invalid(place, f"task {task_id} has no output {name}", nearest=nearest(name, names) or names[:5])

    async def files(self, drafts: Sequence[Draft], points: Sequence[Point], uploads: Sequence[Upload]) -> Found:
        """The files that the drafts name, by hash: of this call, or stored before.

        Raises:
            InvalidTask: a file is not there, or of another kind.
        """
        files: dict[str, StoredInput | None] = {upload.sha256: _stored(upload) for upload in uploads}
        problems: list[FieldProblem] = []
        for point, one in zip(points, drafts, strict=True):
            for slot in one.slots:
                if slot.sha256 not in files:
                    files[slot.sha256] = await self.inputs.find(slot.sha256)
                file = files[slot.sha256]
                message = None
                if file is None:
                    message = NOT_STORED
                elif file.kind not in slot.kinds:
                    message = f"must be a {' or '.join(sorted(slot.kinds))} file, not {file.kind.value}"
                if message:
                    workflow = one.workflow.name if one.workflow else ""
                    problem = FieldProblem(field=slot.field, message=message, workflow=workflow, node=slot.node)
                    problems += point.told([problem])
        if problems:
            raise InvalidTask(distinct(problems))
        return {sha256: file for sha256, file in files.items() if file is not None}


def _results(tasks: Sequence[asyncio.Task[str]]) -> list[str]:
    """Raises all problems together; anything else as it is."""
    errors = [error for task in tasks if (error := task.exception()) is not None]
    problems = [problem for error in errors if isinstance(error, InvalidTask) for problem in error.problems]
    for error in errors:
        if not isinstance(error, InvalidTask):
            raise error
    if problems:
        raise InvalidTask(tuple(problems))
    return [task.result() for task in tasks]


def _stored(upload: Upload) -> StoredInput:
    return StoredInput(sha256=upload.sha256, size=upload.size, kind=upload.kind, extension=upload.extension)
