"""The editor's graph → the prompt, without a browser: what the frontend's own conversion makes of it. Pure.

`editor` reads what was saved, `classes` what object info says, `unfolding` makes live nodes of both, `primitives` lets
primitive nodes write their values, `resolving` follows links, `groups` unfolds the old group nodes, `assembling` puts
the prompt together. Its reference is frontend 1.27.10; where that gives in to damage, this refuses.
"""

from comfy_shared.workflows.converting.assembling import convert
from comfy_shared.workflows.converting.classes import ObjectInfo
from comfy_shared.workflows.converting.errors import ConversionError

__all__ = ["ConversionError", "ObjectInfo", "convert"]
