"""The command `neuroscope run`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows.cli.app import app
from flows.cli.options import Json
from flows.cli.study import RUNS_CLOSED
from flows.signals import interruptible, watched

if TYPE_CHECKING:
    from neuroscope.experiment import Experiment


@app.command()
@interruptible(RUNS_CLOSED)
def run(
    file: Annotated[
        Path, typer.Argument(help="Experiment file, such as experiments/engineer.yaml.")
    ],
    json: Json = False,
) -> None:
    """Run an experiment file as a Prefect flow."""
    from neuroscope.errors import NeuroscopeError
    from neuroscope.experiment import key_spelling
    from neuroscope.studies.study import load_experiment

    experiment = load_experiment(file)
    try:
        _run(experiment, file, json=json)
    except NeuroscopeError as error:
        raise error.on(key_spelling(type(experiment))) from error


def _run(experiment: "Experiment", file: Path, *, json: bool) -> None:
    from flows.environment import check_prefect
    from neuroscope.reporting.tracking import Tracker
    from neuroscope.reporting.tracking_server import check_tracking
    from neuroscope.studies.study import study_of

    check_prefect()
    check_tracking()
    study = study_of(experiment.kind)
    study.check(experiment)  # reports a missing model, layer or file before Prefect starts
    from flows.display import progress_bar, show_results

    with progress_bar() as progress:
        progress("start Prefect", 0, 1)
        from flows.study_flow import run_as_flow

        results = run_as_flow(experiment, file, watched(progress))
    show_results(study, results, Tracker.open(), json=json)
