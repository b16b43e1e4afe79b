"""`python -m comfy_service`, or the command `comfy-service`: one agent under uvicorn."""

import argparse
import signal
from types import FrameType

import uvicorn

from comfy_service.settings import ServiceSettings
from comfy_shared.http.handlers import refuse_unsafe

GRACE = 3  # seconds that a stop waits for answers that are under way; the agent's own grace period comes after


def main(arguments: list[str] | None = None) -> None:
    """Serves until it is told to stop."""
    settings = ServiceSettings()
    parser = argparse.ArgumentParser("comfy-service", description="The agent that owns one ComfyUI instance.")
    parser.add_argument("--host", default=settings.service_host, help="address to listen on (SERVICE_HOST)")
    parser.add_argument("--port", type=int, default=settings.service_port, help="port (SERVICE_PORT)")
    parser.add_argument("--workers", type=int, default=1, help="processes for the routes; one of them runs the agent")
    given = parser.parse_args(arguments)
    refuse_unsafe(settings, "comfy-service")
    # uvicorn shuts down in order and then raises the signal once more; an orderly end is no failure.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _exit_quietly)
    uvicorn.run(
        "comfy_service.app:create_app",
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


def _exit_quietly(_number: int, _frame: FrameType | None) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):  # whoever is in a hurry and asks again: it is ending
        signal.signal(number, signal.SIG_IGN)
    raise SystemExit(0)


if __name__ == "__main__":
    main()
