"""Swagger's pages, with its assets from the package `fastapi_swagger`: the browser asks nobody but us."""

from collections.abc import Awaitable, Callable
from functools import cache
from html import escape
from importlib import resources

import msgspec
from fastapi import APIRouter, Request, Response
from fastapi.responses import RedirectResponse

from comfy_shared.errors import NotFound

ASSETS = {
    "swagger-ui-bundle.js": "text/javascript; charset=utf-8",
    "swagger-ui.css": "text/css; charset=utf-8",
    "favicon-32x32.png": "image/png",
}
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; "
    "connect-src 'self'; form-action 'none'; frame-ancestors 'none'; base-uri 'none'"
)
PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>TITLE</title>
<link rel="icon" href="docs/favicon-32x32.png">
<link rel="stylesheet" href="docs/swagger-ui.css">
</head>
<body>
<div id="swagger-ui"></div>
<script src="docs/swagger-ui-bundle.js"></script>
<script src="docs/start.js"></script>
</body>
</html>
"""
START = """SwaggerUIBundle({
  url: new URL("openapi.json", location.origin + location.pathname).href,
  dom_id: "#swagger-ui",
  deepLinking: true,
  filter: true,
  tryItOutEnabled: true,
  validatorUrl: null,
  presets: [SwaggerUIBundle.presets.apis],
  layout: "BaseLayout",
});
"""


async def _fixed(request: Request) -> bytes:
    return msgspec.json.encode(request.app.openapi())


def docs_router(title: str, document: Callable[[Request], Awaitable[bytes]] = _fixed) -> APIRouter:
    """The routes /, /docs, /docs/ASSET and /openapi.json; `document` makes the last one's content."""
    router = APIRouter(include_in_schema=False)

    @router.get("/")
    async def root() -> Response:
        return RedirectResponse("docs")

    @router.get("/docs")
    async def page() -> Response:
        headers = {"Content-Security-Policy": POLICY, "Cache-Control": "no-cache"}
        return Response(PAGE.replace("TITLE", escape(title)), media_type="text/html", headers=headers)

    @router.get("/docs/{name}")
    async def asset(name: str) -> Response:
        if name == "start.js":
            return Response(START, media_type="text/javascript", headers={"Cache-Control": "no-cache"})
        if name not in ASSETS:
            raise NotFound("there is no such page")
        return Response(_read(name), headers={"Content-Type": ASSETS[name], "Cache-Control": "private, max-age=86400"})

    @router.get("/openapi.json")
    async def openapi(request: Request) -> Response:
        return Response(await document(request), media_type="application/json")

    return router


@cache
def _read(name: str) -> bytes:
    return (resources.files("fastapi_swagger") / "resources" / name).read_bytes()
