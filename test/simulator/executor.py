"""Runs one prompt after the other: which nodes, in which order, with which messages to whom.

`Executor` holds what outlives a prompt, above all the cache of node outputs, which keeps only what the last prompt
used. `_Run` is one prompt. The order of messages, including the odd ones (an `executed` that repeats old file names
for a cached output node, no `executing` for it, a failing node that stays "running"), follows recordings of the real
ComfyUI.
"""

import time
import traceback
from collections.abc import Callable
from typing import Any

from test.simulator import nodes_images, nodes_models, wire
from test.simulator.catalogue import Catalogue
from test.simulator.files import Folders
from test.simulator.graph import Key, RunOrder, cache_keys, is_link
from test.simulator.machine import Interrupted, Machine, OutOfMemoryError
from test.simulator.node import FUNCTIONS, Call, Preview, Result, Services
from test.simulator.options import Options
from test.simulator.prompt_queue import Item
from test.simulator.wire import Sockets

_OUT_OF_MEMORY_TIPS = (
    "This error means you ran out of memory on your GPU.\n\n"
    "TIPS: If the workflow worked before you might have accidentally set the batch_size to a large number."
)
_FILE_CLASSES = ("LoadImage", "LoadImageMask")
_SAMPLERS = ("KSampler", "KSamplerAdvanced")
assert nodes_models  # imported so that its nodes get registered


class Outcome:
    """What a prompt leaves for the history."""

    __slots__ = ("cached", "meta", "outputs", "ran", "status")

    def __init__(self) -> None:
        self.outputs: dict[str, Any] = {}  # node id -> what it shows
        self.meta: dict[str, Any] = {}
        self.status: dict[str, Any] = {}
        self.cached: list[str] = []  # nodes found in the cache at the start
        self.ran: list[str] = []  # nodes that did run


class Executor:
    """The node cache, and the prompt in hand."""

    def __init__(
        self,
        options: Options,
        folders: Folders,
        catalogue: Catalogue,
        machine: Machine,
        sockets: Sockets,
        log: Callable[[str], None],
    ) -> None:
        self.catalogue = catalogue
        self.machine = machine
        self.sockets = sockets
        self.log = log
        self.folders = folders
        self.services = Services(options, folders, machine, self._progress, self._text)
        self.outputs: dict[Key, tuple[Any, ...]] = {}
        self.shown: dict[Key, dict[str, Any]] = {}
        self.client_id: Any = None  # of the prompt that runs or ran last
        self.last_node_id: str | None = None  # what a client that comes back is told
        self._run: _Run | None = None

    def forget(self) -> None:
        """Empty the node cache (POST /free with free_memory)."""
        self.outputs.clear()
        self.shown.clear()

    async def execute(self, item: Item) -> Outcome:
        """Run one prompt to its end, whatever that is; never raises for what a node does."""
        _, prompt_id, prompt, extra_data, targets = item
        self.client_id = extra_data["client_id"] if "client_id" in extra_data else None  # noqa: SIM401 (may be a list)
        run = self._run = _Run(self, prompt_id, prompt, extra_data)
        await self.machine.begin_prompt()
        try:
            return await run.execute(targets)
        finally:
            self.machine.end_prompt()
            self.last_node_id = None

    def fingerprint(self, prompt: dict[str, Any], node_id: str) -> Any:
        """What a node's outputs depend on beside its inputs."""
        class_type = prompt[node_id]["class_type"]
        if class_type in _FILE_CLASSES:
            return nodes_images.content_fingerprint(self.folders.locate(prompt[node_id]["inputs"]["image"]))
        return time.time_ns() if class_type == "SaveImageWebsocket" else False

    def _progress(self, node_id: str, value: int, maximum: int, preview: Preview | None) -> None:
        assert self._run is not None
        self._run.progress(node_id, value, maximum, preview)

    def _text(self, node_id: str, text: str) -> None:
        self.sockets.send_binary(wire.text_frame(node_id, text))


class _Run:
    """One prompt."""

    def __init__(self, executor: Executor, prompt_id: str, prompt: dict[str, Any], extra_data: dict[str, Any]) -> None:
        self._executor = executor
        self._sockets = executor.sockets
        self._client_id = executor.client_id
        self._prompt_id = prompt_id
        self._prompt = prompt
        self._extra_data = extra_data
        self._messages: list[tuple[str, dict[str, Any]]] = []
        self._states: dict[str, dict[str, Any]] = {}
        self._keys: dict[str, Key] = {}
        self._outcome = Outcome()

    async def execute(self, targets: list[str]) -> Outcome:
        executor, outcome = self._executor, self._outcome
        self._message("execution_start", {"prompt_id": self._prompt_id})
        self._keys = cache_keys(
            self._prompt,
            lambda node_id: executor.fingerprint(self._prompt, node_id),
            lambda class_type: executor.catalogue.needs_id(class_type),
        )
        self._evict()
        outcome.cached = [node_id for node_id in self._prompt if self._is_cached(node_id)]
        self._message("execution_cached", {"nodes": outcome.cached, "prompt_id": self._prompt_id})
        succeeded = await self._run_nodes(targets)
        if succeeded:
            self._message("execution_success", {"prompt_id": self._prompt_id})
        for node_id, key in self._keys.items():
            shown = executor.shown.get(key)
            if shown is not None:
                outcome.outputs[node_id] = shown["output"]
                outcome.meta[node_id] = shown["meta"]
        word = "success" if succeeded else "error"
        outcome.status = {"status_str": word, "completed": succeeded, "messages": self._messages}
        return outcome

    def _evict(self) -> None:
        if self._executor.machine.faults.keep_cache:
            return
        kept = set(self._keys.values())
        for cache in (self._executor.outputs, self._executor.shown):
            for key in [key for key in cache if key not in kept]:
                del cache[key]

    def _is_cached(self, node_id: str) -> bool:
        return self._keys.get(node_id) in self._executor.outputs

    def _is_output(self, node_id: str) -> bool:
        return self._executor.catalogue.is_output(self._prompt[node_id]["class_type"])

    async def _run_nodes(self, targets: list[str]) -> bool:
        order = RunOrder(self._prompt, self._is_cached, self._is_output, targets)
        while order:
            node_id = order.next()
            if self._is_cached(node_id):
                self._repeat(node_id)
            elif not await self._run_node(node_id):
                return False
            order.finished(node_id)
        return True

    def _repeat(self, node_id: str) -> None:
        """A cached node that is asked for itself: an output node, or the twin of a node that has just run."""
        shown = self._executor.shown.get(self._keys[node_id], {})
        self._executed(node_id, shown.get("output"))
        self._finish(node_id)

    async def _run_node(self, node_id: str) -> bool:
        executor = self._executor
        state = self._state(node_id)
        state.update(value=0.0, max=1.0, state="running")
        self._send_states()
        if self._client_id is not None:
            executor.last_node_id = node_id
            where = {"node": node_id, "display_node": node_id, "prompt_id": self._prompt_id}
            self._sockets.send("executing", where, self._client_id)
        inputs: dict[str, Any] = {}
        try:
            self._collect_inputs(node_id, inputs)
            result = await self._call(node_id, inputs)
        except Interrupted:
            executor.log("Processing interrupted")
            self._fail(node_id, "execution_interrupted", {}, broadcast=True)
            return False
        except Exception as error:  # a node may raise anything
            self._report_error(node_id, inputs, error)
            return False
        key = self._keys[node_id]
        if result.ui:
            meta = {"node_id": node_id, "display_node": node_id, "parent_node": None, "real_node_id": node_id}
            executor.shown[key] = {"meta": meta, "output": result.ui}
            self._executed(node_id, result.ui)
        executor.outputs[key] = result.outputs
        self._outcome.ran.append(node_id)
        self._finish(node_id)
        return True

    def _collect_inputs(self, node_id: str, inputs: dict[str, Any]) -> None:
        node = self._prompt[node_id]
        for name in self._executor.catalogue.inputs(node["class_type"]):
            if name not in node["inputs"]:
                continue
            value = node["inputs"][name]
            if is_link(value):
                value = self._executor.outputs[self._keys[value[0]]][int(value[1])]
            inputs[name] = value

    async def _call(self, node_id: str, inputs: dict[str, Any]) -> Result:
        executor = self._executor
        executor.machine.check()
        if (
            executor.machine.faults.out_of_memory
            and not self._has_sampler()
            and executor.machine.use_up("out_of_memory")
        ):
            raise OutOfMemoryError("Allocation on device ")
        call = Call(node_id, inputs, self._prompt, self._extra_data, executor.services)
        result = FUNCTIONS[self._prompt[node_id]["class_type"]](call)
        return result if isinstance(result, Result) else await result

    def _has_sampler(self) -> bool:
        return any(node["class_type"] in _SAMPLERS for node in self._prompt.values())

    def _report_error(self, node_id: str, inputs: dict[str, Any], error: Exception) -> None:
        kind = type(error)
        tips = _OUT_OF_MEMORY_TIPS if isinstance(error, OutOfMemoryError) else ""
        lines = traceback.format_tb(error.__traceback__)
        self._executor.log(f"!!! Exception during processing !!! {error}")
        self._executor.log("Traceback (most recent call last):\n" + "".join(lines))
        details = {
            "exception_message": f"{error}\n{tips}",
            "exception_type": kind.__qualname__
            if kind.__module__ == "builtins"
            else f"{kind.__module__}.{kind.__qualname__}",
            "traceback": lines,
            "current_inputs": {name: [_shown_input(value)] for name, value in inputs.items()},
            "current_outputs": list(self._prompt),
        }
        self._fail(node_id, "execution_error", details, broadcast=False)

    def _fail(self, node_id: str, event: str, details: dict[str, Any], broadcast: bool) -> None:
        data = {
            "prompt_id": self._prompt_id,
            "node_id": node_id,
            "node_type": self._prompt[node_id]["class_type"],
            "executed": list(self._outcome.ran),
            **details,
        }
        self._message(event, data, broadcast)

    def _message(self, event: str, data: dict[str, Any], broadcast: bool = False) -> None:
        """A message that the history keeps; clients without an id get none but the broadcast ones."""
        data["timestamp"] = int(time.time() * 1000)
        self._messages.append((event, data))
        if self._client_id is not None or broadcast:
            self._sockets.send(event, data, self._client_id)

    def _executed(self, node_id: str, output: Any) -> None:
        if self._client_id is not None:
            data = {"node": node_id, "display_node": node_id, "output": output, "prompt_id": self._prompt_id}
            self._sockets.send("executed", data, self._client_id)

    def _state(self, node_id: str) -> dict[str, Any]:
        state = self._states.get(node_id)
        if state is None:
            state = self._states[node_id] = {
                "value": 0,
                "max": 1,
                "state": "pending",
                "node_id": node_id,
                "prompt_id": self._prompt_id,
                "display_node_id": node_id,
                "parent_node_id": None,
                "real_node_id": node_id,
            }
        return state

    def _finish(self, node_id: str) -> None:
        state = self._state(node_id)
        state["state"] = "finished"
        state["value"] = state["max"]
        self._send_states()

    def _send_states(self) -> None:
        self._sockets.send("progress_state", {"prompt_id": self._prompt_id, "nodes": self._states}, self._client_id)

    def progress(self, node_id: str, value: int, maximum: int, preview: Preview | None) -> None:
        """One progress step: with the metadata flag the preview comes before the `progress` message, without it
        after.
        """
        self._state(node_id).update(value=value, max=maximum, state="running")
        self._send_states()
        with_metadata = self._sockets.wants_metadata(self._client_id)
        if preview and with_metadata:
            metadata = {
                "node_id": node_id,
                "prompt_id": self._prompt_id,
                "display_node_id": node_id,
                "parent_node_id": None,
                "real_node_id": node_id,
            }
            frame = wire.preview_frame_with_metadata(preview[0], _encoded(preview), metadata)
            self._sockets.send_binary(frame, self._client_id)
        data = {"value": value, "max": maximum, "prompt_id": self._prompt_id, "node": node_id}
        self._sockets.send("progress", data, self._client_id)
        if preview and not with_metadata:
            self._sockets.send_binary(wire.preview_frame(preview[0], _encoded(preview)), self._client_id)


def _encoded(preview: Preview) -> bytes:
    kind, picture = preview
    return picture.png() if kind == "PNG" else picture.jpeg()


def _shown_input(value: Any) -> Any:
    return value if value is None or isinstance(value, bool | int | float | str) else repr(value)
