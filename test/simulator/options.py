"""What a simulator is told at its start, as one frozen value; `__main__` fills it from the command line, tests fill it
directly.

A time of zero means "as fast as possible": then a prompt costs only the messages and the files it really makes.
"""

from pathlib import Path
from typing import Literal

import msgspec

from test.simulator.faults import Faults


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """Start options of one simulated ComfyUI."""

    host: str = "127.0.0.1"  # address to bind
    port: int = 0  # 0 = a free one
    base_directory: Path | None = None  # holds input, output, temp, user, models; None = a temporary one
    load_seconds: float = 0.0  # loading a checkpoint or diffusion model that is not in memory
    step_seconds: float = 0.0  # one sampler step
    decode_seconds: float = 0.0  # one VAE node
    vram_gib: float = 24.0  # size of the pretended GPU
    model_gib: float = 4.0  # what each loaded checkpoint or diffusion model takes of it
    kept_models: int = (
        0  # loaded models remembered beyond the node cache; 0 = as ComfyUI: only those of the last prompt
    )
    preview_method: Literal["none", "auto", "latent2rgb", "taesd"] = (
        "none"  # all but none: samplers send one JPEG a step
    )
    missing_classes: tuple[str, ...] = ()  # node classes that this instance does not know
    checkpoints: tuple[str, ...] = (  # what the shipped workflows name
        "v1-5-pruned-emaonly-fp16.safetensors",
        "sd_xl_base_1.0.safetensors",
        "svd.safetensors",
    )
    loras: tuple[str, ...] = ("style.safetensors",)
    vaes: tuple[str, ...] = ("vae.safetensors",)
    diffusion_models: tuple[str, ...] = ("flux.safetensors",)
    text_encoders: tuple[str, ...] = ("clip_l.safetensors", "t5xxl.safetensors")
    embeddings: tuple[str, ...] = ()
    device_name: str = "cuda:0 Simulated GPU : native"  # as /system_stats words it
    version: str = "0.3.64"  # the ComfyUI version that /system_stats names
    max_upload_mib: float = 100.0  # larger request bodies are answered with 413
    faults: Faults = Faults()  # what goes wrong from the start
