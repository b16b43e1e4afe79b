"""The real ComfyUI frontend, when its package is installed (`comfy-balancer[frontend]`). Its files, and no others."""

import mimetypes
from functools import cache
from importlib import metadata, resources
from pathlib import Path

PACKAGE = "comfyui_frontend_package"
_TYPES = mimetypes.MimeTypes(filenames=())
for _extension, _type in ((".js", "text/javascript"), (".mjs", "text/javascript"), (".woff2", "font/woff2")):
    _TYPES.add_type(_type, _extension)


@cache
def folder() -> Path | None:
    """Where the frontend is; None when it is not installed."""
    try:
        found = Path(str(resources.files(PACKAGE))) / "static"
    except ModuleNotFoundError:
        return None
    return found.resolve() if (found / "index.html").is_file() else None


@cache
def version() -> str | None:
    """The frontend's version; None when it is not installed."""
    try:
        return metadata.version("comfyui-frontend-package")
    except metadata.PackageNotFoundError:
        return None


@cache
def _files() -> dict[str, Path]:
    """Every file by its path below the frontend's address: nothing else can be asked for."""
    root = folder()
    if root is None:
        return {}
    return {path.relative_to(root).as_posix(): path for path in sorted(root.rglob("*")) if path.is_file()}


@cache
def extensions() -> list[str]:
    """The scripts that the editor loads at its start."""
    return [f"/{path}" for path in _files() if path.startswith("extensions/") and path.endswith(".js")]


@cache
def page() -> str | None:
    """The page itself; its manifest is asked for with the log-in, without which nothing is answered."""
    root = folder()
    text = (root / "index.html").read_text() if root else None
    return text and text.replace('rel="manifest"', 'rel="manifest" crossorigin="use-credentials"')


def find(path: str) -> tuple[Path, str] | None:
    """The file at a path and its media type; None when there is none."""
    found = _files().get(path)
    return None if found is None else (found, _TYPES.guess_type(found.name)[0] or "application/octet-stream")
