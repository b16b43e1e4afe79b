"""The files that a ComfyUI client can name: what it uploaded, and what the tasks it may see made.

Uploads are checked and kept like any other (`uploads`); only their names are ComfyUI's. An output that a prompt takes
as its input is put among the inputs first, so that every agent can be given it.
"""

import asyncio
import hashlib
import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from comfy_balancer.checks import path_trick
from comfy_balancer.comfyui_api import pictures
from comfy_balancer.comfyui_api.ids import TASK_ID
from comfy_balancer.comfyui_api.names import TYPES, NamedFile, Names, Place, place_of
from comfy_balancer.comfyui_api.shapes import find_output
from comfy_balancer.comfyui_api.tasklists import OwnTasks
from comfy_balancer.service import TaskService
from comfy_balancer.settings import BalancerSettings
from comfy_balancer.uploads import EXTENSIONS, MEDIA, PICTURES, Inputs, Upload, recognize
from comfy_shared.callers import Caller
from comfy_shared.errors import NotFound
from comfy_shared.files import FileStore, input_key
from comfy_shared.http.problems import invalid
from comfy_shared.models import Output

LONGEST_NAME = 200  # characters of a file name
LATEST = 64  # ended tasks in which a file is looked for by its name alone
AT_ONCE = 2  # pictures that one process converts at a time
CONTENT_TYPES = {extension: kind for extension, kind in PICTURES.values()} | {
    extension: kind for extension, (_, kind) in MEDIA.items()
}
SPELLINGS = {".jpeg": ".jpg", ".tif": ".tiff"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """A file of the file store that the caller may see."""

    key: str
    name: str  # as the client calls it
    size: int  # bytes
    sha256: str
    content_type: str


class ClientFiles:
    """Finds and keeps files. Methods raise `Unavailable` while Redis or the file store is away."""

    def __init__(
        self,
        names: Names,
        inputs: Inputs,
        files: FileStore,
        service: TaskService,
        tasks: OwnTasks,
        settings: BalancerSettings,
    ) -> None:
        self.names = names
        self._tasks = tasks
        self._inputs = inputs
        self._files = files
        self._service = service
        self._settings = settings
        self._slots = asyncio.Semaphore(AT_ONCE)

    async def upload(self, upload: Upload, place: Place, who: Caller, *, overwrite: bool) -> Place:
        """Keeps an upload; its place, perhaps under another name."""
        await self._service.store([upload])
        file = NamedFile(sha256=upload.sha256, extension=upload.extension, size=upload.size, kind=upload.kind.value)
        return await self.names.add(who.owner, place, file, overwrite=overwrite)

    async def upload_mask(
        self, upload: Upload, original: Place, place: Place, who: Caller, *, overwrite: bool
    ) -> Place:
        """Keeps the original with the upload's alpha. Raises NotFound when there is no original."""
        found = await self.find(original, who)
        mask = await asyncio.to_thread(_all_of, upload)
        picture = await self.read(found)
        async with self._slots:
            data = await asyncio.to_thread(pictures.masked, picture, mask, self._settings.pixel_limit)
        return await self.upload(await asyncio.to_thread(self._as_upload, data), place, who, overwrite=overwrite)

    def _as_upload(self, data: bytes) -> Upload:
        file = io.BytesIO(data)
        kind, extension, content_type = recognize("image", file, self._settings.pixel_limit)
        return Upload(
            field="image",
            file=file,
            sha256=hashlib.sha256(data).hexdigest(),
            size=len(data),
            kind=kind,
            extension=extension,
            content_type=content_type,
        )

    async def find(self, place: Place, who: Caller) -> Found:
        """The file at a place, by upload or by task. Raises NotFound."""
        named = (await self.names.find(who.owner, [place])).get(place.field)
        if named is not None:
            return Found(
                key=input_key(named.sha256, named.extension),
                name=place.filename,
                size=named.size,
                sha256=named.sha256,
                content_type=CONTENT_TYPES.get(named.extension, "application/octet-stream"),
            )
        output = await self._output(place, who)
        return Found(
            key=output.key,
            name=place.filename,
            size=output.size,
            sha256=output.sha256,
            content_type=output.content_type,
        )

    async def _output(self, place: Place, who: Caller) -> Output:
        task_id, _, inner = place.subfolder.partition("/")
        output = None
        if TASK_ID.fullmatch(task_id):
            output = find_output(await self._service.get(task_id, who), place.filename, inner, place.type)
        else:  # a client that leaves our part of the subfolder out: the newest of its files of this name
            for task in reversed(await self._tasks.ended(who.owner, LATEST)):
                output = output or find_output(task, place.filename, place.subfolder, place.type)
        if output is None:
            raise NotFound("there is no such file")
        return output

    async def named(self, who: Caller, values: Iterable[str]) -> Mapping[str, NamedFile]:
        """What the inputs of a prompt name, as inputs of the file store, by the field of their place."""
        places = {place.field: place for place in map(place_of, values)}
        found = dict(await self.names.find(who.owner, places.values()))
        for field, place in places.items():
            if field in found:
                if await self._inputs.find(found[field].sha256) is None:
                    del found[field]
            elif place.type == "output" or TASK_ID.fullmatch(place.subfolder.partition("/")[0]):
                try:
                    found[field] = await self._taken(await self._output(place, who))
                except NotFound:
                    continue
        return found

    async def _taken(self, output: Output) -> NamedFile:
        """An output as an input."""
        extension = "." + output.name.rpartition(".")[2].lower()
        extension = SPELLINGS.get(extension, extension)
        if extension not in EXTENSIONS:
            raise NotFound("the output is no file that an input takes")
        await self._inputs.copy(output.key, output.sha256, extension)
        return NamedFile(sha256=output.sha256, extension=extension, size=output.size, kind=EXTENSIONS[extension].value)

    async def read(self, found: Found) -> bytes:
        """All of a file that is no larger than an upload may be."""
        if found.size > self._settings.file_limit:
            raise invalid("filename", "is too large to be converted")
        return b"".join([chunk async for chunk in self._files.read(found.key)])

    async def converted(self, found: Found, *, preview: str | None, channel: str | None) -> tuple[bytes, str]:
        """A picture as the client wants to see it, and its media type."""
        data = await self.read(found)
        limit = self._settings.pixel_limit
        async with self._slots:
            if preview is not None:
                return await asyncio.to_thread(pictures.preview, data, preview, limit)
            return await asyncio.to_thread(pictures.channel, data, channel or "rgb", limit), "image/png"


def _all_of(upload: Upload) -> bytes:
    upload.file.seek(0)
    return upload.file.read()


def checked_place(kind: str, subfolder: str, filename: str) -> Place:
    """A place that a client names. Raises InvalidTask."""
    if kind not in TYPES:
        raise invalid("type", "must be input, temp or output", limits={"choices": list(TYPES)})
    if not filename or len(filename) > LONGEST_NAME or "/" in filename or filename in (".", ".."):
        raise invalid("filename", f"must be a plain file name of at most {LONGEST_NAME} characters")
    for field, text in (("filename", filename), ("subfolder", subfolder)):
        if reason := path_trick(text):
            raise invalid(field, reason)
    parts = [part for part in subfolder.split("/") if part not in ("", ".")]
    return Place(type=kind, subfolder="/".join(parts), filename=filename)
