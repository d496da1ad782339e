"""Comparison of prompts with each other in one or more models, at every layer."""

from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from neuroscope.extraction.baseline import baseline_path, ensure_baseline
from neuroscope.extraction.budget import FIXED_BUDGET
from neuroscope.extraction.extract import extract
from neuroscope.extraction.models import Model, check_model
from neuroscope.progress import Progress, silent
from neuroscope.prompts import PromptSet
from neuroscope.reporting.run import Run
from neuroscope.reporting.tracking import Tracker
from neuroscope.sites import Site
from neuroscope.storage.activation_store import read_activations, store_folder
from neuroscope.studies.compare.experiment import CompareExperiment, compare_experiment
from neuroscope.studies.compare.focus import focus_layers
from neuroscope.studies.compare.outputs import metric_points, write_outputs
from neuroscope.studies.compare.result import Comparison, ComparisonRow
from neuroscope.studies.compare.rows import compare_site, pair_tokens, token_notes
from neuroscope.studies.compare.tables import summary_table
from neuroscope.studies.model_runs import (
    Subject,
    changes_since,
    extraction_spec,
    model_loader,
    record_files,
    study_models,
    subjects_of,
)
from neuroscope.studies.steps import InlineExecutor, Steps
from neuroscope.studies.store.store import store_activations
from neuroscope.studies.study import Study


@dataclass(frozen=True)
class Extracted:
    """Paths at which the extraction of one model stored what its comparisons read."""

    activations: Path
    """Folder of the activations at token level."""
    baseline: Path
    """File of the model's baseline statistics."""


def compare(
    model: Model,
    prompts: PromptSet | Sequence[str],
    site: str = "resid_post",
    layers: str | int | Sequence[int] = "all",
    *,
    truncate: bool = False,
    progress: Progress = silent,
) -> Comparison:
    """Compare every pair of prompts in a loaded model.

    Nothing is recorded in MLflow; only the model's baseline statistics are stored.

    Args:
        model: model from `load_model`.
        prompts: two or more prompts.
        site: component such as `resid_post`, with or without a layer.
        layers: layers to read if the site names none: `all`, `3`, `0-5`, `2,4` or `-1`.
        truncate: whether to truncate prompts at the model's limit.
        progress: callback that receives the current task, and how much of it is done.

    Raises:
        ExperimentError: there are fewer than two prompts, or the site or layers are unknown.
        ModelError, PromptError, SiteError, NonfiniteError: as in `extract`.
    """
    check_model(model)
    group = {"texts": PromptSet.of(prompts).texts}
    experiment = compare_experiment([model.name], group, site=site, layers=layers)
    activations = extract(
        model,
        experiment.prompt_set,
        experiment.site,
        experiment.layers,
        pool="none",
        token_rule="all",
        truncate=truncate,
        budget=FIXED_BUDGET,
        progress=progress,
    )
    baseline = ensure_baseline(model, experiment.component, progress=progress)
    pairs = experiment.pairs()
    rows = [
        row
        for compared_site in activations
        for row in compare_site(activations, compared_site, baseline, pairs)
    ]
    compared_layers = [compared_site.layer for compared_site in activations]
    return Comparison(
        model.name,
        experiment.component,
        tuple(rows),
        pair_tokens(activations, pairs),
        focus_layers(experiment.plot_layers, compared_layers, model.layer_count),
        token_notes(activations, pairs),
    )


def run_comparison(
    experiment: CompareExperiment,
    tracker: Tracker,
    executor: Executor | None = None,
    progress: Progress = silent,
) -> list[Comparison]:
    """Run a comparison and record one run per model, and an overview of several models.

    Args:
        experiment: experiment of kind `compare`.
        tracker: tracker that records the runs.
        executor: executor that runs the steps; by default they run in this thread. The steps of a
            model are the extraction, the comparison at each layer, and the report.
        progress: callback that receives the current step and how many steps are done.

    Returns:
        One comparison per model, in the order of the experiment's models.

    Raises:
        NeuroscopeError: the study failed; the subclass and the message say why. An open run is
            marked FAILED; none is opened if a model or layer does not exist.
    """
    subjects = _subjects(experiment)
    steps = Steps(executor or InlineExecutor(), progress, total=_step_count(subjects))
    return study_models(
        experiment,
        subjects,
        tracker,
        steps,
        extract=extract_subject,
        study=partial(_compare_model, experiment, steps),
    )


def check(experiment: CompareExperiment) -> None:
    """Check everything that can be checked before work starts.

    Raises:
        ModelError, SiteError, PromptError, ExperimentError: a model, layer or file of prompts
            does not exist, or the prompts cannot be compared.
    """
    experiment.pairs()
    _subjects(experiment)


def _subjects(experiment: CompareExperiment) -> list[Subject]:
    """Return each model with its sites; raise SiteError if no layer to draw is among them."""
    subjects = subjects_of(experiment)
    for subject in subjects:
        _focus(experiment, subject)
    return subjects


def _focus(experiment: CompareExperiment, subject: Subject) -> tuple[int, ...]:
    """Return the layers of a model that are shown first and drawn neuron by neuron."""
    return focus_layers(experiment.plot_layers, subject.layers, subject.checkpoint.layer_count)


def _step_count(subjects: Sequence[Subject]) -> int:
    """Return the number of steps: an extraction, the sites and a report per model."""
    return sum(1 + len(subject.sites) + 1 for subject in subjects)


def _compare_model(
    experiment: CompareExperiment, steps: Steps, subject: Subject, extracted: Extracted, run: Run
) -> Comparison:
    """Compare the layers of one model and record the result in its run."""
    pending_rows = [
        steps.submit(f"compare {subject.label} {site}", compare_stored, experiment, extracted, site)
        for site in subject.sites
    ]
    rows = [row for pending in pending_rows for row in steps.wait(pending)]
    activations, pairs = read_activations(extracted.activations, []), experiment.pairs()
    comparison = Comparison(
        subject.checkpoint.name,
        experiment.component,
        tuple(rows),
        pair_tokens(activations, pairs),
        _focus(experiment, subject),
        changes_since(experiment, subject) + token_notes(activations, pairs),
        run.id,
    )
    record_files(
        run,
        steps,
        subject.label,
        write_outputs,
        experiment,
        subject,
        comparison,
        extracted.activations,
        extracted.baseline,
    )
    run.log_points(metric_points(comparison))
    return comparison


def extract_subject(experiment: CompareExperiment, subject: Subject) -> Extracted:
    """Store every token's activations and the baseline of one model, unless already stored."""
    spec = extraction_spec(experiment, subject, pool="none", token_rule="all")
    load = model_loader(experiment, subject)
    stored = store_activations(spec, store_folder(spec.key), load, budget=FIXED_BUDGET)
    baseline = baseline_path(
        subject.checkpoint, experiment.component, experiment.dtype, experiment.attention
    )
    if not baseline.is_file():
        ensure_baseline(load(), experiment.component)
    return Extracted(stored.folder, baseline)


def compare_stored(
    experiment: CompareExperiment, extracted: Extracted, site: Site
) -> tuple[ComparisonRow, ...]:
    """Return the rows of the experiment's pairs at one site, from what the extraction left."""
    activations = read_activations(extracted.activations, [site])
    return tuple(compare_site(activations, site, extracted.baseline, experiment.pairs()))


STUDY = Study(
    CompareExperiment, check, run_comparison, summary_table, main_figures=["plots/by_layer.png"]
)
