"""The command `neuroscope up`."""

from typing import Annotated

import typer

from flows.cli.app import app
from flows.signals import interruptible


@app.command()
@interruptible("everything was stopped")
def up(
    mlflow_port: Annotated[int, typer.Option(help="Port of the MLflow server.")] = 5000,
    prefect_port: Annotated[int, typer.Option(help="Port of the Prefect server.")] = 4200,
    health_port: Annotated[int, typer.Option(help="Port of the health of all services.")] = 5080,
    ui_port: Annotated[int, typer.Option(help="Port of the interface.")] = 5090,
    flows_at_once: Annotated[
        int, typer.Option(min=1, help="Maximum number of flows that run at once.")
    ] = 2,
) -> None:
    """Run MLflow, Prefect, a worker and the interface on this machine until Ctrl-C."""
    from flows.display import errors, show_addresses
    from flows.stack import up as run_stack

    def say(message: str) -> None:
        errors.print(f"{message} …", highlight=False)

    ports = {"mlflow": mlflow_port, "prefect": prefect_port, "health": health_port, "ui": ui_port}
    run_stack(ports, flows_at_once=flows_at_once, on_ready=show_addresses, say=say)
