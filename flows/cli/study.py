"""Shared code of the study commands: run a study without Prefect and show its results."""

import contextlib
import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from flows.signals import deferred, watched

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from neuroscope.experiment import Experiment
    from neuroscope.progress import Progress
    from neuroscope.reporting.recorded import RunStatus
    from neuroscope.studies.study import Results

_STORED = "what was extracted stays in the store"
_NOTHING = "nothing new was extracted"


def run_study(
    kind: str,
    experiment: "Callable[[], Experiment]",
    *,
    record: bool,
    json: bool,
    single: bool = False,
    after: "Callable[[Any, Executor, Progress], None] | None" = None,
) -> "Results[Any]":
    """Run a study in this process and a second one, which loads the model; show the results.

    Args:
        kind: kind of study.
        experiment: function that returns the experiment to run.
        record: whether to record the results in MLflow.
        json: whether to print one JSON document instead of tables.
        single: whether that document is the entry of the only run, not a list of runs.
        after: function of the experiment that does further work before the results are shown.
    """
    from flows.startup import quick_start

    with quick_start() as executor:
        settings = experiment()
        from flows.display import show_log, show_results
        from flows.progress_bars import progress_bar

        with show_log(), progress_bar() as progress:
            progress("starting", 0, 1)
            from neuroscope.reporting.tracking import Tracker
            from neuroscope.studies.study import study_of

            study = study_of(kind)
            study.check(settings)  # before MLflow's database is created
            with deferred():
                tracker = Tracker.open() if record else None
                results = study.run(settings, tracker, executor, watched(progress))
                if after:
                    after(settings, executor, watched(progress))
    show_results(study, results, tracker, json=json, single=single)
    return results


def kept() -> str:
    """Return what remains of a study that was interrupted in this process."""
    stored = _NOTHING
    with contextlib.suppress(BaseException):  # a second signal, or an import that was interrupted
        stored = _STORED if _has_extracted() else _NOTHING
        if statuses := _statuses_of_own_runs():
            runs = ", ".join(f"{number} {status.lower()}" for status, number in statuses.items())
            return f"MLflow runs: {runs}; {stored}"
    return stored


def _has_extracted() -> bool:
    """Return whether the store has files of activations from after the start of this process."""
    import psutil

    from neuroscope.storage.activation_store import store_root
    from neuroscope.storage.parts import result_files

    start = psutil.Process().create_time()
    return any(file.stat().st_mtime >= start for file in result_files(store_root()))


def _statuses_of_own_runs() -> Mapping[str, int]:
    """Return the statuses of the runs of this process, each with the number of runs."""
    if "mlflow" not in sys.modules:  # so no run was opened
        return {}
    from neuroscope.reporting.run_owner import this_process
    from neuroscope.reporting.tracking import PROCESS_TAG, Tracker
    from neuroscope.studies.study import STUDIES

    tracker, own = Tracker.connect(), {PROCESS_TAG: this_process()}
    statuses: tuple[RunStatus, ...] = ("FINISHED", "KILLED", "FAILED", "RUNNING")
    return {
        status: number
        for status in statuses
        if (number := sum(len(tracker.find_runs(kind, own, status=[status])) for kind in STUDIES))
    }
