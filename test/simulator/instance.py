"""One life of a simulated ComfyUI process: everything it holds in memory, and the loop that runs its prompts.

A restart is a new `Instance` over the same folders: queue, history, counter, cache and sockets are gone, files stay.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from test.simulator.catalogue import Catalogue
from test.simulator.executor import Executor, Outcome
from test.simulator.faults import Faults
from test.simulator.files import Folders
from test.simulator.logs import Logs
from test.simulator.machine import Crashed, Machine
from test.simulator.options import Options
from test.simulator.prompt_queue import Item, PromptQueue
from test.simulator.wire import Sockets

_STATISTICS = 10_000  # runs remembered for GET /simulator/stats


class Instance:
    """The parts of one process, wired together."""

    def __init__(self, options: Options, folders: Folders, crash: Callable[[], None]) -> None:
        self.options = options
        self.folders = folders
        self.sockets = Sockets()
        self.logs = Logs(self.sockets)
        self.catalogue = Catalogue(options, folders.input)
        self.machine = Machine(options, crash)
        self.executor = Executor(options, folders, self.catalogue, self.machine, self.sockets, self.logs.line)
        self.queue = PromptQueue(self._queue_changed)
        self.number = 0  # counts submitted prompts, accepted or not
        self.accepted = 0  # prompts put into the queue
        self.run = 0  # prompts that ended
        self._accepted_at: dict[str, tuple[float, float]] = {}  # prompt id -> monotonic and wall time, until it has run
        self.prompts: deque[dict[str, Any]] = deque(maxlen=_STATISTICS)
        self.unload_wanted = False  # POST /free
        self.forget_wanted = False  # POST /free
        self.freed = 0  # times that either was done
        self.http_may_answer = asyncio.Event()
        self.apply(options.faults)

    def apply(self, faults: Faults) -> None:
        """Put the lasting faults in force."""
        self.machine.apply(faults)
        self.sockets.silent = faults.silent_websocket
        if faults.hang_http:
            self.http_may_answer.clear()
        else:
            self.http_may_answer.set()

    def queue_info(self) -> dict[str, Any]:
        """What GET /prompt and every status message say."""
        return {"exec_info": {"queue_remaining": self.queue.remaining()}}

    def _queue_changed(self) -> None:
        self.sockets.send("status", {"status": self.queue_info()})

    def accept(self, item: Item) -> None:
        """Queue a valid prompt."""
        self._accepted_at[item[1]] = (time.monotonic(), time.time())
        if len(self._accepted_at) > 10 * _STATISTICS:  # prompts that were deleted leave theirs behind
            self._accepted_at.pop(next(iter(self._accepted_at)))
        self.accepted += 1
        self.queue.put(item)

    async def work_for_ever(self) -> None:
        """Run prompts until cancelled. An error outside a node ends this loop and nothing: as in ComfyUI, where the
        thread dies.
        """
        try:
            while True:
                item = self.queue.take()
                if item is None:
                    await self.queue.wait()
                else:
                    await self._run(item)
                self._free()
                await asyncio.sleep(0)
        except Crashed:
            return
        except Exception as error:  # the HTTP side lives on, the queue stands still
            self.logs.line(f"Exception in thread prompt_worker: {error!r}")

    async def _run(self, item: Item) -> None:
        started = (time.monotonic(), time.time())
        outcome = await self.executor.execute(item)
        if self.machine.faults.history_delay:
            await self.machine.pause(self.machine.faults.history_delay)
        self.queue.done(outcome.outputs, outcome.meta, outcome.status)
        if self.executor.client_id is not None:
            self.sockets.send("executing", {"node": None, "prompt_id": item[1]}, self.executor.client_id)
        ended = (time.monotonic(), time.time())
        self.logs.line(f"Prompt executed in {ended[0] - started[0]:.2f} seconds")
        self.run += 1
        accepted = self._accepted_at.pop(item[1], started)  # missing only for an id used twice
        self.prompts.append(_statistics(item, outcome, accepted, started, ended))

    def _free(self) -> None:
        if self.unload_wanted or self.forget_wanted:
            self.machine.unload()
        if self.forget_wanted:
            self.executor.forget()
        self.freed += self.unload_wanted or self.forget_wanted
        self.unload_wanted = self.forget_wanted = False


def _statistics(
    item: Item,
    outcome: Outcome,
    accepted: tuple[float, float],
    started: tuple[float, float],
    ended: tuple[float, float],
) -> dict[str, Any]:
    return {
        "prompt_id": item[1],
        "accepted_at": accepted[0],  # seconds on the machine's monotonic clock
        "started_at": started[0],
        "ended_at": ended[0],
        "accepted_wall": accepted[1],  # seconds since the epoch
        "started_wall": started[1],
        "ended_wall": ended[1],
        "last_message": outcome.status["messages"][-1][0],  # execution_success, _error or _interrupted
        "cached_nodes": len(outcome.cached),
        "run_nodes": len(outcome.ran),
    }
