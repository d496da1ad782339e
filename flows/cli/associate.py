"""The command `neuroscope associate`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from flows.cli.app import app
from flows.cli.options import MODEL_NAMES, Json, NoRecord, completed
from flows.cli.study import kept, run_study
from flows.signals import interruptible
from neuroscope.options import DEVICES, Attention, Dtype, Memory, StudySite, choices

_FROM_FILE = "[default: from the file]"


@app.command()
@interruptible(kept)
def associate(
    file: Annotated[
        Path, typer.Argument(help="Experiment file (YAML) with templates, roles and groups.")
    ],
    models: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            help=f"{MODEL_NAMES} Repeatable. {_FROM_FILE}",
            autocompletion=completed("minilm"),
        ),
    ] = None,
    site: Annotated[
        str | None,
        typer.Option(
            help=f"Component to read: {', '.join(choices(StudySite))}. {_FROM_FILE}",
            autocompletion=completed(*choices(StudySite)),
        ),
    ] = None,
    layers: Annotated[
        str | None,
        typer.Option(help=f"Layers to read: all, 3, 0-5, 2,4 or -1 (the last). {_FROM_FILE}"),
    ] = None,
    note: Annotated[
        str | None, typer.Option(help=f"Description of the MLflow run. {_FROM_FILE}")
    ] = None,
    device: Annotated[str | None, typer.Option(help=f"Device: {DEVICES}. {_FROM_FILE}")] = None,
    dtype: Annotated[
        Dtype | None,
        typer.Option(help=f"Number format of the forward pass. {_FROM_FILE}"),
    ] = None,
    attention: Annotated[
        Attention | None, typer.Option(help=f"Attention implementation. {_FROM_FILE}")
    ] = None,
    memory: Annotated[
        Memory | None,
        typer.Option(
            help="Placement of weights: resident (in memory), stream (on disk), auto (by size)."
            f" {_FROM_FILE}"
        ),
    ] = None,
    truncate: Annotated[
        bool | None,
        typer.Option(
            "--truncate/--no-truncate",
            help=f"Truncate prompts at the model's limit. {_FROM_FILE}",
        ),
    ] = None,
    no_record: NoRecord = False,
    json: Json = False,
) -> None:
    """Measure which roles a model brings close to which groups, against control words."""

    from neuroscope.experiment_files import located

    given = {
        "models": models,
        "site": site,
        "layers": layers,
        "note": note,
        "device": device,
        "dtype": dtype,
        "attention": attention,
        "memory": memory,
        "truncate": truncate,
    }
    settings = {name: value for name, value in given.items() if value is not None}

    def experiment() -> Any:
        from neuroscope.studies.association.experiment import association_experiment

        return association_experiment(file, **settings)

    with located(file, settings):
        run_study("association", experiment, record=not no_record, json=json)
