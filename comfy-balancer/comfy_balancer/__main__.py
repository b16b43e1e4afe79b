"""`python -m comfy_balancer`, or the command `comfy-balancer`: the balancer under uvicorn."""

import argparse

import uvicorn

from comfy_balancer.settings import BalancerSettings
from comfy_shared.http.handlers import refuse_unsafe

GRACE = 10  # seconds that a stop waits for answers that are under way; streams are cut then


def main(arguments: list[str] | None = None) -> None:
    """Serves until it is told to stop."""
    settings = BalancerSettings()
    parser = argparse.ArgumentParser("comfy-balancer", description="The gateway to a cluster of ComfyUIs.")
    parser.add_argument("--host", default=settings.service_host, help="address to listen on (SERVICE_HOST)")
    parser.add_argument("--port", type=int, default=settings.service_port, help="port (SERVICE_PORT)")
    parser.add_argument("--workers", type=int, default=settings.balancer_workers, help="processes (BALANCER_WORKERS)")
    given = parser.parse_args(arguments)
    refuse_unsafe(settings, "comfy-balancer")
    uvicorn.run(
        "comfy_balancer.app:create_app",
        factory=True,
        host=given.host,
        port=given.port,
        workers=given.workers,
        loop="uvloop",
        http="httptools",
        log_config=None,
        server_header=False,
        timeout_graceful_shutdown=GRACE,
    )


if __name__ == "__main__":
    main()
