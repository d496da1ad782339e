"""Comparison of prompts with each other in one or more models, at every layer."""

from collections.abc import Sequence
from concurrent.futures import Executor
from functools import partial

from neuroscope.experiment_faults import about
from neuroscope.extraction.baseline import ensure_baseline
from neuroscope.extraction.budget import FIXED_BUDGET
from neuroscope.extraction.extract import extract
from neuroscope.extraction.models import Model, check_model
from neuroscope.progress import Progress, silent
from neuroscope.prompts import PromptSet
from neuroscope.reporting.tracking import Tracker
from neuroscope.sites import Site
from neuroscope.storage.activation_store import read_activations
from neuroscope.studies.compare.experiment import CompareExperiment, compare_experiment
from neuroscope.studies.compare.extraction import Extracted, extract_subject
from neuroscope.studies.compare.figures import layer_figures
from neuroscope.studies.compare.focus import focus_layers
from neuroscope.studies.compare.models import compare_models, difference
from neuroscope.studies.compare.outputs import metric_points, write_outputs
from neuroscope.studies.compare.result import Comparison, ComparisonRow
from neuroscope.studies.compare.rows import compare_site, pair_tokens, token_notes
from neuroscope.studies.compare.tables import summary_table
from neuroscope.studies.model_runs import ModelStudy, step_count, study_models
from neuroscope.studies.steps import InlineExecutor, Steps
from neuroscope.studies.study import Results, Study
from neuroscope.studies.subjects import Subject, changes_since, subjects_of


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
        activations.provenance.warnings + token_notes(activations, pairs),
    )


def run_comparison(
    experiment: CompareExperiment,
    tracker: Tracker | None = None,
    executor: Executor | None = None,
    progress: Progress = silent,
) -> Results[Comparison]:
    """Run a comparison and record one run per model, and an overview of several models.

    Args:
        experiment: experiment of kind `compare`.
        tracker: tracker that records the runs; None to record nothing in MLflow.
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
    total = step_count(subjects, tracker, lambda subject: len(subject.sites))
    steps = Steps(executor or InlineExecutor(), progress, total=total)
    study = ModelStudy(
        extract=extract_subject,
        measure=partial(_compare_model, experiment, steps),
        write=write_outputs,
        points=metric_points,
        overview=compare_models,
        difference=difference,
    )
    return study_models(experiment, subjects, tracker, steps, study)


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
    with about("plot_layers"):
        for subject in subjects:
            _focus(experiment, subject)
    return subjects


def _focus(experiment: CompareExperiment, subject: Subject) -> tuple[int, ...]:
    """Return the layers of a model that are shown first and drawn neuron by neuron."""
    return focus_layers(experiment.plot_layers, subject.layers, subject.checkpoint.layer_count)


def _compare_model(
    experiment: CompareExperiment, steps: Steps, subject: Subject, extracted: Extracted
) -> Comparison:
    """Compare the layers of one model."""
    pending_rows = [
        steps.submit(f"compare {subject.label} {site}", compare_stored, experiment, extracted, site)
        for site in subject.sites
    ]
    rows = [row for pending in pending_rows for row in steps.wait(pending)]
    activations, pairs = read_activations(extracted.activations, []), experiment.pairs()
    return Comparison(
        subject.checkpoint.name,
        experiment.component,
        tuple(rows),
        pair_tokens(activations, pairs),
        _focus(experiment, subject),
        changes_since(experiment, subject)
        + activations.provenance.warnings
        + token_notes(activations, pairs),
    )


def compare_stored(
    experiment: CompareExperiment, extracted: Extracted, site: Site
) -> tuple[ComparisonRow, ...]:
    """Return the rows of the experiment's pairs at one site, from what the extraction left."""
    activations = read_activations(extracted.activations, [site])
    return tuple(compare_site(activations, site, extracted.baseline, experiment.pairs()))


STUDY = Study(CompareExperiment, check, run_comparison, summary_table, layer_figures)
