"""Loading the workflow files into Redis: at the start, and again whenever something in their folder changes.

Agents of one folder write once: the same files change nothing. A broken file keeps the last good version; what is wrong
with it, with file and line, is in the log and beside the workflow in Redis. Nothing polls: the kernel tells of changes.
What is missing of a workflow (the graph in API format, parameters) is made once the instance has told what it offers.
"""

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import structlog
from watchfiles import awatch

from comfy_service.classes import Classes
from comfy_shared.errors import Conflict, Unavailable
from comfy_shared.lifecycle import Backoff, Loops
from comfy_shared.versions import FileProblem, Versions
from comfy_shared.workflows import NeedsObjectInfo, Workflow, WorkflowError, find_workflows, load_workflow
from comfy_shared.workflows.loading import files_digest

log = structlog.get_logger(__name__)

QUIET = 300  # ms without a change after which several count as one: an editor writes more than one file
LOOK_AGAIN = 10.0  # seconds between two looks for a folder that is not there


class FolderPublisher:
    """Keeps what Redis has of a folder's workflows up to date. `agent` is the author of the versions."""

    def __init__(self, versions: Versions, folder: Path, agent: str, classes: Classes) -> None:
        self._versions = versions
        self._folder = folder
        self._agent = agent
        self._classes = classes
        self._loaded: dict[str, str] = {}  # name → digest of the files that Redis was given
        self._unreadable = ""  # why the folder could not be read the last time

    def forget(self) -> None:
        """What Redis was given may be gone: all is published again, soon."""
        self._loaded.clear()
        self._classes.changed.set()

    async def run(self, loops: Loops) -> None:
        """Publishes as soon as Redis answers, and after every change until the stop."""
        while not loops.stop.is_set():
            try:
                await self._publish_until_change(loops)
            except OSError as error:  # no folder, or the kernel watches no more of them
                await self._publish_patiently(loops)
                log.debug("The folder cannot be watched", action="workflow.unwatched", reason=str(error))
                await loops.pause(LOOK_AGAIN)

    async def _publish_until_change(self, loops: Loops) -> None:
        """Raises OSError when the folder cannot be watched."""
        ended = asyncio.Event()  # not the stop of all loops: the watch sets it itself when it is given up
        watch = awatch(self._folder, step=QUIET, debounce=QUIET * 5, recursive=False, stop_event=ended)
        changed = asyncio.ensure_future(anext(watch, None))
        try:
            await asyncio.sleep(0)  # from here on it watches: no change falls between what is read now and the next
            self._classes.changed.clear()
            if not changed.done():
                await self._publish_patiently(loops)
            others = [asyncio.create_task(event.wait()) for event in (self._classes.changed, loops.stop)]
            await asyncio.wait({changed, *others}, return_when=asyncio.FIRST_COMPLETED)
            for other in others:
                other.cancel()
            if changed.done():
                changed.result()
        finally:
            ended.set()
            await asyncio.wait({changed})
            await watch.aclose()

    async def _publish_patiently(self, loops: Loops) -> None:
        backoff = Backoff(0.2, 5.0)
        while not loops.stop.is_set():
            try:
                await self.publish()
                return
            except Unavailable as error:
                log.warning("Publishing waits for Redis", action="workflow.publish_waits", reason=error.message)
                await loops.pause(backoff.next())

    async def publish(self) -> None:
        """Publishes every sound workflow of the folder; of a broken one it says what is wrong.

        Raises:
            Unavailable: Redis is away.
        """
        try:
            found = await asyncio.to_thread(_load, self._folder, self._classes.object_info)
        except WorkflowError as error:  # the folder itself
            if str(error) != self._unreadable:
                log.error("Workflows cannot be read", action="workflow.broken", reason=str(error))
            self._unreadable = str(error)
            return
        self._unreadable = ""
        await self._tell_problems(found)
        for digest, loaded in found.values():
            if isinstance(loaded, Workflow) and self._loaded.get(loaded.name) != digest:
                await self._publish_one(loaded, digest)

    async def _publish_one(self, workflow: Workflow, digest: str) -> None:
        note = "from the workflow files"
        try:
            done = await self._versions.publish(workflow, author=self._agent, note=note, files=digest)
        except Conflict as error:
            log.error("Workflow is not published", action="workflow.refused", workflow=workflow.name, reason=str(error))
            return
        self._loaded[workflow.name] = digest
        if done.outcome != "unchanged":
            log.info(
                "Workflow published",
                action=f"workflow.{done.outcome}",
                workflow=workflow.name,
                version=done.number,
                digest=workflow.digest,
            )

    async def _tell_problems(self, found: "_Found") -> None:
        known = {name: problem for name, problem in (await self._versions.problems()).items() if not problem.editor}
        for name, (digest, loaded) in found.items():
            if isinstance(loaded, NeedsObjectInfo):
                log.info("Workflow waits for the instance", action="workflow.waits", workflow=name, reason=str(loaded))
            elif isinstance(loaded, WorkflowError) and not await self._others_could(name, digest):
                told = await self._versions.complain(name, FileProblem.of(loaded, self._agent))
                if told or name not in known:
                    log.error("Workflow is broken", action="workflow.broken", workflow=name, reason=str(loaded))
        for name, problem in known.items():
            sound = name in found and isinstance(found[name][1], Workflow)
            if sound or (name not in found and problem.agent == self._agent):
                await self._versions.complain(name, None)

    async def _others_could(self, name: str, digest: str) -> bool:
        """Whether these very files were published, by an agent whose instance has the classes that ours lacks."""
        return await self._versions.files(name) == digest


_Found = dict[str, tuple[str, Workflow | WorkflowError]]  # name → digest of its files, what they hold or lack


def _load(folder: Path, object_info: Mapping[str, Any] | None) -> _Found:
    """Raises WorkflowError when the folder cannot be read."""
    found: _Found = {}
    for name in find_workflows(folder, editor_alone=object_info is not None):
        digest = files_digest(folder, name)  # first: files that change meanwhile are loaded again
        try:
            found[name] = (digest, load_workflow(folder, name, object_info))
        except WorkflowError as error:
            found[name] = (digest, error)
    return found
