"""The versions of workflows in Redis: published, activated, tried on a share of the tasks, deleted.

A version is immutable: a number, a content with its digest, who published it when and why, and what differs from the
version before. One of them is active; another one may run a share of the tasks first (the canary). The same content is
never kept twice: publishing it again makes its version the active one.
"""

import asyncio
import re
from collections.abc import Mapping, Sequence
from typing import cast

import msgspec
from redis.asyncio import Redis
from redis.exceptions import ResponseError

from comfy_shared import scripts
from comfy_shared.batching import batcher_of
from comfy_shared.errors import Conflict, Damaged, NotFound
from comfy_shared.keys import Keys
from comfy_shared.models import decode, pack, unpack
from comfy_shared.store import border
from comfy_shared.workflows import Change, Workflow, WorkflowError, changes, from_json, to_json
from comfy_shared.workflows.changes import MOST_CHANGES

MOST_VERSIONS = 1000  # kept of one workflow; the oldest go first, never the active one
MOST_WORKFLOWS = 1000
MOST_PROBLEMS = 1000  # workflows whose broken files are told
TRIES = 5  # to find the version before, while others publish

_STANDING = re.compile(rb"(\d{1,15}) (\d{1,15}) (\d{1,15}) (\d{1,3}) (\d{1,15})")
_LEGACY = re.compile(rb"[0-9a-f]{64}")


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """Which versions of a workflow there are, and which of them run."""

    active: int
    newest: int
    canary: int = 0  # runs `share` percent of the tasks; 0: none
    share: int = 0
    born: int = 0  # ms; tells a workflow from a deleted one of the same name


class About(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is kept beside a version's content."""

    author: str  # a caller's owner, or the agent that read the files
    note: str = ""
    changes: tuple[Change, ...] = ()  # against the version before; the first `MOST_CHANGES`
    more_changes: int = 0  # that are not told


class Version(msgspec.Struct, frozen=True, kw_only=True):
    """A version without its content."""

    number: int  # from 1
    published_at: int  # ms
    digest: str
    about: About


class FileProblem(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is wrong with the files of a workflow, or with what was saved of it; its last good version stays."""

    message: str
    file: str | None = None  # name within the folder
    line: int | None = None  # counted from 1
    agent: str = ""  # who found it
    editor: bool = False  # it was saved in the agent's editor, not in the folder of workflows

    @classmethod
    def of(cls, error: WorkflowError, agent: str) -> "FileProblem":
        return cls(message=error.message[:1000], file=error.file, line=error.line, agent=agent)


class Save(msgspec.Struct, frozen=True, kw_only=True):
    """A file that was saved in the editor of an agent's instance."""

    agent: str
    digest: str  # sha256 of its bytes, hex


class Published(msgspec.Struct, frozen=True, kw_only=True):
    """What publishing did."""

    number: int  # of the version that holds the content; 0: its workflow was deleted, and its files did not change
    # published: a new version; activated: an older one with the same content; unchanged; conflict: kept, not activated
    outcome: str
    active: int = 0  # number of the active version now


class Versions:
    """The workflows of one namespace. Every method raises `Unavailable` while Redis is away."""

    def __init__(self, redis: Redis, keys: Keys) -> None:
        self._redis = redis
        self._batcher = batcher_of(redis)
        self._keys = keys

    async def publish(
        self,
        workflow: Workflow,
        *,
        author: str,
        note: str = "",
        activate: bool = True,
        files: str = "",
        save: Save | None = None,
    ) -> Published:
        """Keeps a workflow as the next version of its name, and makes it the active one; the first always is.

        `files` is the digest of the files that it comes from: nothing happens when they were the same the last time.
        So it is with a `save`; when the active version has come from elsewhere since the one that the save's agent
        goes on from, it is kept and not made active: a conflict.

        Raises:
            Conflict: there are too many workflows, or others publish the same one all the time.
        """
        base, about = 0, About(author=author, note=note)
        content = pack(to_json(workflow))
        for _ in range(TRIES):
            with border():
                reply = await scripts.PUBLISH(
                    self._batcher,
                    self._keys,
                    {"workflow": self._keys.workflow(workflow.name)},
                    name=workflow.name,
                    digest=workflow.digest,
                    base=base,
                    content=content,
                    about=msgspec.json.encode(about),
                    activate=int(activate),
                    files=files,
                    agent=save.agent if save else "",
                    saved=save.digest if save else "",
                    versions_limit=MOST_VERSIONS,
                    workflows_limit=MOST_WORKFLOWS,
                )
            word, *rest = cast("list[bytes]", reply)
            if word == b"full":
                raise Conflict(f"there are {MOST_WORKFLOWS} workflows already, the most that are kept")
            if word != b"moved":
                return Published(number=int(rest[0]), outcome=word.decode(), active=int(rest[1]))
            base = int(rest[0])
            about = _against(await self._before(workflow.name, base), workflow, author, note)
        raise Conflict(f"others publish versions of {workflow.name} right now; try again")

    async def _before(self, name: str, number: int) -> Workflow | None:
        try:
            return await self.read(name, number)
        except (NotFound, Damaged):
            return None

    async def activate(self, name: str, number: int) -> None:
        """Makes a version the active one; an older one rolls back. Raises NotFound."""
        own = {"workflow": self._keys.workflow(name)}
        with border():
            reply = await scripts.ACTIVATE(self._batcher, self._keys, own, name=name, number=number)
        _check_found(reply, name, number)

    async def canary(self, name: str, number: int, share: int) -> None:
        """Lets a version run `share` percent of the tasks; 0 ends that.

        Raises:
            NotFound: no such workflow or version.
            Conflict: the version is the active one.
        """
        own = {"workflow": self._keys.workflow(name)}
        with border():
            reply = await scripts.CANARY(self._batcher, self._keys, own, name=name, number=number, share=share)
        _check_found(reply, name, number)
        if reply == b"active":
            raise Conflict(f"version {number} of {name} is the active one: it runs all other tasks anyway")

    async def unpublish(self, name: str, *, force: bool = False) -> None:
        """Deletes a workflow with all versions; its files publish it again only after they changed.

        Raises:
            NotFound: there is none.
            Conflict: tasks that wait or run use it, and `force` is not set.
        """
        own = {"workflow": self._keys.workflow(name)}
        with border():
            reply = await scripts.UNPUBLISH(self._batcher, self._keys, own, name=name, force=int(force))
        word, *rest = cast("list[bytes]", reply)
        if word == b"used":
            raise Conflict(
                f"{int(rest[0])} tasks that wait or run use the workflow {name}; force=true deletes it anyway"
            )
        if word == b"unknown":
            raise _no_workflow(name)

    async def saved(self, agent: str, name: str) -> str:
        """Digest of what was last taken of this name from the agent's editor; empty: nothing."""
        with border():
            line = await self._redis.hget(self._keys.workflow_saves, f"{agent} {name}")
        return cast("bytes", line or b"").partition(b" ")[0].decode(errors="replace")

    async def files(self, name: str) -> str:
        """Digest of the files that a workflow was last published from; empty: of none."""
        with border():
            digest = await self._redis.hget(self._keys.workflow_files, name)
        return cast("bytes", digest or b"").decode(errors="replace")

    async def complain(self, name: str, problem: FileProblem | None) -> bool:
        """Says what is wrong with the files of a workflow, or (None) that nothing is; True when that is news."""
        content = msgspec.json.encode(problem) if problem else b""
        with border():
            reply = await scripts.COMPLAIN(self._batcher, self._keys, name=name, problem=content, limit=MOST_PROBLEMS)
        return reply == b"told"

    async def problems(self) -> dict[str, FileProblem]:
        """What is wrong with files, by workflow."""
        with border():
            found = cast("dict[bytes, bytes]", await self._redis.hgetall(self._keys.workflow_problems))
        return _problems(found)

    async def standings(self) -> dict[str, Standing]:
        """All workflows, by name. One that was published before there were versions is brought into the layout."""
        with border():
            found = cast("dict[bytes, bytes]", await self._redis.hgetall(self._keys.workflows))
            old = [name.decode(errors="replace") for name, value in found.items() if _LEGACY.fullmatch(value)]
            for name in old:
                own = {"workflow": self._keys.workflow(name)}
                await scripts.MIGRATE(self._batcher, self._keys, own, name=name)
            if old:
                found = cast("dict[bytes, bytes]", await self._redis.hgetall(self._keys.workflows))
        standings = {name.decode(errors="replace"): _standing(value) for name, value in found.items()}
        return {name: standings[name] or Standing(active=0, newest=0) for name in sorted(standings)}

    async def of(self, name: str) -> list[Version]:
        """The versions of a workflow, newest first; a damaged one is left out."""
        with border():
            fields = await self._fields(name)
            wanted = [field for field in fields if field.startswith(b"about:")]
            values = await self._redis.hmget(self._keys.workflow(name), wanted) if wanted else []
        pairs = zip(wanted, cast("Sequence[bytes | None]", values), strict=True)
        found = [_version(field[6:], value) for field, value in pairs if value is not None]
        return sorted((version for version in found if version), key=lambda version: -version.number)

    async def _fields(self, name: str) -> list[bytes]:
        try:
            return cast("list[bytes]", await self._redis.hkeys(self._keys.workflow(name)))
        except ResponseError as error:
            raise Damaged(f"the stored workflow {name} is damaged") from error

    async def read(self, name: str, number: int) -> Workflow:
        """The content of a version.

        Raises:
            NotFound: there is no such version.
            Damaged: it cannot be read.
        """
        (found,) = await self.read_all({name: number})
        if isinstance(found, Exception):
            raise found
        return found

    async def read_all(self, wanted: Mapping[str, int]) -> list[Workflow | NotFound | Damaged]:
        """The contents of these versions (name → number), in one round trip and their order."""
        with border():
            pipeline = self._redis.pipeline(transaction=False)
            for name, number in wanted.items():
                pipeline.hget(self._keys.workflow(name), f"content:{number}")
            contents = await pipeline.execute(raise_on_error=False)
        pairs = zip(wanted.items(), contents, strict=True)
        return await asyncio.to_thread(lambda: [_content(name, number, raw) for (name, number), raw in pairs])


def _against(before: Workflow | None, workflow: Workflow, author: str, note: str) -> About:
    found = changes(before, workflow) if before else ()
    more = max(0, len(found) - MOST_CHANGES)
    return About(author=author, note=note, changes=found[:MOST_CHANGES], more_changes=more)


def _no_workflow(name: str) -> NotFound:
    return NotFound(f"there is no workflow {name[:64]!r}")


def _check_found(reply: object, name: str, number: int) -> None:
    if reply == b"unknown":
        raise _no_workflow(name)
    if reply == b"no_version":
        raise NotFound(f"the workflow {name} has no version {number}")


def _standing(value: bytes) -> Standing | None:
    match = _STANDING.fullmatch(value)
    if match is None:
        return None
    active, newest, canary, share, born = (int(group) for group in match.groups())
    return Standing(active=active, newest=newest, canary=canary, share=share, born=born)


def _version(number: bytes, line: bytes) -> Version | None:
    try:
        at, digest, about = line.split(b" ", 2)
        return Version(number=int(number), published_at=int(at), digest=digest.decode(), about=decode(about, About))
    except (ValueError, Damaged):
        return None


def _problems(found: Mapping[bytes, bytes]) -> dict[str, FileProblem]:
    problems = {}
    for name, value in sorted(found.items()):
        try:
            problems[name.decode(errors="replace")] = decode(value.partition(b" ")[2], FileProblem)
        except Damaged:
            continue
    return problems


def _content(name: str, number: int, raw: object) -> Workflow | NotFound | Damaged:
    if raw is None:
        return NotFound(f"the workflow {name[:64]} has no version {number}")
    try:
        if isinstance(raw, bytes):
            return from_json(unpack(raw))
    except (WorkflowError, Damaged):
        pass
    return Damaged(f"the stored workflow {name}, version {number}, is damaged")
