"""The command `neuroscope pairs`."""

from pathlib import Path
from typing import Annotated

import typer

from flows.cli.app import app
from flows.cli.options import (
    MODEL_NAMES,
    Device,
    DtypeOption,
    Json,
    Name,
    NoRecord,
    Note,
    Truncate,
    completed,
)
from flows.signals import deferred, interruptible, watched

_KEPT = "what was recorded in MLflow stays there"


@app.command()
@interruptible(_KEPT)
def pairs(
    file: Annotated[
        Path, typer.Argument(help="File of pairs: .csv, .tsv, .jsonl or .parquet, a pair per row.")
    ],
    models: Annotated[
        list[str],
        typer.Option(
            "--model",
            help=f"Model with its language-model head. {MODEL_NAMES} Repeatable.",
            autocompletion=completed(),
        ),
    ],
    a_column: Annotated[str, typer.Option(help="Column of the first prompts.")] = "prompt_a",
    b_column: Annotated[str, typer.Option(help="Column of the second prompts.")] = "prompt_b",
    seed: Annotated[int, typer.Option(min=0, help="Seed of the control pairs.")] = 0,
    name: Name = "",
    note: Note = "",
    truncate: Truncate = False,
    device: Device = "auto",
    dtype: DtypeOption = "float32",
    no_record: NoRecord = False,
    json: Json = False,
) -> None:
    """Score pairs of prompts: how often the first is likelier, beside control pairs."""
    from flows.display import show_log, show_pairs
    from flows.progress_bars import progress_bar
    from neuroscope.files import absolute
    from neuroscope.studies.association.pairs_settings import PairsSettings

    settings = PairsSettings(
        absolute(file), a_column, b_column, name, note, seed, truncate, device, dtype
    )
    read = settings.read()  # before the slow imports
    with show_log(), progress_bar() as progress:
        progress("starting", 0, 1)
        from neuroscope.reporting.tracking import Tracker
        from neuroscope.studies.association.pairs import check_models, run_pairs

        checked = check_models(models)  # before MLflow's database is created
        with deferred():
            tracker = None if no_record else Tracker.open()
            results = run_pairs(checked, read, settings, tracker, watched(progress))
    show_pairs(results, tracker, json=json)
