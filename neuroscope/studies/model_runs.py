"""MLflow runs of an experiment, one per model: the models, their runs and shared records."""

import datetime
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from neuroscope.experiment import Fingerprints, ModelsExperiment
from neuroscope.extraction.checkpoints import Checkpoint
from neuroscope.extraction.models import Model, load_model
from neuroscope.labels import model_label
from neuroscope.options import Pool, TokenRule
from neuroscope.reporting.run import Run
from neuroscope.reporting.tracking import Tracker
from neuroscope.sites import Site, resolve_sites
from neuroscope.studies.models import find_model
from neuroscope.studies.run_folder import RunFolder
from neuroscope.studies.steps import Steps
from neuroscope.studies.store.spec import ExtractionSpec
from neuroscope.studies.study import Result

E = TypeVar("E", bound=ModelsExperiment)
R = TypeVar("R", bound=Result)
X = TypeVar("X")

_NOT_PARAMS = {"schema", "kind", "name", "note", "models", "prompts", "published", "fingerprints"}
"""Keys of an experiment that are recorded elsewhere or do not hold a single value."""


@dataclass(frozen=True)
class Subject:
    """Model under study, with the sites that are read in it."""

    checkpoint: Checkpoint
    sites: tuple[Site, ...]

    @property
    def label(self) -> str:
        """Display name of the model."""
        return model_label(self.checkpoint.name)

    @property
    def layers(self) -> tuple[int, ...]:
        """Layers of the sites, in order."""
        return tuple(site.layer for site in self.sites)


def subjects_of(experiment: ModelsExperiment) -> list[Subject]:
    """Return each model of an experiment with its sites, without loading any model.

    Raises:
        ModelError, SiteError: a model or a layer does not exist.
    """
    return [
        Subject(
            checkpoint,
            tuple(resolve_sites(experiment.site, experiment.layers, checkpoint.layer_count)),
        )
        for checkpoint in map(find_model, experiment.models)
    ]


def extraction_spec(
    experiment: ModelsExperiment,
    subject: Subject,
    *,
    pool: Pool = "mean",
    token_rule: TokenRule = "content",
) -> ExtractionSpec:
    """Return what an experiment extracts from one model."""
    return ExtractionSpec(
        checkpoint=subject.checkpoint,
        prompts=experiment.prompt_set,
        sites=subject.sites,
        pool=pool,
        token_rule=token_rule,
        truncate=experiment.truncate,
        dtype=experiment.dtype,
        attention=experiment.attention,
    )


def model_loader(experiment: ModelsExperiment, subject: Subject) -> Callable[[], Model]:
    """Return a function that loads the model of a subject when it is first called."""

    @cache
    def load() -> Model:
        return load_model(
            subject.checkpoint,
            device=experiment.device,
            dtype=experiment.dtype,
            attention=experiment.attention,
            memory=experiment.memory,
        )

    return load


def study_models(
    experiment: E,
    subjects: Sequence[Subject],
    tracker: Tracker,
    steps: Steps,
    *,
    extract: Callable[[E, Subject], X],
    study: Callable[[Subject, X, Run], R],
) -> list[R]:
    """Study the models of an experiment one by one, each in an MLflow run.

    Args:
        experiment: experiment to run.
        subjects: its models.
        tracker: open tracker that records the runs, and one more with the rows of several models.
        steps: steps to which one extraction per model is submitted.
        extract: function that stores what is read of a model.
        study: function that studies a model, given what `extract` returned and the open run.

    Returns:
        One result per model, in the order of the experiment.
    """
    group = f"{experiment.name} {datetime.datetime.now():%Y-%m-%d %H:%M:%S}"
    extractions = [
        steps.submit(f"extract {subject.label}", extract, experiment, subject, loads_model=True)
        for subject in subjects
    ]
    results = []
    for subject, extraction in zip(subjects, extractions, strict=True):
        with _model_run(tracker, experiment, subject, group) as run:
            results.append(study(subject, steps.wait(extraction), run))
    if len(results) > 1:
        _record_overview(tracker, experiment, group, results)
    return results


def record_files(
    run: Run, steps: Steps, label: str, write: Callable[..., None], *arguments: Any
) -> None:
    """Write the files of a run in a step of its own, and record them.

    Args:
        run: open run.
        steps: steps to which the writing is submitted.
        label: name of the model in the name of the step.
        write: function that is called with the arguments, the links of the run, and the folder
            that gets the files.
        arguments: first arguments of `write`.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        steps.wait(steps.submit(f"report {label}", write, *arguments, run.links, path))
        run.log_folder(path)


@contextmanager
def _model_run(
    tracker: Tracker, experiment: ModelsExperiment, subject: Subject, group: str
) -> Iterator[Run]:
    """Open the MLflow run of one model, with its tags, params and dataset."""
    prompts = experiment.prompt_set
    tags = {
        "neuroscope.model": subject.checkpoint.name,
        "neuroscope.model_sha": subject.checkpoint.fingerprint,
        "neuroscope.prompts_digest": prompts.digest,
        "neuroscope.site": experiment.component,
        "neuroscope.experiment": experiment.name,
    }
    name = f"{subject.label} {experiment.name}"
    with tracker.run(experiment.kind, name, group=group, tags=tags, note=experiment.note) as run:
        run.log_params(run_params(experiment, subject))
        run.log_prompts(prompts, experiment.name, "tables/prompts.csv")
        yield run


def _record_overview(
    tracker: Tracker, experiment: ModelsExperiment, group: str, results: Sequence[Result]
) -> None:
    """Record another run in the group, with one table of all models."""
    import pandas as pd

    frames = [result.to_frame().assign(model=result.model) for result in results]
    name = f"{len(frames)} models {experiment.name}"
    with (
        tracker.run(experiment.kind, name, group=group, note=experiment.note) as run,
        tempfile.TemporaryDirectory() as folder,
    ):
        RunFolder(Path(folder)).table(experiment.kind, pd.concat(frames))
        run.log_folder(Path(folder))


def run_params(experiment: ModelsExperiment, subject: Subject) -> dict[str, object]:
    """Return the settings of one model's run as flat params."""
    settings = {
        key: value for key, value in experiment.document().items() if key not in _NOT_PARAMS
    }
    return settings | {
        "model": subject.checkpoint.name,
        "layers": ",".join(map(str, subject.layers)),
        "prompts": len(experiment.prompt_set),
    }


def fingerprints_of(experiment: ModelsExperiment, subject: Subject) -> Fingerprints:
    """Return the digests of the model and the prompts that a run reads."""
    return Fingerprints(
        models={subject.checkpoint.pinned_name: subject.checkpoint.fingerprint},
        prompts=experiment.prompt_set.digest,
    )


def changes_since(experiment: ModelsExperiment, subject: Subject) -> tuple[str, ...]:
    """Return sentences on what has changed since the run of which an experiment is a copy."""
    recorded = experiment.fingerprints
    if recorded is None:
        return ()
    checkpoint = subject.checkpoint
    notes = []
    if recorded.models.get(checkpoint.name, checkpoint.fingerprint) != checkpoint.fingerprint:
        notes.append(f"the files of model '{subject.label}' have changed since the recorded run")
    if recorded.prompts and recorded.prompts != experiment.prompt_set.digest:
        notes.append("the prompts have changed since the recorded run")
    return tuple(notes)
