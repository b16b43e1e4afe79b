"""Our own nodes for a real ComfyUI, so that the contract suite can see progress, previews, failures and text without a
model.

Copy or link this file into the ``custom_nodes`` folder of a ComfyUI and start it. ``SlowProgress`` counts up step by
step and can be interrupted between steps, ``Fail`` raises on purpose, ``LabOutOfMemory`` raises what PyTorch raises
when a GPU is full, and ``TextOut`` sends a text over the websocket. ComfyUI's modules exist only inside ComfyUI, so
they are imported when a node runs: this file can be imported, linted and type-checked without them.
"""

import importlib
import time
from typing import Any


class SlowProgress:
    """Passes the image through after `steps` steps of `ms_per_step` milliseconds each; `tag` only varies the cache
    key.
    """

    RETURN_TYPES = ("IMAGE",)
    FUNCTION = "run"
    CATEGORY = "lab"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "image": ("IMAGE",),
                "steps": ("INT", {"default": 10, "min": 1, "max": 10000}),
                "ms_per_step": ("FLOAT", {"default": 100.0, "min": 0.0, "max": 60000.0}),
            },
            "optional": {"preview": ("BOOLEAN", {"default": False}), "tag": ("STRING", {"default": ""})},
            "hidden": {"unique_id": "UNIQUE_ID"},
        }

    def run(
        self,
        image: Any,
        steps: int,
        ms_per_step: float,
        preview: bool = False,
        tag: str = "",
        unique_id: str | None = None,
    ) -> tuple[Any]:
        management = importlib.import_module("comfy.model_management")
        bar = importlib.import_module("comfy.utils").ProgressBar(steps, node_id=unique_id)
        for step in range(1, steps + 1):
            management.throw_exception_if_processing_interrupted()
            time.sleep(ms_per_step / 1000)
            bar.update_absolute(step, steps, self._picture(step, steps) if preview else None)
        return (image,)

    @staticmethod
    def _picture(step: int, steps: int) -> tuple[str, Any, int]:
        image = importlib.import_module("PIL.Image")
        return ("JPEG", image.new("RGB", (32, 32), (255 * step // steps, 64, 128)), 32)


class Fail:
    """Raises ValueError with the given message."""

    RETURN_TYPES = ("IMAGE",)
    FUNCTION = "run"
    CATEGORY = "lab"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"image": ("IMAGE",), "message": ("STRING", {"default": "failed on purpose"})}}

    def run(self, image: Any, message: str) -> tuple[Any]:
        raise ValueError(message)


class LabOutOfMemory:
    """Raises the exception that PyTorch raises when a GPU's memory is full."""

    RETURN_TYPES = ("IMAGE",)
    FUNCTION = "run"
    CATEGORY = "lab"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"image": ("IMAGE",)}}

    def run(self, image: Any) -> tuple[Any]:
        raise importlib.import_module("comfy.model_management").OOM_EXCEPTION("Allocation on device ")


class TextOut:
    """Sends the text as a progress text frame and shows it as the node's result."""

    RETURN_TYPES = ()
    FUNCTION = "run"
    CATEGORY = "lab"
    OUTPUT_NODE = True

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"text": ("STRING", {"default": "hello"})}, "hidden": {"unique_id": "UNIQUE_ID"}}

    def run(self, text: str, unique_id: str) -> dict[str, Any]:
        importlib.import_module("server").PromptServer.instance.send_progress_text(text, unique_id)
        return {"ui": {"text": [text]}}


NODE_CLASS_MAPPINGS = {
    "SlowProgress": SlowProgress,
    "Fail": Fail,
    "LabOutOfMemory": LabOutOfMemory,
    "TextOut": TextOut,
}
NODE_DISPLAY_NAME_MAPPINGS = {"SlowProgress": "Slow Progress (lab)"}
