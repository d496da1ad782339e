"""MLflow runs of an experiment: one per model, and an overview of several models."""

import datetime
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

from neuroscope.experiment import ModelsExperiment
from neuroscope.reporting.logged_models import FINGERPRINT_TAG, ModelEntry
from neuroscope.reporting.run import Point, Run
from neuroscope.reporting.run_reader import PROMPTS_TAG, REPORT
from neuroscope.reporting.tracking import Tracker
from neuroscope.studies.overview import Difference, Overview, write_overview
from neuroscope.studies.steps import Pending, Steps
from neuroscope.studies.study import Findings, Result, Results
from neuroscope.studies.subjects import Subject

E = TypeVar("E", bound=ModelsExperiment)
X = TypeVar("X")
R = TypeVar("R", bound=Result)

_NOT_PARAMS = {
    *("schema", "kind", "name", "note", "models", "prompts", "published", "fingerprints"),
    *("templates", "roles", "groups", "control_roles", "control_words", "statements"),
}
"""Keys of an experiment that are recorded elsewhere or do not hold a single value."""
_USUAL = {"resid_post", "float32"}
"""Settings that are not part of a run's name."""


@dataclass(frozen=True)
class ModelStudy(Generic[E, X, R]):
    """Functions with which a study treats one model, and compares several.

    `write` and `overview` run as steps: their arguments are paths and immutable values.
    """

    extract: Callable[[E, Subject], X]
    """Function that stores what is read of a model."""
    measure: Callable[[Subject, X], R]
    """Function that submits the steps that study a model, given what `extract` returned."""
    write: Callable[[E, Subject, X, R, Mapping[str, str], Path], None]
    """Function that writes the files of a model's run to a folder; it gets the run's links."""
    points: Callable[[R], list[Point]]
    """Function that returns the metrics of a model's run."""
    overview: Callable[[E, Sequence[Subject], Sequence[R]], Overview]
    """Function that returns what differs between two or more models."""
    difference: Callable[[Mapping[Subject, R]], Difference]
    """Function that returns how much the second of two models differs from the first."""


def step_count(
    subjects: Sequence[Subject], tracker: Tracker | None, measures: Callable[[Subject], int]
) -> int:
    """Return the number of steps of a study.

    Args:
        subjects: models that are studied.
        tracker: tracker that records the runs, if any.
        measures: function that returns how many steps `ModelStudy.measure` submits for a model.
    """
    measured = sum(1 + measures(subject) for subject in subjects)  # and an extraction
    reports = len(subjects) + (len(subjects) > 1) if tracker else 0
    return measured + reports


def study_models(
    experiment: E,
    subjects: Sequence[Subject],
    tracker: Tracker | None,
    steps: Steps,
    study: ModelStudy[E, X, R],
) -> Results[R]:
    """Study the models of an experiment one by one, each in an MLflow run.

    Args:
        experiment: experiment to run.
        subjects: its models.
        tracker: open tracker that records the runs; None to record nothing.
        steps: steps to which the work is submitted.
        study: functions of the study.

    Returns:
        One result per model, in the order of the experiment, and the overview of several.
    """
    extractions = [
        steps.submit(
            f"extract {subject.label}", study.extract, experiment, subject, loads_model=True
        )
        for subject in subjects
    ]
    results: list[R] = []
    if tracker is None:
        for subject, extraction in zip(subjects, extractions, strict=True):
            results.append(study.measure(subject, steps.wait(extraction)))
        return Results(results, _overview(experiment, subjects, results, study))
    recording = Recording(tracker, experiment, datetime.datetime.now())
    for subject, extraction in zip(subjects, extractions, strict=True):
        reference = {subjects[0]: results[0]} if results else {}
        results.append(_study_model(recording, subject, extraction, steps, study, reference))
    if len(results) == 1:
        return Results(results)
    with recording.run(subjects) as run:
        with run_files(run) as path:
            links = run.links | recording.links(subjects, results)
            arguments = (study.overview, experiment, subjects, results, links, path)
            findings = steps.wait(steps.submit("report overview", write_overview, *arguments))
        run.describe(findings.headline, REPORT)
    return Results(results, replace(findings, run_id=run.id))


def _study_model(
    recording: "Recording",
    subject: Subject,
    extraction: Pending[X],
    steps: Steps,
    study: ModelStudy[Any, X, R],
    reference: Mapping[Subject, R],
) -> R:
    """Study one model and record its run.

    Args:
        recording: recording of the runs.
        subject: model to study.
        extraction: what its extraction will return.
        steps: steps to which the work is submitted.
        study: functions of the study.
        reference: first model with its result; empty if the model is the first.
    """
    with recording.run([subject]) as run:
        extracted = steps.wait(extraction)
        result = study.measure(subject, extracted)
        with run_files(run) as path:
            arguments = (recording.experiment, subject, extracted, result, run.links, path)
            steps.wait(steps.submit(f"report {subject.label}", study.write, *arguments))
        points, sentence = study.points(result), result.headline
        if reference:
            difference = study.difference({**reference, subject: result})
            points = [*points, *difference.points]
            sentence = f"{sentence} {difference.sentence}".strip()
        run.log_points(points)
        run.describe(sentence, REPORT)
    recorded: R = replace(result, run_id=run.id)  # type: ignore[type-var]
    return recorded


def _overview(
    experiment: E, subjects: Sequence[Subject], results: Sequence[R], study: ModelStudy[E, X, R]
) -> Findings | None:
    """Return what differs between several models, without drawing figures."""
    return study.overview(experiment, subjects, results).findings if len(results) > 1 else None


@dataclass(frozen=True)
class Recording:
    """Recording of the runs of one experiment, which share a group and a date."""

    tracker: Tracker
    experiment: ModelsExperiment
    date: datetime.datetime

    @contextmanager
    def run(
        self,
        subjects: Sequence[Subject],
        *,
        name: str = "",
        tags: Mapping[str, str] | None = None,
    ) -> Iterator[Run]:
        """Open the run of one model or of several, with its settings and inputs.

        Args:
            subjects: models that the run reads; its own metrics are those of the last.
            name: beginning of the run's name; by default the model or the number of models.
            tags: tags beside the usual ones; by default those of one model, and none for an
                overview of several.
        """
        experiment = self.experiment
        with self.tracker.run(
            experiment.kind,
            self._name(name or self._models_name(subjects)),
            group=f"{experiment.name} {self.date:%Y-%m-%d %H:%M:%S}",
            source=f"{experiment.site} {experiment.kind}",
            tags=self._tags(subjects) if tags is None else {**self._tags([]), **tags},
            note=experiment.note,
        ) as run:
            run.log_params(run_params(experiment, subjects))
            run.log_prompts(experiment.prompt_set, prompts_label(experiment), "tables/prompts.csv")
            entries = [_entry(subject) for subject in subjects]
            run.log_models(entries, entries[-1] if tags is not None else None)
            yield run

    def links(self, subjects: Sequence[Subject], results: Sequence[Result]) -> dict[str, str]:
        """Return the addresses of the runs of models, and of the charts that overlay them."""
        runs: dict[str, str] = {}
        pages: dict[str, str] = {}
        for subject, result in zip(subjects, results, strict=True):
            pages |= self.tracker.links(result.run_id or "")
            if address := pages.pop("MLflow run", ""):
                runs[f"run of {subject.label}"] = address
        return runs | pages

    def _models_name(self, subjects: Sequence[Subject]) -> str:
        return f"{len(subjects)} models" if len(subjects) > 1 else short_name(subjects[0])

    def _name(self, model: str) -> str:
        """Return the name of a run: model, unusual settings, date, experiment.

        MLflow shows about 24 characters in its table and 18 in the legend of a chart.
        """
        settings = [self.experiment.component, self.experiment.dtype]
        unusual = [setting for setting in settings if setting not in _USUAL]
        return " ".join([model, *unusual, f"{self.date:%m-%d %H:%M}", self.experiment.name])

    def _tags(self, subjects: Sequence[Subject]) -> dict[str, str]:
        """Return the tags of a run; an overview has no metrics, and no tags to find it by."""
        experiment = self.experiment
        shared = {
            "neuroscope.site": experiment.component,
            "neuroscope.experiment": experiment.name,
        }
        if len(subjects) != 1:
            return shared
        checkpoint = subjects[0].checkpoint
        return shared | {
            "neuroscope.model": checkpoint.name,
            FINGERPRINT_TAG: checkpoint.fingerprint,
            PROMPTS_TAG: experiment.prompt_set.digest,
        }


def short_name(subject: Subject) -> str:
    """Return the label of a model; for a hub id, without the organisation."""
    is_hub_id = subject.label == subject.checkpoint.name
    return subject.label.rpartition("/")[2] if is_hub_id else subject.label


@contextmanager
def run_files(run: Run) -> Iterator[Path]:
    """Yield an empty folder, and record what the block has written into it."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)
        run.log_folder(Path(folder))


def _entry(subject: Subject) -> ModelEntry:
    """Return the entry of a model in MLflow."""
    checkpoint = subject.checkpoint
    params = {
        "model": checkpoint.pinned_name,
        "architecture": checkpoint.architecture.family,
        "layers": str(checkpoint.layer_count),
    }
    return ModelEntry(subject.label, checkpoint.fingerprint, params)


def prompts_label(experiment: ModelsExperiment) -> str:
    """Return the name of an experiment's prompts: that of their only file, or the experiment's."""
    files = [source.file for source in experiment.prompt_sources()]
    return Path(files[0]).stem if len(files) == 1 and files[0] else experiment.name


def run_params(experiment: ModelsExperiment, subjects: Sequence[Subject]) -> dict[str, Any]:
    """Return the settings of a run as flat params."""
    settings = {
        key: value for key, value in experiment.document().items() if key not in _NOT_PARAMS
    }
    layers = {",".join(map(str, subject.layers)) for subject in subjects}
    return settings | {
        "model": ", ".join(subject.label for subject in subjects),
        "model_name": ", ".join(subject.checkpoint.name for subject in subjects),
        "layers": layers.pop() if len(layers) == 1 else experiment.layers,
        "prompts": len(experiment.prompt_set),
    }
