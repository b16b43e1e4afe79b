"""Comfy API v2 with its official clients: our balancer beside the official self-hosted server, field for field."""
