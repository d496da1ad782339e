"""The command `neuroscope compare`."""

import os
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
    Name,
    NoRecord,
    Note,
    Site,
    TextColumn,
    Truncate,
)
from flows.cli.study import kept, run_study
from flows.signals import interruptible
from neuroscope.errors import ExperimentError, Option


@app.command()
@interruptible(kept)
def compare(
    prompts: Annotated[list[str] | None, typer.Argument(help="Two or more prompts.")] = None,
    template: Annotated[
        str, typer.Option(help="Text with {} where the fills go; replaces PROMPTS.")
    ] = "",
    fills: Annotated[
        list[str] | None, typer.Option("--fill", help="Word that replaces {}. Repeatable.")
    ] = None,
    file: Annotated[
        Path | None,
        typer.Option(
            help="File of prompts: .txt, .csv, .tsv, .jsonl or .parquet; replaces PROMPTS."
        ),
    ] = None,
    text_column: TextColumn = "text",
    models: ModelNames = ["minilm"],  # noqa: B006 - never modified
    site: Site = "resid_post",
    layers: Layers = "all",
    plot_layers: Annotated[
        str, typer.Option(help="Layers drawn neuron by neuron: middle, or as in --layers.")
    ] = "middle",
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
    """Compare prompts with each other, at every layer of a model."""

    def experiment() -> Any:
        from neuroscope.studies.compare.experiment import compare_experiment

        _check_no_file(prompts or [])
        return compare_experiment(
            models,
            {
                "texts": prompts or [],
                "template": template,
                "fills": fills or [],
                "file": str(file or ""),
                "text_column": text_column,
            },
            name=name,
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

    run_study("compare", experiment, record=not no_record, json=json)


def _check_no_file(prompts: list[str]) -> None:
    """Raise ExperimentError if a prompt is the path of a file."""
    for text in prompts:
        if Path(text).suffix and os.path.isfile(text):
            raise ExperimentError(
                f"'{text}' is a file, not a prompt",
                options=[Option("file", text, "compare the prompts in it")],
            )
