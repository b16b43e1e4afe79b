"""The folders of one instance: input, output, temp, user, models; names as ComfyUI writes and reads them.

A file name may carry its folder as a suffix, `x.png [output]`. A saved file is `PREFIX_00001_.png`, numbered after
the highest number of that prefix in the folder; the prefix may hold sub-folders but may not leave the output folder.
"""

import os
import shutil
import tempfile
import time
from pathlib import Path

_SUFFIXES = ("output", "input", "temp")


class Folders:
    """The directories of one instance. Made at start, when temp is emptied too."""

    def __init__(self, base: Path | None) -> None:
        self._own = base is None
        self.base = Path(tempfile.mkdtemp(prefix="simulator-")) if base is None else base.resolve()
        self.input = self.base / "input"
        self.output = self.base / "output"
        self.temp = self.base / "temp"
        self.user = self.base / "user"
        self._numbers: dict[tuple[str, str, str], int] = {}

    def make(self) -> None:
        """Create what is missing and empty temp."""
        shutil.rmtree(self.temp, ignore_errors=True)
        for folder in (self.input, self.output, self.temp, self.user, self.base / "models"):
            folder.mkdir(parents=True, exist_ok=True)
        self._numbers.clear()

    def remove(self) -> None:
        """Delete everything, if the directory was ours to choose."""
        if self._own:
            shutil.rmtree(self.base, ignore_errors=True)

    def by_type(self, kind: str) -> Path | None:
        """The folder that `type=` names in a request, None for an unknown word."""
        return {"output": self.output, "input": self.input, "temp": self.temp}.get(kind)

    def split(self, name: str) -> tuple[str, Path | None]:
        """`x.png [output]` -> (`x.png`, the output folder); without a suffix the folder is None."""
        for kind in _SUFFIXES:
            suffix = f"[{kind}]"
            if name.endswith(suffix):
                return name[: -len(suffix) - 1], self.by_type(kind)
        return name, None

    def locate(self, name: str) -> Path:
        """Where an image input of a node lies; the input folder unless its suffix says otherwise."""
        bare, folder = self.split(name)
        return Path(os.path.join(folder or self.input, bare))

    def exists(self, name: str) -> bool:
        """Whether that image input is there."""
        return self.locate(name).exists()

    def next_name(self, prefix: str, folder: Path, suffix: str, size: tuple[int, int]) -> tuple[Path, str, str]:
        """Where the next file of `prefix` goes: (path, file name, sub-folder). Raises Exception outside `folder`.

        The highest number is remembered and trusted while the file that had it is still there: ComfyUI lists the
        folder each time, which at thousands of files costs more than the rest of a prompt.
        """
        prefix = os.path.normpath(_fill_in(prefix, size))
        subfolder, name = os.path.dirname(prefix), os.path.basename(prefix)
        target = Path(os.path.join(folder, subfolder))
        inside = os.path.commonpath((str(folder), os.path.abspath(target)))
        if inside != str(folder):
            raise Exception(  # the real one raises a bare Exception, and its type is part of the error event
                "**** ERROR: Saving image outside the output folder is not allowed."
                f"\n full_output_folder: {os.path.abspath(target)}\n         output_dir: {folder}"
                f"\n         commonpath: {inside}"
            )
        key = (str(target), name, suffix)
        number = self._numbers.get(key)
        if number is None or not os.path.exists(target / f"{name}_{number:05}_{suffix}"):
            target.mkdir(parents=True, exist_ok=True)
            number = _highest_number(target, name)
        number += 1
        if os.path.exists(target / f"{name}_{number:05}_{suffix}"):
            number = _highest_number(target, name) + 1
        self._numbers[key] = number
        file_name = f"{name}_{number:05}_{suffix}"
        return target / file_name, file_name, subfolder


def _fill_in(prefix: str, size: tuple[int, int]) -> str:
    if "%" not in prefix:
        return prefix
    now = time.localtime()
    values = {
        "%width%": str(size[0]),
        "%height%": str(size[1]),
        "%year%": str(now.tm_year),
        "%month%": f"{now.tm_mon:02}",
        "%day%": f"{now.tm_mday:02}",
        "%hour%": f"{now.tm_hour:02}",
        "%minute%": f"{now.tm_min:02}",
        "%second%": f"{now.tm_sec:02}",
    }
    for word, value in values.items():
        prefix = prefix.replace(word, value)
    return prefix


def _highest_number(folder: Path, name: str) -> int:
    highest = 0
    for entry in os.listdir(folder):
        if entry.startswith(f"{name}_"):
            digits = entry[len(name) + 1 :].split("_")[0]
            if digits.isdigit():
                highest = max(highest, int(digits))
    return highest
