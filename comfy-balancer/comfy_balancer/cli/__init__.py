"""`comfyctl`: the system from a terminal. `python -m comfy_balancer.cli` is the same.

One module is one group of commands. It has `add(groups)`, which adds its parser and gives each command's parser the
default `run`: a function from the parsed arguments to an exit code. `GROUPS` lists the modules; that is all.
What goes wrong is one line on stderr: what the user can mend by calling otherwise is a `CommandError`, exit code 2;
what the system could not do, a `ComfyError`, is exit code 1.
"""

import argparse
import sys
from collections.abc import Sequence

from comfy_balancer.cli import keys, workflow
from comfy_balancer.cli.errors import CommandError
from comfy_shared.errors import ComfyError

GROUPS = (keys, workflow)
UNDONE, FAILED = 1, 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; the exit code."""
    parser = argparse.ArgumentParser("comfyctl", description="The Comfy service system from a terminal.")
    groups = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for group in GROUPS:
        group.add(groups)
    given = parser.parse_args(arguments)
    try:
        return int(given.run(given))
    except CommandError as error:
        sys.stderr.write(f"comfyctl: {error}\n")
        return FAILED
    except ComfyError as error:
        sys.stderr.write(f"comfyctl: {error.message}\n")
        return UNDONE
    except BrokenPipeError:  # whoever read our output has seen enough
        sys.stderr.close()
        return 0
