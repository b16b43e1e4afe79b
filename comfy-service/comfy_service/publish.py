"""Loading the workflow files into Redis: at the start, and again whenever something in their folder changes.

Agents of one folder write once: the same files change nothing. A broken file keeps the last good version; what is wrong
with it, with file and line, is in the log and beside the workflow in Redis. Nothing polls: the kernel tells of changes.
"""

import asyncio
from pathlib import Path

import structlog
from watchfiles import awatch

from comfy_shared.errors import Conflict, Unavailable
from comfy_shared.lifecycle import Backoff, Loops
from comfy_shared.versions import FileProblem, Versions
from comfy_shared.workflows import Workflow, WorkflowError, load_workflows

log = structlog.get_logger(__name__)

QUIET = 300  # ms without a change after which several count as one: an editor writes more than one file
LOOK_AGAIN = 10.0  # seconds between two looks for a folder that is not there


class FolderPublisher:
    """Keeps what Redis has of a folder's workflows up to date. `agent` is the author of the versions."""

    def __init__(self, versions: Versions, folder: Path, agent: str) -> None:
        self._versions = versions
        self._folder = folder
        self._agent = agent
        self._loaded: dict[str, str] = {}  # name → digest that Redis was given
        self._unreadable = ""  # why the folder could not be read the last time

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
        watch = awatch(self._folder, step=QUIET, debounce=QUIET * 5, recursive=False, stop_event=loops.stop)
        changed = asyncio.ensure_future(anext(watch, None))
        try:
            await asyncio.sleep(0)  # from here on it watches: no change falls between what is read now and the next
            if not changed.done():
                await self._publish_patiently(loops)
            await changed
        finally:
            if not changed.done():
                changed.cancel()
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
            workflows, broken = await asyncio.to_thread(load_workflows, self._folder)
        except WorkflowError as error:  # the folder itself
            if str(error) != self._unreadable:
                log.error("Workflows cannot be read", action="workflow.broken", reason=str(error))
            self._unreadable = str(error)
            return
        self._unreadable = ""
        await self._tell_problems(workflows, broken)
        for workflow in workflows:
            if self._loaded.get(workflow.name) != workflow.digest:
                await self._publish_one(workflow)

    async def _publish_one(self, workflow: Workflow) -> None:
        note = "from the workflow files"
        try:
            done = await self._versions.publish(workflow, author=self._agent, note=note, from_files=True)
        except Conflict as error:
            log.error("Workflow is not published", action="workflow.refused", workflow=workflow.name, reason=str(error))
            return
        self._loaded[workflow.name] = workflow.digest
        if done.outcome != "unchanged":
            log.info(
                "Workflow published",
                action=f"workflow.{done.outcome}",
                workflow=workflow.name,
                version=done.number,
                digest=workflow.digest,
            )

    async def _tell_problems(self, workflows: list[Workflow], broken: list[WorkflowError]) -> None:
        known = await self._versions.problems()
        found = {error.workflow: error for error in broken}
        for name, error in found.items():
            problem = FileProblem.of(error, self._agent)
            if await self._versions.complain(name, problem) or name not in known:
                log.error("Workflow is broken", action="workflow.broken", workflow=name, reason=str(error))
        sound = {workflow.name for workflow in workflows}
        for name, problem in known.items():
            if name not in found and (name in sound or problem.agent == self._agent):
                await self._versions.complain(name, None)
