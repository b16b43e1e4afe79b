"""`python -m test.faults [PYTEST ARGUMENTS]`: all stories, the long ones too, and their table."""

import os
import sys
from pathlib import Path

import pytest

if __name__ == "__main__":
    os.environ["COMFY_FAULTS"] = "all"
    sys.exit(pytest.main([str(Path(__file__).parent), *sys.argv[1:]]))
