"""Study that builds a database of neurons and the topics they respond to."""

import glob
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from neuroscope.extraction.models import Model, check_model
from neuroscope.files import absolute
from neuroscope.progress import Progress, silent
from neuroscope.prompt_files import PromptFile, write_prompts
from neuroscope.prompts import Prompts
from neuroscope.reporting.tracking import Tracker
from neuroscope.sites import resolve_sites
from neuroscope.storage.atlas_connection import writing_error
from neuroscope.storage.atlas_file import Atlas
from neuroscope.storage.atlas_writing import check_absent, move_to_new
from neuroscope.storage.locks import locked, locked_if_free
from neuroscope.studies.atlas.building import (
    AtlasFolder,
    build_database,
    count_shard,
    prepare,
)
from neuroscope.studies.atlas.experiment import AtlasExperiment, atlas_experiment
from neuroscope.studies.atlas.figures import atlas_figures
from neuroscope.studies.atlas.models import compare_models, difference
from neuroscope.studies.atlas.outputs import metric_points, write_outputs
from neuroscope.studies.atlas.result import AtlasResult
from neuroscope.studies.atlas.shards import Shard, shards_of
from neuroscope.studies.atlas.summary import atlas_result, summary_table
from neuroscope.studies.model_runs import ModelStudy, step_count, study_models
from neuroscope.studies.steps import InlineExecutor, Steps
from neuroscope.studies.store.spec import ExtractionSpec
from neuroscope.studies.study import Results, Study
from neuroscope.studies.subjects import (
    Subject,
    changes_since,
    extraction_spec,
    model_loader,
    subjects_of,
)

_ALIVE = "build"
"""Name of the lock that a process holds in its temporary folder."""


def build_atlas(
    model: Model,
    prompts: Prompts | str | Path,
    path: str | Path,
    *,
    topic: str = "topic",
    site: str = "mlp_act",
    layers: str | int | Sequence[int] = "all",
    pool: Literal["mean", "max"] = "mean",
    truncate: bool = False,
    progress: Progress = silent,
    **settings: Any,
) -> Atlas:
    """Build an atlas of a loaded model: a database of neurons and the topics they respond to.

    Only the database is stored, and nothing is recorded in MLflow.

    >>> with ns.build_atlas(model, "experiments/topics.csv", "topics.duckdb") as atlas:
    ...     atlas.neurons("sport", top=10)

    Args:
        model: model from `load_model`.
        prompts: prompts with labels, as a set or a file.
        path: file to write, which must not exist; it appears when it is complete.
        topic: label with the topics of a prompt.
        site: component whose neurons are described, with or without a layer.
        layers: layers to read if the site names none: `all`, `3`, `0-5`, `2,4` or `-1`.
        pool: pooling of a prompt's tokens into one value per neuron.
        truncate: whether to truncate prompts at the model's limit.
        progress: callback that receives the current step and how many steps are done.
        settings: other keys of an experiment of kind `atlas`, such as `separator`, `source`,
            `least_prompts`, `min_auroc` or `seed`.

    Returns:
        The atlas, open for reading.

    Raises:
        ExperimentError: a setting or a label does not exist, or there are too few topics or
            prompts.
        StoreError: the file exists or cannot be written.
        ModelError, PromptError, SiteError, NonfiniteError: as in `extract`.
    """
    check_model(model)
    path = absolute(path)
    check_absent(path)
    with _folder_beside(path, progress) as folder:
        experiment = atlas_experiment(
            "",
            [model.name],
            _source_of(prompts, folder),
            topic=topic,
            site=site,
            layers=layers,
            pool=pool,
            truncate=truncate,
            dtype=model.dtype,
            attention=model.attention,
            **settings,
        )
        sites = tuple(resolve_sites(experiment.site, experiment.layers, model.layer_count))
        subject = Subject(model.name, model.checkpoint, sites)
        built = _build_in(folder, experiment, subject, model, progress)
        with _writing_errors(path):
            move_to_new(built, path)
    return Atlas.open(path)


@contextmanager
def _folder_beside(path: Path, progress: Progress) -> Iterator[Path]:
    """Yield a temporary folder beside a file, so that the file can be renamed.

    A lock in the folder shows that its process is alive; folders of killed processes are removed.
    """
    prefix = f".{path.name}-"
    for folder in path.parent.glob(f"{glob.escape(prefix)}*/.{_ALIVE}.lock"):
        with locked_if_free(folder.with_name(_ALIVE)) as abandoned:
            if abandoned:
                shutil.rmtree(folder.parent, ignore_errors=True)
    with _writing_errors(path):
        temporary = tempfile.TemporaryDirectory(dir=path.parent, prefix=prefix)
    with temporary as name, locked(Path(name) / _ALIVE, progress):
        yield Path(name)


@contextmanager
def _writing_errors(path: Path) -> Iterator[None]:
    """Translate errors of the file system into those of an atlas that cannot be written."""
    try:
        yield
    except OSError as error:
        raise writing_error(path, error) from error


def _source_of(prompts: Prompts | str | Path, folder: Path) -> dict[str, Any]:
    """Return the keys of a `PromptSource`; write prompts that are in memory to a file."""
    if isinstance(prompts, str | Path):
        return {"file": str(prompts)}
    if isinstance(prompts, PromptFile):
        labels = prompts.label_columns
        return {
            "file": str(prompts.path),
            "text_column": prompts.text_column,
            "label_columns": labels if labels is None else list(labels),
        }
    file = folder / "prompts.jsonl"
    with _writing_errors(file):
        write_prompts(file, prompts)
    return {"file": str(file)}


def _build_in(
    folder: Path,
    experiment: AtlasExperiment,
    subject: Subject,
    model: Model,
    progress: Progress,
) -> Path:
    """Build an atlas in a folder; return its path."""
    spec = spec_of(experiment, subject)

    def load() -> Model:
        return model

    files = prepare(experiment, spec, load, progress, folder)
    shards = [
        count_shard(experiment, spec, shard, files, load, progress, folder / f"counts-{number}")
        for number, shard in enumerate(shards_of(spec.prompts, experiment.shards))
    ]
    return build_database(experiment, spec, shards, files, load, progress)


def run_atlas(
    experiment: AtlasExperiment,
    tracker: Tracker | None = None,
    executor: Executor | None = None,
    progress: Progress = silent,
) -> Results[AtlasResult]:
    """Build and record an atlas of each model, and an overview if there are several.

    Args:
        experiment: experiment of kind `atlas`.
        tracker: tracker that records the runs; None to record nothing in MLflow.
        executor: executor that runs the steps; by default they run in this thread. The steps of a
            model are the pilot, the shards, the measures and the report.
        progress: callback that receives the current step and how many steps are done.

    Returns:
        One result per model, in the order of the experiment's models. The databases are in the
        home folder, and in the runs.

    Raises:
        NeuroscopeError: the study failed; the subclass and the message say why. An open run is
            marked FAILED; none is opened if a model, layer, file or column does not exist.
    """
    _ = experiment.topic_index  # reports what is wrong with the topics
    subjects, shards = subjects_of(experiment), shards_of(experiment.prompt_set, experiment.shards)
    total = step_count(subjects, tracker, lambda subject: len(shards) + 1)
    steps = Steps(executor or InlineExecutor(), progress, total=total)
    study = ModelStudy(
        extract=prepare_subject,
        measure=partial(_build, experiment, shards, steps),
        write=write_outputs,
        points=metric_points,
        overview=compare_models,
        difference=difference,
    )
    return study_models(experiment, subjects, tracker, steps, study)


def check(experiment: AtlasExperiment) -> None:
    """Check everything that can be checked before work starts.

    Raises:
        ModelError, SiteError, PromptError, ExperimentError: a model, layer, file of prompts or
            column does not exist, or there are too few topics or prompts.
    """
    subjects_of(experiment)
    _ = experiment.topic_index


def spec_of(experiment: AtlasExperiment, subject: Subject) -> ExtractionSpec:
    """Return what an atlas reads of a model."""
    return extraction_spec(experiment, subject, pool=experiment.pool)


def prepare_subject(experiment: AtlasExperiment, subject: Subject) -> AtlasFolder:
    """Index the topics and run the pilot of one model, unless that is done."""
    return prepare(experiment, spec_of(experiment, subject), model_loader(experiment, subject))


def count_subject(
    experiment: AtlasExperiment, subject: Subject, shard: Shard, folder: AtlasFolder
) -> Path:
    """Count the prompts of a shard in one model, unless that is done."""
    spec, load = spec_of(experiment, subject), model_loader(experiment, subject)
    return count_shard(experiment, spec, shard, folder, load)


def measure_subject(
    experiment: AtlasExperiment, subject: Subject, shards: Sequence[Path], folder: AtlasFolder
) -> Path:
    """Write the database of one model, unless that is done."""
    causal = subject.checkpoint.architecture.causal  # encoders write to their embedding
    load = model_loader(experiment, subject, head=causal)
    return build_database(experiment, spec_of(experiment, subject), shards, folder, load)


def _build(
    experiment: AtlasExperiment,
    shards: Sequence[Shard],
    steps: Steps,
    subject: Subject,
    folder: AtlasFolder,
) -> AtlasResult:
    """Run the shards of one model, and measure its neurons."""
    label = subject.label
    counted = [
        steps.submit(
            f"count {label} {number}/{len(shards)}",
            count_subject,
            *(experiment, subject, shard, folder),
            loads_model=True,
        )
        for number, shard in enumerate(shards, 1)
    ]
    folders = [steps.wait(pending) for pending in counted]
    measured = steps.submit(
        f"measure {label}",
        measure_subject,
        *(experiment, subject, folders, folder),
        loads_model=True,
    )
    result = atlas_result(steps.wait(measured), subject.checkpoint.name)
    return replace(result, notes=(*result.notes, *changes_since(experiment, subject)))


STUDY = Study(AtlasExperiment, check, run_atlas, summary_table, atlas_figures)
