"""The command `neuroscope ui`."""

import os
from typing import Annotated

import typer

from flows.cli.app import app
from flows.signals import interruptible
from neuroscope.options import DEVICES, DtypeChoice


@app.command()
@interruptible("the interface was stopped")
def ui(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 5090,
    model: Annotated[
        list[str] | None, typer.Option(help="Model that may be used; repeat it. [default: any]")
    ] = None,
    device: Annotated[str, typer.Option(help=f"Device: {DEVICES}.")] = "auto",
    dtype: Annotated[DtypeChoice, typer.Option(help="Number format of the passes.")] = "auto",
    allowed_host: Annotated[
        list[str] | None, typer.Option(help="Name under which browsers reach it; repeat it.")
    ] = None,
    behind_proxy: Annotated[
        bool, typer.Option("--behind-proxy", help="A proxy decides who may use it.")
    ] = False,
    trusted_proxies: Annotated[
        str, typer.Option(help="Addresses of that proxy, as X-Forwarded-For is believed.")
    ] = "127.0.0.1",
) -> None:
    """Serve the interface: type prompts, choose neurons, see and keep what they do."""
    from flows.display import print_text
    from neuroscope.web.settings import Settings

    names = tuple(model or ())
    settings = Settings(
        host=host,
        port=port,
        models=names,
        default_model=names[0] if names else "minilm",
        device=device,
        dtype=dtype,
        token=os.environ.get("NEUROSCOPE_UI_TOKEN", ""),
        behind_proxy=behind_proxy,
        trusted_proxies=trusted_proxies,
        allowed_hosts=tuple(allowed_host or ()),
    )
    from neuroscope.web.server import serve

    flows = None
    if os.environ.get("PREFECT_API_URL"):
        from flows.prefect_server import PrefectServer
        from flows.started import StartedFlows

        flows = StartedFlows(PrefectServer.from_environment())

    def ready(address: str) -> None:
        print_text(f"The interface is at {address} (Ctrl-C stops it)")

    serve(settings, ready, flows)
