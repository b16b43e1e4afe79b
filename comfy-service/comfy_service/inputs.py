"""Putting a task's input files on the instance before its prompt runs there; each content once per instance."""

from collections.abc import Sequence

from comfy_service.instance.client import Instance
from comfy_shared.errors import NotFound, RunError, Unavailable
from comfy_shared.files import FileStore, input_key
from comfy_shared.models import InputFile, Prompt


class InputMissing(RunError):
    """An input file is no longer in the file store."""

    code = "input_missing"


class InputUnreadable(RunError):
    """The file store did not give an input file."""

    code = "file_store"
    retryable = True


class InputPlacer:
    """Uploads inputs to one instance and names them in the prompt."""

    def __init__(self, instance: Instance, store: FileStore) -> None:
        self._instance = instance
        self._store = store
        self._placed: dict[str, str] = {}

    def forget(self) -> None:
        """The instance was away: it may be another one now."""
        self._placed.clear()

    async def place(self, prompt: Prompt, inputs: Sequence[InputFile]) -> Prompt:
        """The prompt with the names that the instance gave to its input files.

        Raises:
            InputMissing, InputUnreadable, InstanceLost, BadAnswer.
        """
        placed = dict(prompt)
        for file in inputs:
            name = self._placed.get(file.sha256)
            if name is None:
                name = self._placed[file.sha256] = await self._upload(file)
            node = placed[file.node]
            placed[file.node] = {**node, "inputs": {**node.get("inputs", {}), file.input: name}}
        return placed

    async def _upload(self, file: InputFile) -> str:
        try:
            chunks = [chunk async for chunk in self._store.read(input_key(file.sha256, file.extension))]
        except NotFound as error:
            raise InputMissing(f"The input file {file.sha256[:12]}… is no longer stored.") from error
        except Unavailable as error:
            raise InputUnreadable(error.message) from error
        return await self._instance.upload(f"{file.sha256[:40]}{file.extension}", b"".join(chunks))
