"""What is saved in the instance's editor to be published: in its folder `publish/`, or with the tag `publish`.

ComfyUI tells nobody of a save, so the listing of saved workflows is asked for every two seconds (a directory walk on
the same machine, and only while the setting is on); a file is read when its size or time changed. It is converted,
checked, given inferred parameters and published under its own name. Two instances that change one name apart are a
conflict: what was saved later is kept as a version that is not active, and somebody has to say which one is to be.
"""

import asyncio
import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

import structlog

from comfy_service.classes import Classes
from comfy_service.instance.client import Instance, SavedFile
from comfy_shared.errors import Conflict, RunError, Unavailable
from comfy_shared.lifecycle import Loops
from comfy_shared.versions import FileProblem, Published, Save, Versions
from comfy_shared.workflows import Workflow, WorkflowError, check_sound, make_from_request
from comfy_shared.workflows.loading import LARGEST_FILE

log = structlog.get_logger(__name__)

LOOK_EVERY = 2.0  # seconds
FOLDER, TAG, SUFFIX = "publish/", "publish", ".json"
LONGEST_NAME = 64  # characters
NOTE = "saved in the editor"
MOST_TOLD = 3  # problems of one graph


class Unreadable(Exception):
    """The file is no JSON object; perhaps it is being written just now."""


class EditorPublisher:
    """Publishes what is saved on one instance. `agent` is the author of the versions."""

    def __init__(self, versions: Versions, instance: Instance, agent: str, classes: Classes) -> None:
        self._versions = versions
        self._instance = instance
        self._agent = agent
        self._classes = classes
        self._object_info: Mapping[str, Any] | None = None  # that the broken ones were judged by
        self._seen: dict[str, SavedFile] = {}  # path → as it was dealt with
        self._broken: set[str] = set()  # paths of those that cannot be published
        self._doubtful: dict[str, SavedFile] = {}  # read once, and no JSON
        self._places: dict[str, str] = {}  # workflow → path of the file that is published under its name

    def forget(self) -> None:
        """What Redis was given may be gone: the next look deals with all files again."""
        self._seen.clear()

    async def run(self, loops: Loops) -> None:
        """Looks until the stop; an instance or a Redis that is away is asked again."""
        while not loops.stop.is_set():
            try:
                await self.look()
            except (RunError, Unavailable) as error:
                log.debug("Saved workflows are not seen now", action="editor.unseen", reason=error.message)
            await loops.pause(LOOK_EVERY)

    async def look(self) -> None:
        """Publishes what is new since the last look.

        Raises:
            RunError: the instance does not answer.
            Unavailable: Redis is away.
        """
        if self._classes.object_info is None:
            return
        if self._classes.object_info is not self._object_info:  # what lacked a class may have it now
            self._seen = {path: file for path, file in self._seen.items() if path not in self._broken}
            self._object_info = self._classes.object_info
        files = {file.path: file for file in await self._instance.saved_workflows() if _counts(file.path)}
        self._seen = {path: file for path, file in self._seen.items() if path in files}
        self._places = {name: path for name, path in self._places.items() if path in files}
        for path, file in files.items():
            if self._seen.get(path) != file and await self._deal_with(file):
                self._seen[path] = file

    async def _deal_with(self, file: SavedFile) -> bool:
        """False: it is to be looked at once more."""
        self._broken.discard(file.path)
        name = name_of(file.path)
        meant = file.path.startswith(FOLDER)
        if file.size > LARGEST_FILE:
            if meant:
                await self._tell(name, file.path, f"has {file.size} bytes; the limit is {LARGEST_FILE}")
            return True
        data = await self._instance.saved_workflow(file.path)
        if data is None:
            return False
        try:
            graph = await asyncio.to_thread(_read, data)
        except Unreadable as error:
            if self._doubtful.get(file.path) != file:
                self._doubtful[file.path] = file
                return False
            del self._doubtful[file.path]
            if meant:
                await self._tell(name, file.path, str(error))
            return True
        if meant or is_tagged(graph):
            await self._take(name, file.path, graph, hashlib.sha256(data).hexdigest())
        return True

    async def _take(self, name: str, path: str, graph: dict[str, Any], digest: str) -> None:
        other = self._places.setdefault(name, path)
        if other != path:
            await self._tell(name, path, f"{other} is published under this name already")
            return
        if await self._versions.saved(self._agent, name) == digest:
            return
        try:
            workflow = await asyncio.to_thread(_make, name, graph, self._object_info or {})
            save = Save(agent=self._agent, digest=digest)
            done = await self._versions.publish(workflow, author=self._agent, note=NOTE, save=save)
        except (WorkflowError, Conflict) as error:
            await self._tell(name, path, error.message)
            return
        await self._told(name, path, done)

    async def _told(self, name: str, path: str, done: Published) -> None:
        if done.outcome == "conflict":
            reason = (
                f"version {done.number}, saved on {self._agent}, and the active version {done.active} were changed "
                "apart from each other; activate the one that is to be"
            )
            log.warning(
                "Workflow was changed in two places",
                action="workflow.conflict",
                workflow=name,
                version=done.number,
                active=done.active,
            )
            await self._versions.complain(name, self._problem(path, reason))
            return
        if done.outcome != "unchanged":
            action = f"workflow.{done.outcome}"
            log.info("Workflow published", action=action, workflow=name, version=done.number, file=path)
        problem = (await self._versions.problems()).get(name)
        if problem and problem.editor and problem.agent == self._agent:
            await self._versions.complain(name, None)

    async def _tell(self, name: str, path: str, reason: str) -> None:
        self._broken.add(path)
        log.error("Saved workflow is not published", action="workflow.broken", workflow=name, file=path, reason=reason)
        await self._versions.complain(name, self._problem(path, reason))

    def _problem(self, path: str, reason: str) -> FileProblem:
        return FileProblem(message=reason[:1000], file=path[:200], agent=self._agent, editor=True)


def _counts(path: str) -> bool:
    return path.endswith(SUFFIX) and not path.rpartition("/")[2].startswith(".")


def name_of(path: str) -> str:
    """The workflow that a saved file is: its name, with - for what no name may hold."""
    bare = path.rpartition("/")[2].removesuffix(SUFFIX)
    name = re.sub(r"[^A-Za-z0-9_-]+", "-", bare).strip("-_")[:LONGEST_NAME].rstrip("-_")
    return name or "workflow"


def is_tagged(graph: Mapping[str, Any]) -> bool:
    """Whether the graph's `extra` says that it is to be published: `tags` with "publish", or `publish` set."""
    extra = graph.get("extra")
    if not isinstance(extra, Mapping):
        return False
    tags = extra.get("tags")
    return extra.get(TAG) is True or tags == TAG or (isinstance(tags, list) and TAG in tags)


def _read(data: bytes) -> dict[str, Any]:
    try:
        graph = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise Unreadable("is no JSON, or nested too deeply") from error
    if not isinstance(graph, dict):
        raise Unreadable("is no JSON object")
    return graph


def _make(name: str, graph: dict[str, Any], object_info: Mapping[str, Any]) -> Workflow:
    """Raises WorkflowError."""
    if not isinstance(graph.get("nodes"), list):
        raise WorkflowError("is not a graph of the editor: it has no list of nodes", workflow=name)
    workflow = make_from_request(name, None, graph, {}, object_info=object_info)
    if problems := check_sound(workflow.prompt, object_info):
        told = "; ".join(f"{problem.field}: {problem.message}" for problem in problems[:MOST_TOLD])
        raise WorkflowError(told, workflow=name)
    return workflow
