"""Runs one simulator as a process: prints one JSON line `{"url": ...}` when it answers, ends at SIGINT or SIGTERM.

Every field of `Options` is a command-line option of the same name; every fault can be given as `--fault NAME=VALUE`.
"""

import argparse
import asyncio
import gc
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import uvloop

from test.simulator.faults import FaultError, Faults, merge
from test.simulator.options import Options
from test.simulator.server import Simulator

_LISTS = {  # option -> field of Options
    "checkpoint": "checkpoints",
    "lora": "loras",
    "vae": "vaes",
    "diffusion-model": "diffusion_models",
    "text-encoder": "text_encoders",
    "embedding": "embeddings",
    "missing-class": "missing_classes",
}
_NUMBERS = {
    "load-seconds": "time to load a checkpoint or diffusion model",
    "step-seconds": "time of one sampler step",
    "decode-seconds": "time of one VAE node",
    "vram-gib": "size of the pretended GPU",
    "model-gib": "what one loaded model takes of it",
    "max-upload-mib": "largest request body",
}


def parse(arguments: list[str]) -> Options:
    """The options of a command line; ends the process with a message when it is wrong."""
    defaults = Options()
    parser = argparse.ArgumentParser(prog="python -m test.simulator", description="A simulated ComfyUI.")
    parser.add_argument("--host", default=defaults.host)
    parser.add_argument("--port", type=int, default=defaults.port, help="0 = choose a free one")
    parser.add_argument(
        "--base-directory", type=Path, help="holds input, output, temp, user (default: a temporary one)"
    )
    for name, text in _NUMBERS.items():
        default = getattr(defaults, name.replace("-", "_"))
        parser.add_argument(f"--{name}", type=float, default=default, help=f"{text} (default {default})")
    parser.add_argument("--kept-models", type=int, default=0, help="loaded models remembered beyond the last prompt's")
    parser.add_argument("--preview-method", choices=["none", "auto", "latent2rgb", "taesd"], default="none")
    parser.add_argument("--device-name", default=defaults.device_name)
    parser.add_argument("--version", default=defaults.version, help="the ComfyUI version to claim")
    for name in _LISTS:
        parser.add_argument(f"--{name}", action="append", metavar="NAME", help="may be repeated; replaces the default")
    names = ", ".join(Faults.__struct_fields__)
    parser.add_argument("--fault", action="append", default=[], metavar="NAME=VALUE", help=f"one of: {names}")
    given = vars(parser.parse_args(arguments))
    for option, field in _LISTS.items():
        values = given.pop(option.replace("-", "_"))
        given[field] = getattr(defaults, field) if values is None else tuple(values)
    try:
        given["faults"] = merge(Faults(), dict(_fault(each) for each in given.pop("fault")))
    except (FaultError, ValueError) as error:
        parser.error(str(error))
    return Options(**given)


def _fault(text: str) -> tuple[str, Any]:
    name, _, value = text.partition("=")
    try:
        return name, json.loads(value)
    except json.JSONDecodeError:
        return name, value


async def serve(options: Options) -> None:
    """Serve until a signal comes."""
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)  # the history of thousands of prompts is no garbage, and dear to look through
    async with Simulator(options, on_crash=lambda: os._exit(137)) as simulator:
        sys.stdout.write(json.dumps({"url": simulator.url}) + "\n")
        sys.stdout.flush()
        await stop.wait()


if __name__ == "__main__":
    options = parse(sys.argv[1:])
    with asyncio.Runner(
        loop_factory=uvloop.new_event_loop
    ) as runner:  # the cheaper it is, the more a benchmark says of us
        runner.run(serve(options))
