"""`python -m comfy_balancer.cli`."""

import sys

from comfy_balancer.cli import main

if __name__ == "__main__":
    sys.exit(main())
