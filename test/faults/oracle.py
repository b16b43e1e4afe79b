"""Knows every task that was accepted (202), and checks after a fault that nothing is lost, doubled or left behind.

The five conditions: (1) each accepted task reached exactly one final status, (2) exactly one result is stored, by the
last accepted attempt, (3) no task in two places, no orphan key, no orphan file, (4) its events are gap-free, in order,
with one final event, (5) no 5xx but 503 with Retry-After was answered, no process logged a traceback.

It looks at Redis and at the file store itself, not at what the balancer says of them.
"""

import hashlib
import itertools
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import httpx
import msgspec
from redis import Redis

from comfy_shared.events import read_event
from comfy_shared.keys import Keys
from comfy_shared.models import EventType, Output, Status, Task
from test.cluster import Cluster, wait_until
from test.support.leaks import leaked_keys

SETTLED = 30.0  # seconds in which every accepted task must have ended
AT_REST = 10.0  # seconds after that in which nothing may be held any more

KINDS = frozenset(
    {
        "task", "story", "index", "idempotency", "agent", "verdicts", "held", "offer", "workflow", "lane", "needs",
        "memory", "servers", "stats", "turn", "owners", "assigned", "reuse",
        "followers", "asset", "partner", "batch", "batches", "guesses", "api-key-used", "ticket",
        "uploads", "userdata", "settings",
    },
)  # fmt: skip
SINGLE = frozenset(
    {
        "clock", "sequence", "queue", "lanes", "leases", "events", "finished", "agents", "idle", "draining",
        "workflows", "inputs", "input-uses", "damaged", "swept", "policy", "rotation", "vram", "waiting", "working",
        "usage", "output-uses", "api-keys", "link-secret", "workflow-files", "workflow-saves", "workflow-problems",
    },
)  # fmt: skip


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """What one fault did: a line of the table."""

    name: str
    what: str  # was killed, when
    accepted: int  # tasks answered with 202
    completed: int
    failed: int  # as the story wanted it
    canceled: int
    lost: int  # accepted, and not ended as they may
    doubled: int  # with more than one result

    def line(self) -> str:
        counts = (self.accepted, self.completed, self.failed, self.canceled, self.lost, self.doubled)
        return f"{self.name:<8}" + "".join(f"{count:>10}" for count in counts) + f"   {self.what}"


HEADER = (
    f"{'fault':<8}"
    + "".join(f"{word:>10}" for word in ("accepted", "completed", "failed", "canceled", "lost", "doubled"))
    + "   what was killed, when"
)


class Oracle:
    """Submits through the balancer of one system and remembers; `conclude` judges and stops the system."""

    def __init__(self, system: Cluster) -> None:
        self.system = system
        self.keys = Keys()
        self.redis = Redis(port=system.redis_port, socket_timeout=5)
        self.row: Row | None = None
        self._may_end: dict[str, frozenset[str]] = {}
        self._bad_answers: list[str] = []

    def client(self) -> httpx.Client:
        """A client of the balancer whose answers are judged."""
        client = self.system.client()
        client.event_hooks = {"response": [self._heard]}
        return client

    def _heard(self, response: httpx.Response) -> None:
        patient = response.status_code == 503 and response.headers.get("retry-after", "").isdecimal()
        if response.status_code >= 500 and not patient:
            self._bad_answers.append(f"{response.request.method} {response.request.url.path} {response.status_code}")

    def submit(self, client: httpx.Client, prompt: Mapping[str, Any], *ends: str, **fields: Any) -> str:
        """Submits a task that must end as one of `ends`: completed, unless the story says otherwise."""
        answer = client.post("/api/v1/tasks", json={"prompt": prompt, **fields})
        assert answer.status_code == 202, answer.text
        return self.accepted(answer, *ends)[0]

    def accepted(self, answer: httpx.Response, *ends: str) -> list[str]:
        """Remembers the tasks of an answer, if it is a 202; their ids."""
        if answer.status_code != 202:
            return []
        body = answer.json()
        ids = [str(task["id"]) for task in body.get("tasks", [body])]
        for task_id in ids:
            self.may_end(task_id, *ends)
        return ids

    def may_end(self, task_id: str, *ends: str) -> None:
        """The story allows these ends for the task."""
        self._may_end[task_id] = frozenset(ends or ("completed",))

    def known(self) -> list[str]:
        """The ids of all accepted tasks, in their order."""
        return list(self._may_end)

    def forget(self, task_id: str) -> None:
        """The task went with the data of Redis, as the story wanted it."""
        del self._may_end[task_id]

    def record(self, task_id: str) -> Task | None:
        """The task as Redis has it."""
        fields = cast("dict[bytes, bytes]", self.redis.hgetall(self.keys.task(task_id)))
        return Task.from_hash(fields) if fields else None

    def attempt(self, task_id: str) -> int:
        """The number of the task's last attempt."""
        task = self.record(task_id)
        assert task is not None, f"{task_id} is gone"
        return task.attempt

    def status(self, task_id: str) -> str:
        return self.statuses([task_id])[task_id]

    def statuses(self, ids: list[str]) -> dict[str, str]:
        """Where these tasks are, in one round trip; unknown when Redis does not know one."""
        pipeline = self.redis.pipeline(transaction=False)
        for task_id in ids:
            pipeline.hget(self.keys.task(task_id), "status")
        found = cast("list[bytes | None]", pipeline.execute())
        return {name: status.decode() if status else "unknown" for name, status in zip(ids, found, strict=True)}

    def story(self, task_id: str) -> list[tuple[int, str, int, int]]:
        """Number, type, time and attempt of each event."""
        lines = cast("list[bytes]", self.redis.lrange(self.keys.story(task_id), 0, -1))
        events = [read_event(task_id, line) for line in lines]
        return [(event.seq, event.type.value, event.at, event.attempt) for event in events if event]

    def at(self, task_id: str, kind: str, *, attempt: int | None = None) -> float:
        """When an event was told, in seconds by the clock of Redis. Raises LookupError when it was not."""
        times = [at for _, type_, at, number in self.story(task_id) if type_ == kind and attempt in (None, number)]
        if not times:
            raise LookupError(f"{task_id} has no {kind} of attempt {attempt}")
        return times[-1] / 1000

    def wait_event(self, task_id: str, kind: str, *, attempt: int | None = None, timeout: float = 20) -> float:
        """Waits until an event was told; when, in seconds by the clock of Redis."""
        found: list[float] = []

        def told() -> bool:
            try:
                found.append(self.at(task_id, kind, attempt=attempt))
            except LookupError:
                return False
            return True

        wait_until(told, f"{task_id} has {kind} of attempt {attempt}", timeout)
        return found[0]

    def wait_progress(self, task_id: str, value: float = 1, timeout: float = 20) -> None:
        """Waits until the slow node of the running attempt has made so many steps."""

        def progressed() -> bool:
            task = self.record(task_id)
            return task is not None and task.progress is not None and task.progress.value >= value

        wait_until(progressed, f"{task_id} is at step {value:g}", timeout)

    def holder(self, task_id: str) -> int:
        """The number of the agent that holds or held the task's last attempt."""
        task = self.record(task_id)
        assert task is not None, f"{task_id} is gone"
        return int(task.agent.rpartition("-")[2])

    def wait_final(self, *ids: str, timeout: float = SETTLED) -> None:
        """Waits until these tasks, or all, have ended."""
        left = set(ids or self._may_end)

        def ended() -> bool:
            names = list(left)
            left.difference_update(name for name, status in self.statuses(names).items() if status in _FINAL)
            return not left

        try:
            wait_until(ended, "every task ended", timeout)
        except TimeoutError as error:
            stuck = {task_id: (self.status(task_id), self.story(task_id)[-6:]) for task_id in sorted(left)[:5]}
            raise AssertionError(f"{len(left)} tasks did not end: {stuck}") from error

    def conclude(self, name: str, what: str, *, timeout: float = SETTLED) -> None:
        """Waits until all is over, stops the system and judges; `row` then tells."""
        self.wait_final(timeout=timeout)
        self._wait_at_rest()
        problems = [problem for task_id in self._may_end for problem in self._judge(task_id)]
        problems += self._orphan_keys() + self._orphan_files() + self._bad_answers
        self.row = self._count(name, what)
        self.redis.close()
        self.system.stop()
        problems += tracebacks(self.system)
        assert not problems, "\n".join([self.row.line(), *problems[:20]])
        assert (self.row.lost, self.row.doubled) == (0, 0), self.row.line()

    def _wait_at_rest(self) -> None:
        """Whoever holds, waits or stores something is done with it; an output of a refused attempt is being deleted."""

        def rest() -> bool:
            return not self._unfinished() and not self._orphan_files()

        try:
            wait_until(rest, "at rest", AT_REST)
        except TimeoutError as error:
            raise AssertionError(f"left behind: {[*self._unfinished(), *self._orphan_files()]}") from error

    def _unfinished(self) -> list[str]:
        base = self.keys.base
        places = [self.keys.queue, self.keys.leases, self.keys.lanes, self.keys.damaged]
        places += [self.keys.waiting, self.keys.working]
        places += [self.keys.index("status", status) for status in ("pending", "running")]
        found = [key for key in places if self.redis.exists(key)]
        prefixes = (self.keys.held_prefix, self.keys.lane_prefix, self.keys.turn_prefix, self.keys.owners_prefix)
        for pattern in (*prefixes, self.keys.assigned_prefix, self.keys.followers_prefix):
            found += [key.decode() for key in self.redis.scan_iter(f"{pattern}*", count=1000)]
        return [key.removeprefix(base) for key in found]

    def _orphan_keys(self) -> list[str]:
        """Keys that the key map does not know, that nobody will ever remove, or that name a task that is not there."""
        names = [cast("bytes", key).decode() for key in self.redis.scan_iter(count=1000)]
        base = self.keys.base
        strange = [
            name
            for name in names
            if not name.startswith(base)
            or (name.removeprefix(base).partition(":")[0] not in KINDS and name.removeprefix(base) not in SINGLE)
        ]
        tasks = {name.removeprefix(self.keys.task_prefix) for name in names if name.startswith(self.keys.task_prefix)}
        stories = {
            name.removeprefix(self.keys.story_prefix) for name in names if name.startswith(self.keys.story_prefix)
        }
        indexed = {item.decode() for item in cast("list[bytes]", self.redis.zrange(self.keys.index("all"), 0, -1))}
        finished = {item.decode() for item in cast("list[bytes]", self.redis.zrange(self.keys.finished, 0, -1))}
        halves = sorted((tasks | stories | indexed | finished) - (tasks & stories & indexed & finished))
        return [
            *(f"key outside the key map: {name}" for name in strange),
            *(f"leaked key: {name}" for name in leaked_keys(self.redis, self.keys)),
            *(f"half a task: {task_id}" for task_id in halves),
        ]

    def _orphan_files(self) -> list[str]:
        """What the file store holds beyond the outputs of accepted attempts: other attempts' files, halves of files."""
        expected = {output.key for task in self._records() for output in task.outputs}
        return [f"orphan file: {name}" for name in stored_files(self.system) if name not in expected]

    def _records(self) -> Iterator[Task]:
        """All tasks that Redis knows, accepted by us or not."""
        found = list(self.redis.scan_iter(f"{self.keys.task_prefix}*", count=1000))
        for first in range(0, len(found), 500):
            pipeline = self.redis.pipeline(transaction=False)
            for key in found[first : first + 500]:
                pipeline.hgetall(key)
            yield from (Task.from_hash(fields) for fields in pipeline.execute() if fields)

    def _judge(self, task_id: str) -> Iterator[str]:
        task = self.record(task_id)
        if task is None:
            yield f"{task_id} is gone"
            return
        if task.status.value not in self._may_end[task_id]:
            yield f"{task_id} is {task.status.value} ({task.error})"
        yield from self._judge_story(task)
        if task.status is Status.COMPLETED:
            for output in task.outputs:
                yield from self._judge_file(task, output)

    def _judge_story(self, task: Task) -> Iterator[str]:
        story = self.story(task.id)
        kinds = [kind for _, kind, _, _ in story]
        if [number for number, _, _, _ in story] != list(range(1, len(story) + 1)) or len(story) != task.events:
            yield f"{task.id}: its events have gaps: {story}"
        if any(before[2] > after[2] or before[3] > after[3] for before, after in itertools.pairwise(story)):
            yield f"{task.id}: its events are out of order: {story}"
        if kinds[0] != "queued" or [kind for kind in kinds if kind in _FINAL] != [task.status.value]:
            yield f"{task.id}: begins or ends wrongly: {kinds}"
        if kinds[-1] != task.status.value or kinds.count("output") != len(task.outputs):
            yield f"{task.id}: its last events are wrong: {kinds[-5:]}, {len(task.outputs)} outputs"

    def _judge_file(self, task: Task, output: Output) -> Iterator[str]:
        file = files_folder(self.system) / output.key
        wrong = not output.key.startswith(f"outputs/{task.id}/{task.attempt}/")
        if task.reused:
            wrong = not output.key.startswith(f"outputs/{task.reused}/")
        if wrong:
            yield f"{task.id}: {output.key} is not of its last attempt {task.attempt}"
        elif not file.is_file() or hashlib.sha256(file.read_bytes()).hexdigest() != output.sha256:
            yield f"{task.id}: {output.key} is not what the record says"

    def _count(self, name: str, what: str) -> Row:
        ends = self.statuses(self.known())
        folders: dict[str, set[str]] = {}  # task → attempts that left files
        for file in stored_files(self.system):
            _, owner, attempt, *_ = file.split("/")
            folders.setdefault(owner, set()).add(attempt)
        return Row(
            name=name,
            what=what,
            accepted=len(ends),
            completed=sum(end == "completed" for end in ends.values()),
            failed=sum(end == "failed" and end in self._may_end[task_id] for task_id, end in ends.items()),
            canceled=sum(end == "canceled" for end in ends.values()),
            lost=sum(end not in self._may_end[task_id] for task_id, end in ends.items()),
            doubled=sum(self._finals(task_id) > 1 or len(folders.get(task_id, ())) > 1 for task_id in ends),
        )

    def _finals(self, task_id: str) -> int:
        return sum(kind in _FINAL for _, kind, _, _ in self.story(task_id))


_FINAL = frozenset(kind.value for kind in EventType if kind.final)


def files_folder(system: Cluster) -> Path:
    return system.folder / "files"


def stored_files(system: Cluster) -> list[str]:
    """All output files of the file store, also those that its own listing hides."""
    root = files_folder(system)
    return sorted(str(file.relative_to(root)) for file in root.glob("outputs/**/*") if file.is_file())


def tracebacks(system: Cluster) -> list[str]:
    """Tracebacks in the logs of our own processes, and what died of itself."""
    found = []
    for name, process in system.processes.items():
        lines = process.log.read_text(errors="replace").splitlines() if process.log.exists() else []
        found += [f"{name}: {line[:2000]}" for line in lines if _is_traceback(line)]
    return found


def _is_traceback(line: str) -> bool:
    if line.startswith("Traceback"):
        return True
    if '"exception"' not in line:
        return False
    try:
        return "exception" in json.loads(line)
    except ValueError:
        return True


@contextmanager
def faults(system: Cluster, number: int, **change: Any) -> Iterator[None]:
    """Sets faults of a simulated instance, and clears all of its faults at the end."""
    set_faults(system, number, **change)
    yield
    set_faults(system, number, reset=True)


def set_faults(system: Cluster, number: int, **change: Any) -> None:
    """Changes the faults of a simulated instance."""
    url = f"{system.comfyui_urls[number - 1]}/simulator/faults"
    httpx.post(url, json=change, trust_env=False).raise_for_status()


def instance_runs(system: Cluster, number: int) -> bool:
    """Whether a simulated instance runs a prompt now."""
    return bool(httpx.get(f"{system.comfyui_urls[number - 1]}/queue", trust_env=False).json()["queue_running"])
