"""Shared code of the study commands: run a study without Prefect and show its results."""

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from neuroscope.experiment import Experiment

RUNS_CLOSED = "unfinished MLflow runs are marked as killed"
"""Message on what remains of an interrupted study."""


def run_study(kind: str, experiment: "Callable[[], Experiment]", *, json: bool) -> None:
    """Run a study in this process and a second one, which loads the model; show the results.

    Args:
        kind: kind of study.
        experiment: function that returns the experiment to run.
        json: whether to print one JSON document instead of tables.
    """
    from flows.startup import quick_start

    with quick_start() as executor:
        settings = experiment()
        from flows.display import progress_bar, show_log, show_results
        from flows.signals import deferred, watched

        with show_log(), progress_bar() as progress:
            progress("starting", 0, 1)
            from neuroscope.reporting.tracking import Tracker
            from neuroscope.studies.study import study_of

            study = study_of(kind)
            study.check(settings)  # before MLflow's database is created
            with deferred():
                tracker = Tracker.open()
                results = study.run(settings, tracker, executor, watched(progress))
    show_results(study, results, tracker, json=json)
