"""What a simulated node is: a function from a `Call` to a `Result`, registered under its class name with `@node`.

Written apart from the nodes themselves so that images and models can live in files of their own.
"""

from collections.abc import Awaitable, Callable
from typing import Any

from test.simulator.files import Folders
from test.simulator.machine import Machine
from test.simulator.options import Options
from test.simulator.pictures import Picture

Preview = tuple[str, Picture]  # JPEG or PNG, and the image


class Result:
    """The outputs of a node (one value per declared output) and, for output nodes, what it shows."""

    __slots__ = ("outputs", "ui")

    def __init__(self, *outputs: Any, ui: dict[str, list[Any]] | None = None) -> None:
        self.outputs = outputs
        self.ui = ui


class Call:
    """One run of one node, with everything it may ask for."""

    __slots__ = ("_progress", "_text", "extra_data", "folders", "inputs", "machine", "node_id", "options", "prompt")

    def __init__(
        self,
        node_id: str,
        inputs: dict[str, Any],
        prompt: dict[str, Any],
        extra_data: dict[str, Any],
        services: "Services",
    ) -> None:
        self.node_id = node_id
        self.inputs = inputs
        self.prompt = prompt
        self.extra_data = extra_data
        self.folders = services.folders
        self.machine = services.machine
        self.options = services.options
        self._progress = services.progress
        self._text = services.text

    def __getitem__(self, name: str) -> Any:
        return self.inputs[name]

    def progress(self, value: int, maximum: int, preview: Preview | None = None) -> None:
        """Report progress; raises Interrupted when the prompt was interrupted."""
        self.machine.check()
        self.machine.step()
        self._progress(self.node_id, value, maximum, preview)

    def text(self, text: str) -> None:
        """Send a text frame to every client."""
        self._text(self.node_id, text)


class Services:
    """What every call of one instance shares."""

    __slots__ = ("folders", "machine", "options", "progress", "text")

    def __init__(
        self,
        options: Options,
        folders: Folders,
        machine: Machine,
        progress: Callable[[str, int, int, Preview | None], None],
        text: Callable[[str, str], None],
    ) -> None:
        self.options = options
        self.folders = folders
        self.machine = machine
        self.progress = progress
        self.text = text


NodeFunction = Callable[[Call], Result | Awaitable[Result]]
FUNCTIONS: dict[str, NodeFunction] = {}


def node(*class_types: str) -> Callable[[NodeFunction], NodeFunction]:
    """Register a function as the body of these node classes."""

    def register(function: NodeFunction) -> NodeFunction:
        for class_type in class_types:
            FUNCTIONS[class_type] = function
        return function

    return register
