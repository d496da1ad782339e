"""The option `neuroscope --version`."""

from typing import Annotated

import typer

from flows.cli.app import app


def _print_version(given: bool) -> None:
    if given:
        from importlib.metadata import version

        print(f"neuroscope {version('neuroscope')}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", is_eager=True, callback=_print_version, help="Print the version."
        ),
    ] = False,
) -> None:
    """Show what the neurons of transformer language models do."""
