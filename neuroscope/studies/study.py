"""Definition of a study, and the table of all studies."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Protocol, TypeVar, overload

from neuroscope.errors import ExperimentError
from neuroscope.experiment import Experiment, make_experiment, yaml_spelling
from neuroscope.experiment_files import ExperimentFile
from neuroscope.labels import counted, distinct_labels, short_repr
from neuroscope.progress import Progress
from neuroscope.reporting.page import NamedFigure, table_html
from neuroscope.reporting.tables import Table
from neuroscope.reporting.tracking import Tracker

if TYPE_CHECKING:
    import pandas as pd

STUDIES: Mapping[str, str] = {
    "compare": "neuroscope.studies.compare.study",
    "layers": "neuroscope.studies.layers.study",
    "drift": "neuroscope.studies.drift.study",
    "atlas": "neuroscope.studies.atlas.study",
    "association": "neuroscope.studies.association.study",
}
"""Kind of study -> module that contains its `STUDY`, imported when it is first used."""


OVERVIEW_FIGURE = "plots/models_by_layer.png"
"""Artifact of an overview in which the models of an experiment are overlaid."""


class Result(Protocol):
    """Result of a study in one model."""

    kind: ClassVar[str]
    """Kind of study, a key of `STUDIES`."""

    @property
    def model(self) -> str:
        """Name of the model, as given."""
        ...

    @property
    def headline(self) -> str:
        """Sentence that says what was found; may be empty."""
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

    def _repr_html_(self) -> str:
        """Return what a notebook shows."""
        ...


E = TypeVar("E", bound=Experiment)
R = TypeVar("R", bound=Result)


class Shown:
    """Base class of the results of all studies, which shows them in notebooks."""

    def figures(self: Result) -> dict[str, Any]:
        """Return the figures by layer as matplotlib figures, by the names of their files."""
        return {name: figure for name, _, figure in study_of(self.kind).figures(self)}

    def _repr_html_(self: Result) -> str:
        """Return the summary table with the headline and the notes, for notebooks."""
        table = study_of(self.kind).summary(self)
        return table_html(replace(table, notes=[*table.notes, *self.notes]))


@dataclass(frozen=True)
class Findings:
    """What differs between the models of an experiment, of which the first is the reference."""

    headline: str
    """Sentence on the largest difference."""
    tables: Sequence[Table]
    """Differences of each other model from the reference."""
    notes: Sequence[str] = ()
    """Sentences on what limits the meaning of the differences."""
    run_id: str | None = None
    """Id of the MLflow run with the overview; None if it was not recorded."""

    def __repr__(self) -> str:
        return short_repr(self, f"{counted(len(self.tables), 'table')}: {self.headline}")

    def _repr_html_(self) -> str:
        """Return the tables, between the headline and the notes, for notebooks."""
        headline, notes = Table(self.headline, [], []), Table("", [], [], self.notes)
        return "\n".join(map(table_html, (headline, *self.tables, notes)))


class Results(Sequence[R]):
    """Results of a study, one per model, and what differs between the models."""

    def __init__(self, results: Sequence[R], overview: Findings | None = None):
        self._results = tuple(results)
        self.overview = overview
        """What differs between several models; None for a single model."""

    def __len__(self) -> int:
        return len(self._results)

    @overload
    def __getitem__(self, index: int) -> R: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[R]: ...

    def __getitem__(self, index: int | slice) -> R | Sequence[R]:
        return self._results[index]

    def __repr__(self) -> str:
        models = ", ".join(distinct_labels([result.model for result in self]))
        overview = f"; {self.overview.headline}" if self.overview else ""
        return short_repr(self, f"{counted(len(self), 'result')}: {models}{overview}")

    def _repr_html_(self) -> str:
        """Return the table of each model, and what differs between them, for notebooks."""
        parts: list[Result | Findings] = [*self, *filter(None, [self.overview])]
        return "\n".join(part._repr_html_() for part in parts)

    @property
    def run_ids(self) -> list[str]:
        """Ids of the runs that were recorded, that of the overview last."""
        ids = [result.run_id for result in (*self._results, self.overview) if result]
        return [id for id in ids if id]


@dataclass(frozen=True)
class Study(Generic[E, R]):
    """Kind of study: its experiment, how it is checked and run, and its summary table."""

    experiment: type[E]
    """Class of the experiment, which validates the keys of a YAML file."""
    check: Callable[[E], None]
    """Function that raises NeuroscopeError for faults that can be found before work starts."""
    run: Callable[[E, Tracker | None, Executor, Progress], Results[R]]
    """Function that runs the steps and records each result, if there is a tracker."""
    summary: Callable[[R], Table]
    """Function that returns the table shown first in the terminal, Markdown and HTML."""
    figures: Callable[[R], Iterable[NamedFigure]]
    """Function that yields the figures that need no activations."""


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
    return experiment_of(ExperimentFile.read(path))


def experiment_of(file: ExperimentFile) -> Experiment:
    """Return the experiment that a file describes.

    Raises:
        ExperimentError: the file contains an unknown key or an invalid value; the message names
            the file and the line.
    """
    kind = file.data.get("kind")
    if kind is None:
        raise ExperimentError(
            f"{file.path}: key 'kind' is missing; the kinds are {', '.join(STUDIES)}"
        )
    try:
        study = study_of(str(kind))
    except ExperimentError as error:
        raise ExperimentError(f"{file.where(('kind',))}{error}") from error
    try:
        experiment: Experiment = make_experiment(
            study.experiment, file.data, where=file.where, folder=file.path.parent
        )
    except ExperimentError as error:
        raise error.on(yaml_spelling) from error
    return experiment


def results_document(
    results: Results[Any], tracker: Tracker | None = None, *, port: int = 5000
) -> dict[str, Any]:
    """Return the JSON document of a study: one entry per model in the list `runs`.

    Args:
        results: results of one experiment.
        tracker: tracker that recorded them; it provides `address` and `report` of each entry.
        port: port at which the embedded database is served.

    Returns:
        Document with the keys `runs` and `overview`, which is None for a single model.
    """

    def pages(run_id: str | None) -> dict[str, str | None]:
        if tracker is None or run_id is None:
            return {"address": None, "report": None}
        address = tracker.address(run_id, port=port)
        return {"address": address, "report": tracker.report_location(run_id)}

    document: dict[str, Any] = {
        "runs": [result.to_dict() | pages(result.run_id) for result in results],
        "overview": None,
    }
    if overview := results.overview:
        entry = {"run_id": overview.run_id, "headline": overview.headline}
        document["overview"] = entry | pages(overview.run_id)
    return document
