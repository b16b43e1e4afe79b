"""OpenAI-compatible images: `/v1/images/generations`, `/v1/images/edits` and `/v1/models`.

A model is a workflow. What a client of the `openai` package sends becomes parameters (`mapping`), the tasks go through
the same service as everybody's (`rendering`), and what they made comes back as OpenAI's client expects it (`pictures`,
`answers`), errors included (`errors`).
"""

from comfy_balancer.openai_api.errors import shape
from comfy_balancer.openai_api.routes import PREFIX, create

__all__ = ["PREFIX", "create", "shape"]
