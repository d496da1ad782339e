"""The command `neuroscope layers`."""

from pathlib import Path
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
    TextColumn,
    Truncate,
)
from flows.cli.study import RUNS_CLOSED, run_study
from flows.signals import interruptible


@app.command()
@interruptible(RUNS_CLOSED)
def layers(
    file: Annotated[
        Path, typer.Argument(help="File of prompts: .txt, .csv, .tsv, .jsonl or .parquet.")
    ],
    model: ModelNames = ["minilm"],  # noqa: B006 - never modified
    site: Site = "resid_post",
    layers: Layers = "all",
    label: Annotated[
        str, typer.Option(help="Label to probe for. [default: the only label column, if any]")
    ] = "",
    text_column: TextColumn = "text",
    probes: Annotated[
        bool, typer.Option(help="Fit probes for the label and for the identity of tokens.")
    ] = True,
    probe_prompts: Annotated[
        int, typer.Option(min=8, help="Maximum number of prompts for the label's probe.")
    ] = 2000,
    seed: Annotated[
        int, typer.Option(min=0, help="Seed for drawing and splitting the prompts.")
    ] = 0,
    note: Note = "",
    truncate: Truncate = False,
    device: Device = "auto",
    dtype: DtypeOption = "float32",
    attention: AttentionOption = "sdpa",
    memory: MemoryOption = "auto",
    json: Json = False,
) -> None:
    """Study how information evolves through the layers of a model."""

    def experiment() -> Any:
        import re

        from neuroscope.studies.layers.experiment import layers_experiment

        return layers_experiment(
            re.sub(r"[^\w.-]+", "-", file.stem).strip("-.") or "layers",
            model,
            {"file": str(file), "text_column": text_column},
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

    run_study("layers", experiment, json=json)
