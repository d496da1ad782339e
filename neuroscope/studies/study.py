"""Definition of a study, and the table of all studies."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from neuroscope.errors import ExperimentError
from neuroscope.experiment import Experiment, make_experiment
from neuroscope.experiment_files import ExperimentFile
from neuroscope.progress import Progress
from neuroscope.reporting.tables import Table
from neuroscope.reporting.tracking import Tracker

if TYPE_CHECKING:
    import pandas as pd

STUDIES: Mapping[str, str] = {
    "compare": "neuroscope.studies.compare.study",
    "layers": "neuroscope.studies.layers.study",
}
"""Kind of study -> module that contains its `STUDY`, imported when it is first used."""


class Result(Protocol):
    """Result of a study in one model."""

    @property
    def model(self) -> str:
        """Name of the model, as given."""
        ...

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences on what limits the meaning of the values."""
        ...

    @property
    def run_id(self) -> str | None:
        """Id of the MLflow run; None if the result was not recorded."""
        ...

    def to_frame(self) -> "pd.DataFrame":
        """Return the tidy rows as a data frame."""
        ...

    def to_dict(self) -> dict[str, Any]:
        """Return plain values that can be written as JSON, apart from NaN."""
        ...


E = TypeVar("E", bound=Experiment)
R = TypeVar("R", bound=Result)


@dataclass(frozen=True)
class Study(Generic[E, R]):
    """Kind of study: its experiment, how it is checked and run, and its summary table."""

    experiment: type[E]
    """Class of the experiment, which validates the keys of a YAML file."""
    check: Callable[[E], None]
    """Function that raises NeuroscopeError for faults that can be found before work starts."""
    run: Callable[[E, Tracker, Executor, Progress], Sequence[R]]
    """Function that runs the steps and records each result; see `studies.steps`."""
    summary: Callable[[E, R], Table]
    """Function that returns the table shown first in the terminal, Markdown and HTML."""
    main_figures: Sequence[str] = ()
    """Artifacts of a run that show the result best; Prefect shows the first that the run has."""


def study_of(kind: str) -> Study[Any, Any]:
    """Return the study of a kind, such as `compare`.

    Raises:
        ExperimentError: there is no such kind.
    """
    if kind not in STUDIES:
        near = get_close_matches(kind, STUDIES, n=1)
        hint = f" (did you mean '{near[0]}'?)" if near else ""
        raise ExperimentError(f"unknown kind '{kind}'{hint}; the kinds are {', '.join(STUDIES)}")
    study: Study[Any, Any] = import_module(STUDIES[kind]).STUDY
    return study


def load_experiment(path: str | Path) -> Experiment:
    """Read an experiment from a YAML file.

    Raises:
        ExperimentError: the file is missing, is not YAML, or contains an unknown key or an invalid
            value; the message names the file and the line.
    """
    file = ExperimentFile.read(path)
    kind = file.data.get("kind")
    if kind is None:
        raise ExperimentError(
            f"{file.path}: key 'kind' is missing; the kinds are {', '.join(STUDIES)}"
        )
    try:
        study = study_of(str(kind))
    except ExperimentError as error:
        raise ExperimentError(f"{file.where(('kind',))}{error}") from error
    experiment: Experiment = make_experiment(
        study.experiment, file.data, where=file.where, folder=file.path.parent
    )
    return experiment


def results_document(results: Sequence[Result], tracker: Tracker | None = None) -> dict[str, Any]:
    """Return the JSON document of a study: one entry per model in the list `runs`.

    Args:
        results: results of one experiment.
        tracker: tracker that recorded them; it provides `address` and `report` of each entry.
    """
    return {"runs": [_entry(result, tracker) for result in results]}


def _entry(result: Result, tracker: Tracker | None) -> dict[str, Any]:
    """Return the values of a result with its address in MLflow and that of its report."""
    addresses: dict[str, str | None] = {"address": None, "report": None}
    if tracker and result.run_id:
        addresses["address"] = tracker.address(result.run_id)
        addresses["report"] = tracker.report_location(result.run_id)
    return result.to_dict() | addresses
