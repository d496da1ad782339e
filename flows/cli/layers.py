"""The command `neuroscope layers`."""

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
    Name,
    NoRecord,
    Note,
    PromptsFile,
    Site,
    TextColumn,
    Truncate,
)
from flows.cli.study import kept, run_study
from flows.signals import interruptible
from neuroscope.errors import ExperimentError


@app.command()
@interruptible(kept)
def layers(
    file: PromptsFile,
    text_column: TextColumn = "text",
    label_columns: Annotated[
        list[str] | None,
        typer.Option(
            "--label-column",
            help="Column with labels. Repeatable. [default: all but `id` and the text column]",
        ),
    ] = None,
    no_label_columns: Annotated[
        bool, typer.Option("--no-labels", help="Study the prompts without labels.")
    ] = False,
    label: Annotated[
        str, typer.Option(help="Label to probe for. [default: the only label column, if any]")
    ] = "",
    models: ModelNames = ["minilm"],  # noqa: B006 - never modified
    site: Site = "resid_post",
    layers: Layers = "all",
    probes: Annotated[
        bool, typer.Option(help="Fit probes for the label and for the identity of tokens.")
    ] = True,
    probe_prompts: Annotated[
        int, typer.Option(min=8, help="Maximum number of prompts for the label's probe.")
    ] = 2000,
    seed: Annotated[
        int, typer.Option(min=0, help="Seed for drawing and splitting the prompts.")
    ] = 0,
    name: Name = "",
    note: Note = "",
    truncate: Truncate = False,
    device: Device = "auto",
    dtype: DtypeOption = "float32",
    attention: AttentionOption = "sdpa",
    memory: MemoryOption = "auto",
    no_record: NoRecord = False,
    json: Json = False,
) -> None:
    """Study how information evolves through the layers of a model."""

    def experiment() -> Any:
        from neuroscope.studies.layers.experiment import layers_experiment

        if no_label_columns and label_columns:
            raise ExperimentError("--label-column and --no-labels exclude each other")
        columns = [] if no_label_columns else label_columns or None
        return layers_experiment(
            name,
            models,
            {"file": str(file), "text_column": text_column, "label_columns": columns},
            label=label,
            site=site,
            layers=layers,
            probes=probes,
            probe_prompts=probe_prompts,
            seed=seed,
            note=note,
            truncate=truncate,
            device=device,
            dtype=dtype,
            attention=attention,
            memory=memory,
        )

    run_study("layers", experiment, record=not no_record, json=json)
