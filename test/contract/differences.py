"""Where the ComfyUI protocol of the balancer differs from a ComfyUI's on purpose: test → why."""

DIFFERENCES: dict[str, str] = {}
NOT_OURS: dict[str, str] = {}
