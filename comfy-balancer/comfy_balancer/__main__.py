"""`python -m comfy_balancer`, or the command `comfy-balancer`: the balancer under uvicorn."""

import argparse
import socket
import sys
from contextlib import suppress

import uvicorn
from uvicorn.supervisors import Multiprocess

from comfy_balancer.corking import CorkedProtocol
from comfy_balancer.settings import BalancerSettings
from comfy_shared.http.handlers import STARTUP_FAILURE, refuse_unsafe

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
    config = uvicorn.Config(
        "comfy_balancer.app:create_app",
        factory=True,
        host=given.host,
        port=given.port,
        workers=given.workers,
        loop="uvloop",
        http=CorkedProtocol,
        log_config=None,
        server_header=False,
        proxy_headers=False,  # our own rule says whose word counts: TRUSTED_PROXIES
        timeout_graceful_shutdown=GRACE,
    )
    sockets = [config.bind_socket()]
    if settings.open_port:
        if given.port == settings.open_port:
            parser.error("the port must not be OPEN_PORT, which asks for no log-in")
        sockets.append(_listen(settings.open_port_host, settings.open_port))
    _serve(config, sockets)


def _listen(host: str, port: int) -> socket.socket:
    try:
        listener = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        sys.stderr.write(f"comfy-balancer: OPEN_PORT cannot be listened on: {error}.\n")
        raise SystemExit(STARTUP_FAILURE) from error
    listener.set_inheritable(True)
    return listener


def _serve(config: uvicorn.Config, sockets: list[socket.socket]) -> None:
    """What `uvicorn.run` does, for more than one socket: each worker accepts at all of them."""
    if config.workers > 1:
        Multiprocess(config, sockets=sockets).run()
        return
    server = uvicorn.Server(config)
    with suppress(KeyboardInterrupt):
        server.run(sockets=sockets)
    if not server.started:
        raise SystemExit(STARTUP_FAILURE)


if __name__ == "__main__":
    main()
