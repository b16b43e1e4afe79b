"""A stand-in for ComfyUI without a GPU: the same HTTP and websocket API, with the oddities that we measured on the real
one.

It imports nothing of ours, so a mistake in our packages cannot hide in it; it is held to the real ComfyUI by the
contract suite (`test/contract`), which runs against both. Run it with `python -m test.simulator --help`, or inside a
test:

    async with Simulator(Options(step_seconds=0.1)) as simulator:
        ... simulator.url ...
        simulator.set_faults(hang=True)

Image nodes really run (Pillow); loaders and samplers are pretended, with settable times (`options`). What can go
wrong is in `faults`.

Where it is unrealistic:
- one thread: a big image stops HTTP for a moment, where ComfyUI computes in a thread of its own; the gap between
  execution_success and the history entry, a race there, exists here only as the fault `history_delay`;
- node classes: some fifty of ComfyUI's hundreds; no lists, lazy inputs or graph expansion; pixels are 8 bit; no model
  is read, so POST /free costs a full load afterwards, and GPU memory is a number per model plus one per megapixel;
- videos are motion JPEG in an MP4 container, previews of samplers have the size of the latent instead of 512 pixels;
- tracebacks and tensor representations in error messages are the simulator's own;
- logs hold the lines that prompts cause, not those of start-up; no progress bars;
- no frontend, no Manager, no multi-user mode, no CORS option; `localhost` is not resolved by DNS for the Origin
  check.
"""

from test.simulator.faults import Faults
from test.simulator.options import Options
from test.simulator.server import Simulator

__all__ = ["Faults", "Options", "Simulator"]
