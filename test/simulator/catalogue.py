"""Which node classes there are, what they take, and which model files exist.

The classes come from `object_info.json`: GET /object_info of a real ComfyUI 0.3.64, recorded by us and cut down to the
classes that the simulator can run. The choice lists of models are filled from the options, those of input images from
the folder at each look.
"""

import copy
import json
import mimetypes
from pathlib import Path
from typing import Any, NamedTuple

from test.simulator.options import Options

MODEL_FOLDERS = [
    "checkpoints",
    "configs",
    "loras",
    "vae",
    "text_encoders",
    "diffusion_models",
    "clip_vision",
    "style_models",
    "embeddings",
    "diffusers",
    "vae_approx",
    "controlnet",
    "gligen",
    "upscale_models",
    "custom_nodes",
    "hypernetworks",
    "photomaker",
    "classifiers",
    "model_patches",
    "audio_encoders",
]

# (class, input) -> folder whose files are its choices
_MODEL_INPUTS = {
    ("CheckpointLoaderSimple", "ckpt_name"): "checkpoints",
    ("ImageOnlyCheckpointLoader", "ckpt_name"): "checkpoints",
    ("LoraLoader", "lora_name"): "loras",
    ("LoraLoaderModelOnly", "lora_name"): "loras",
    ("VAELoader", "vae_name"): "vae",
    ("UNETLoader", "unet_name"): "diffusion_models",
    ("CLIPLoader", "clip_name"): "text_encoders",
    ("DualCLIPLoader", "clip_name1"): "text_encoders",
    ("DualCLIPLoader", "clip_name2"): "text_encoders",
}
_IMAGE_INPUTS = {
    ("LoadImage", "image"): True,
    ("LoadImageMask", "image"): False,
}  # value: only files that look like images


class InputSpec(NamedTuple):
    """One declared input of a class."""

    kind: Any  # a type name, or the list of choices
    extra: dict[str, Any]  # min, max, default, ...
    required: bool


class Catalogue:
    """The node classes and models of one simulated instance."""

    def __init__(self, options: Options, input_directory: Path) -> None:
        self._input_directory = input_directory
        self.models: dict[str, list[str]] = {folder: [] for folder in MODEL_FOLDERS}
        self.models["checkpoints"] = sorted(options.checkpoints)
        self.models["loras"] = sorted(options.loras)
        self.models["vae"] = sorted(options.vaes)
        self.models["diffusion_models"] = sorted(options.diffusion_models)
        self.models["text_encoders"] = sorted(options.text_encoders)
        self.models["embeddings"] = sorted(options.embeddings)
        recorded = json.loads((Path(__file__).parent / "object_info.json").read_text())
        self._classes: dict[str, dict[str, Any]] = {
            name: info for name, info in recorded.items() if name not in options.missing_classes
        }
        for (class_type, name), folder in _MODEL_INPUTS.items():
            if class_type in self._classes:
                extra = ["pixel_space"] if folder == "vae" else []
                self._classes[class_type]["input"]["required"][name][0] = self.models[folder] + extra
        self._inputs = {name: self._read_inputs(name) for name in self._classes}
        self._outputs = {name: tuple(info["output"]) for name, info in self._classes.items()}
        self._is_output = {name: bool(info["output_node"]) for name, info in self._classes.items()}
        self._needs_id = {
            name: "UNIQUE_ID" in info["input"].get("hidden", {}).values() for name, info in self._classes.items()
        }

    def __contains__(self, class_type: object) -> bool:
        return class_type in self._classes

    def inputs(self, class_type: str) -> dict[str, InputSpec]:
        """The required and optional inputs of a class, choices as they are now."""
        if class_type in ("LoadImage", "LoadImageMask"):
            return self._read_inputs(class_type)
        return self._inputs[class_type]

    def outputs(self, class_type: str) -> tuple[str, ...]:
        """The types of the outputs of a class."""
        return self._outputs[class_type]

    def is_output(self, class_type: str) -> bool:
        """Whether the class ends a graph (SaveImage and the like)."""
        return self._is_output[class_type]

    def needs_id(self, class_type: str) -> bool:
        """Whether the class takes its node id, which then is part of its cache key."""
        return self._needs_id[class_type]

    def object_info(self, class_type: str) -> dict[str, Any]:
        """What GET /object_info says about one class."""
        for (owner, name), only_images in _IMAGE_INPUTS.items():
            if owner == class_type:
                info = copy.deepcopy(self._classes[class_type])
                info["input"]["required"][name][0] = self._input_files(only_images)
                return info
        return self._classes[class_type]

    def all_object_info(self) -> dict[str, dict[str, Any]]:
        """What GET /object_info says."""
        return {name: self.object_info(name) for name in self._classes}

    def _read_inputs(self, class_type: str) -> dict[str, InputSpec]:
        declared = self.object_info(class_type)["input"]
        return {
            name: InputSpec(spec[0], spec[1] if len(spec) > 1 else {}, group == "required")
            for group in ("required", "optional")
            for name, spec in declared.get(group, {}).items()
        }

    def _input_files(self, only_images: bool) -> list[str]:
        names = sorted(entry.name for entry in self._input_directory.iterdir() if entry.is_file())
        if not only_images:
            return names
        return [name for name in names if (mimetypes.guess_type(name)[0] or "").startswith("image/")]
