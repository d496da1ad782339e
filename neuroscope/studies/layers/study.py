"""Study of how information evolves through the layers of one or more models."""

import tempfile
from collections.abc import Sequence
from concurrent.futures import Executor
from functools import partial
from pathlib import Path

from neuroscope.extraction.models import Model, check_model
from neuroscope.progress import Progress, silent
from neuroscope.prompts import Prompts, PromptSet
from neuroscope.reporting.tracking import Tracker
from neuroscope.sites import resolve_sites
from neuroscope.storage.activation_store import store_folder
from neuroscope.storage.manifest import read_manifest
from neuroscope.studies.layers.experiment import LayersExperiment
from neuroscope.studies.layers.figures import layers_figures
from neuroscope.studies.layers.labels import studied_label
from neuroscope.studies.layers.measures import (
    Extracted,
    ProbePlan,
    extract_layers,
    layers_result,
    measure_layers,
    probe_layer,
    probe_token_counts,
)
from neuroscope.studies.layers.models import compare_models, difference
from neuroscope.studies.layers.outputs import metric_points, write_outputs
from neuroscope.studies.layers.result import LayersResult
from neuroscope.studies.layers.tables import summary_table
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


def layers(
    model: Model,
    prompts: Prompts | Sequence[str],
    site: str = "resid_post",
    layers: str | int | Sequence[int] = "all",
    *,
    label: str = "",
    probes: bool = True,
    probe_prompts: int = 2000,
    seed: int = 0,
    truncate: bool = False,
) -> LayersResult:
    """Study how information evolves through the layers of a loaded model.

    Nothing is stored or recorded in MLflow.

    >>> result = ns.layers(model, ns.read_prompts("experiments/topics.csv"))
    >>> print(result.headline)

    Args:
        model: model from `load_model`.
        prompts: 4 or more prompts, as a set, a file or texts; probes for a label need labels.
        site: component such as `resid_post`, with or without a layer.
        layers: layers to read if the site names none: `all`, `3`, `0-5`, `2,4` or `-1`.
        label: label that probes read; by default the only label of the prompts.
        probes: whether to fit probes for the label and for the identity of tokens.
        probe_prompts: maximum number of prompts for the label's probe, drawn at random; 8 or
            more, and at least 4 per value of the label are used.
        seed: seed for drawing prompts and for splitting them into train and test.
        truncate: whether to truncate prompts at the model's limit.

    Raises:
        ExperimentError: there are fewer than 4 prompts, or the label cannot be probed for.
        ModelError, PromptError, SiteError, NonfiniteError: as in `extract`.
    """
    check_model(model)
    studied = PromptSet.of(prompts) if isinstance(prompts, Sequence) else prompts
    name = studied_label(studied, label, probes=probes)
    plan = ProbePlan.of(studied, name, probes=probes, most_prompts=probe_prompts, seed=seed)
    sites = resolve_sites(site, layers, model.layer_count)
    spec = ExtractionSpec(
        checkpoint=model.checkpoint,
        prompts=studied,
        sites=sites,
        truncate=truncate,
        dtype=model.dtype,
        attention=model.attention,
    )
    with tempfile.TemporaryDirectory() as folder:
        extracted = extract_layers(
            spec, plan, lambda spec: Path(folder) / spec.key.digest, lambda: model
        )
        return layers_result(
            model.name,
            model.layer_count,
            sites,
            len(studied),
            measure_layers(extracted, sites, plan.label),
            [probe_layer(extracted, probed_site, seed) for probed_site in sites],
            probe_token_counts(extracted, seed),
            plan,
            model.warnings,
        )


def run_layers(
    experiment: LayersExperiment,
    tracker: Tracker | None = None,
    executor: Executor | None = None,
    progress: Progress = silent,
) -> Results[LayersResult]:
    """Run a study of layers and record one run per model, and an overview of several models.

    Args:
        experiment: experiment of kind `layers`.
        tracker: tracker that records the runs; None to record nothing in MLflow.
        executor: executor that runs the steps; by default they run in this thread. The steps of a
            model are the extraction, geometry and similarity, the probes of each layer, the probe
            on token counts, and the report.
        progress: callback that receives the current step and how many steps are done.

    Returns:
        One result per model, in the order of the experiment's models.

    Raises:
        NeuroscopeError: the study failed; the subclass and the message say why. An open run is
            marked FAILED; none is opened if a model, layer, file or label does not exist.
    """
    experiment = experiment.model_copy(update={"label": experiment.studied_label})  # to record it
    subjects, plan = subjects_of(experiment), plan_of(experiment)
    total = step_count(subjects, tracker, lambda subject: 1 + len(subject.sites) + 1)
    steps = Steps(executor or InlineExecutor(), progress, total=total)
    study = ModelStudy(
        extract=partial(extract_subject, plan),
        measure=partial(_study_model, experiment, plan, steps),
        write=write_outputs,
        points=metric_points,
        overview=compare_models,
        difference=difference,
    )
    return study_models(experiment, subjects, tracker, steps, study)


def check(experiment: LayersExperiment) -> None:
    """Check everything that can be checked before work starts.

    Raises:
        ModelError, SiteError, PromptError, ExperimentError: a model, layer, file of prompts or
            label does not exist, or the label cannot be probed for.
    """
    _ = experiment.studied_label
    subjects_of(experiment)


def plan_of(experiment: LayersExperiment) -> ProbePlan:
    """Return the plan of an experiment's probes."""
    return ProbePlan.of(
        experiment.prompt_set,
        experiment.studied_label,
        probes=experiment.probes,
        most_prompts=experiment.probe_prompts,
        seed=experiment.seed,
    )


def extract_subject(plan: ProbePlan, experiment: LayersExperiment, subject: Subject) -> Extracted:
    """Store what is measured in one model, unless it is stored already."""
    return extract_layers(
        extraction_spec(experiment, subject),
        plan,
        lambda spec: store_folder(spec.key),
        model_loader(experiment, subject),
    )


def _study_model(
    experiment: LayersExperiment,
    plan: ProbePlan,
    steps: Steps,
    subject: Subject,
    extracted: Extracted,
) -> LayersResult:
    """Measure the layers of one model."""
    label = subject.label
    measures = steps.submit(
        f"measure {label}", measure_layers, extracted, subject.sites, plan.label
    )
    probes = [
        steps.submit(f"probe {label} {site}", probe_layer, extracted, site, plan.seed)
        for site in subject.sites
    ]
    bag = steps.submit(f"probe {label} tokens", probe_token_counts, extracted, plan.seed)
    return layers_result(
        subject.checkpoint.name,
        subject.checkpoint.layer_count,
        subject.sites,
        len(experiment.prompt_set),
        steps.wait(measures),
        [steps.wait(pending) for pending in probes],
        steps.wait(bag),
        plan,
        changes_since(experiment, subject)
        + read_manifest(extracted.activations).provenance.warnings,
    )


STUDY = Study(LayersExperiment, check, run_layers, summary_table, layers_figures)
