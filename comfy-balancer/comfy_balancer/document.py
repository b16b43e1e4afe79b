"""The OpenAPI document as it is now: with a typed route for each published workflow.

It follows the catalog without a restart: made again when another set of versions is active, kept otherwise. While Redis
is away the last one serves on.
"""

import asyncio
import copy
from collections.abc import Mapping
from typing import Any

import msgspec

from comfy_balancer.catalog import Catalog
from comfy_balancer.typed_routes import operation
from comfy_shared.errors import Unavailable
from comfy_shared.workflows import Workflow

GENERAL = "/api/v1/workflows/{name}/run"
_Active = tuple[tuple[str, int, str], ...]  # name, number and digest of each active version


class Document:
    """The document of this process."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._active: _Active | None = None  # what the kept document describes
        self._encoded = b""

    async def encoded(self, base: Mapping[str, Any]) -> bytes:
        """The document as JSON; `base` is the part that never changes."""
        try:
            workflows = await self._catalog.all()
            standings = await self._catalog.standings()
        except Unavailable:
            if self._encoded:
                return self._encoded
            workflows, standings = [], {}
        numbers = {name: standing.active for name, standing in standings.items()}
        described = [(workflow, numbers[workflow.name]) for workflow in workflows if workflow.name in numbers]
        active = tuple((workflow.name, number, workflow.digest) for workflow, number in described)
        if active != self._active:
            self._encoded = await asyncio.to_thread(encode, base, described)
            self._active = active
        return self._encoded


def encode(base: Mapping[str, Any], workflows: list[tuple[Workflow, int]]) -> bytes:
    """`base` with the routes of these workflows (and the number of their version) in place of the general one."""
    document = {**base, "paths": dict(base["paths"]), "components": copy.copy(base["components"])}
    document["components"]["schemas"] = dict(base["components"]["schemas"])
    general = document["paths"].pop(GENERAL)["post"]
    for workflow, number in workflows:
        described, schemas = operation(workflow, number, general)
        document["paths"][GENERAL.replace("{name}", workflow.name)] = {"post": described}
        document["components"]["schemas"] |= schemas
    return msgspec.json.encode(document)
