"""MCP (streamable HTTP) at `/mcp`: each workflow is a tool with its typed parameters, its pictures are the result.

No session: each POST is complete in itself, so any replica answers it. `tools`: workflows as tools and calls as tasks;
`results`: what a task made, as content; `door`: the route, and the official library behind it.
"""

from comfy_balancer.mcp_api.door import PATH, McpDoor, keep_open, make_manager, shape

__all__ = ["PATH", "McpDoor", "keep_open", "make_manager", "shape"]
