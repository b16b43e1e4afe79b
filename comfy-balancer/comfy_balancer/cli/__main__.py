"""`comfyctl GROUP COMMAND`, or `python -m comfy_balancer.cli`."""

import argparse
import sys

from comfy_balancer.cli import keys
from comfy_shared.errors import ComfyError

GROUPS = (keys,)


def main(arguments: list[str] | None = None) -> int:
    """Runs one command. The exit code: 0 done, 1 it could not be done, 2 it was not understood."""
    parser = argparse.ArgumentParser("comfyctl", description="Operates a Comfy service system.")
    groups = parser.add_subparsers(title="groups", required=True, metavar="GROUP")
    for group in GROUPS:
        group.add(groups)
    given = parser.parse_args(arguments)
    try:
        return int(given.run(given))
    except (ComfyError, ValueError) as error:
        sys.stderr.write(f"comfyctl: {error}\n")
        return 1


if __name__ == "__main__":
    raise SystemExit(main())
