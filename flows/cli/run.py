"""The command `neuroscope run`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows.cli.app import app
from flows.cli.options import Json
from flows.cli.study import kept, run_study
from flows.signals import interruptible, watched

if TYPE_CHECKING:
    from neuroscope.experiment import Experiment


@app.command()
@interruptible(kept)
def run(
    file: Annotated[
        Path, typer.Argument(help="Experiment file, such as experiments/cat_dog.yaml.")
    ],
    no_record: Annotated[
        bool, typer.Option("--no-record", help="Record nothing in MLflow and Prefect.")
    ] = False,
    json: Json = False,
) -> None:
    """Run an experiment file as a Prefect flow."""
    from neuroscope.errors import NeuroscopeError
    from neuroscope.experiment import key_spelling
    from neuroscope.experiment_files import ExperimentFile
    from neuroscope.studies.study import experiment_of

    document = ExperimentFile.read(file)
    experiment = experiment_of(document)
    try:
        if no_record:
            run_study(experiment.kind, lambda: experiment, record=False, json=json)
        else:
            _run(experiment, file, json=json)
    except NeuroscopeError as error:
        where = document.where(error.keys) if error.keys else ""
        message = error.message(key_spelling(type(experiment)))
        raise type(error)(where + message) from error


def _run(experiment: "Experiment", file: Path, *, json: bool) -> None:
    from flows.environment import check_prefect
    from neuroscope.reporting.mlflow_client import check_tracking
    from neuroscope.reporting.tracking import Tracker
    from neuroscope.studies.study import study_of

    check_prefect()
    check_tracking()
    study = study_of(experiment.kind)
    study.check(experiment)  # reports a missing model, layer or file before Prefect starts
    from flows.display import show_results
    from flows.progress_bars import progress_bar

    with progress_bar() as progress:
        progress("start Prefect", 0, 1)
        from flows.study_flow import run_as_flow

        results = run_as_flow(experiment, file, watched(progress))
    show_results(study, results, Tracker.open(), json=json)
