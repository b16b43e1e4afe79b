"""Comfy API v2 (`/api/v2`): the contract of the official Comfy SDKs, over the same tasks, inputs and events.

The contract's words are its own and stay in this package: a job is a task, a workflow is a prompt, an asset is an
upload or an output. The shapes follow the contract's OpenAPI document and, where that is silent, its official
self-hosted server (comfy-api-proxy).
"""

from comfy_balancer.comfy_v2 import asset_routes, job_routes
from comfy_balancer.comfy_v2.errors import add_handlers, edge_shape
from comfy_shared.http.handlers import Door

PREFIX = "/api/v2"

__all__ = ["PREFIX", "create", "edge_shape"]


def create() -> Door:
    """The door's application, to be mounted at `PREFIX`; it uses the resources of the app around it."""
    door = Door(title="Comfy API v2")
    door.include_router(job_routes.router)
    door.include_router(asset_routes.router)
    add_handlers(door)
    return door
