"""The command `neuroscope compare`."""

from typing import Annotated, Any

import typer

from flows.cli.app import app
from flows.cli.options import (
    AttentionOption,
    Device,
    DtypeOption,
    Json,
    Layers,
    MemoryOption,
    ModelNames,
    Note,
    Site,
    Truncate,
)
from flows.cli.study import RUNS_CLOSED, run_study
from flows.signals import interruptible


@app.command()
@interruptible(RUNS_CLOSED)
def compare(
    prompts: Annotated[list[str] | None, typer.Argument(help="Two or more prompts.")] = None,
    template: Annotated[
        str, typer.Option(help="Text with {} where the fills go; replaces PROMPTS.")
    ] = "",
    fill: Annotated[
        list[str] | None, typer.Option(help="Word that replaces {}. Repeatable.")
    ] = None,
    model: ModelNames = ["minilm"],  # noqa: B006 - never modified
    site: Site = "resid_post",
    layers: Layers = "all",
    plot_layers: Annotated[
        str, typer.Option(help="Layers drawn neuron by neuron: middle, or as in --layers.")
    ] = "middle",
    note: Note = "",
    truncate: Truncate = False,
    device: Device = "auto",
    dtype: DtypeOption = "float32",
    attention: AttentionOption = "sdpa",
    memory: MemoryOption = "auto",
    json: Json = False,
) -> None:
    """Compare prompts with each other, at every layer of a model."""

    def experiment() -> Any:
        from neuroscope.errors import ExperimentError
        from neuroscope.studies.compare.experiment import compare_experiment

        if not prompts and not template:
            raise ExperimentError(
                "no prompts to compare",
                remedy="give at least two, or a --template with at least two --fill",
            )
        return compare_experiment(
            model,
            {"texts": prompts or [], "template": template, "fills": fill or []},
            site=site,
            layers=layers,
            plot_layers=plot_layers,
            note=note,
            truncate=truncate,
            device=device,
            dtype=dtype,
            attention=attention,
            memory=memory,
        )

    run_study("compare", experiment, json=json)
