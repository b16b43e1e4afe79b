"""The ComfyUI protocol: to a ComfyUI client the balancer is one ComfyUI with many GPUs (docs/comfyui-protocol.md)."""
