"""Serving of the interface."""

import socket
from collections.abc import Callable

from neuroscope.errors import StackError
from neuroscope.web.flow_api import FlowServer
from neuroscope.web.settings import Settings


def serve(
    settings: Settings, on_ready: Callable[[str], None], flows: FlowServer | None = None
) -> None:
    """Serve the interface until interrupted.

    Args:
        settings: settings of the server.
        on_ready: function that is called with the address as soon as the port is open.
        flows: server on which studies can be started.

    Raises:
        StackError: the port cannot be opened.
    """
    import uvicorn

    from neuroscope.web.app import create_app

    listener = _listener(settings.host, settings.port)
    app = create_app(settings, flows)
    app.state.worker.warm(settings.default_model)
    port = listener.getsockname()[1]
    on_ready(f"http://{settings.shown_host}:{port}")
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,  # addresses hold prompts
        proxy_headers=settings.behind_proxy,
        forwarded_allow_ips=settings.trusted_proxies,
        server_header=False,
        timeout_graceful_shutdown=2,
    )
    uvicorn.Server(config).run(sockets=[listener])


def _listener(host: str, port: int) -> socket.socket:
    """Return a socket that listens; raise StackError if the port cannot be opened."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen()  # from now on, connections wait instead of being refused
    except OSError as error:
        listener.close()
        raise StackError(
            f"cannot listen on {host}, port {port} ({error.strerror})",
            remedy="choose another port with --port",
        ) from error
    return listener
