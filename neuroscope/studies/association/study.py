"""Study of associations: contrasts of groups against control words, in one or more models."""

from collections.abc import Sequence
from concurrent.futures import Executor
from functools import partial
from pathlib import Path

from neuroscope.errors import ExperimentError
from neuroscope.experiment_faults import about
from neuroscope.extraction.baseline import ensure_baseline, read_baseline
from neuroscope.extraction.batching import tokenise
from neuroscope.extraction.budget import FIXED_BUDGET
from neuroscope.extraction.extract import extract
from neuroscope.extraction.models import Model, check_model
from neuroscope.extraction.statements import Filled
from neuroscope.extraction.tokenizers import TokenReader
from neuroscope.progress import Progress, silent
from neuroscope.prompts import PromptSet
from neuroscope.reporting.tracking import Tracker
from neuroscope.storage.activation_store import read_activations
from neuroscope.studies.association.experiment import (
    AssociationExperiment,
    association_experiment,
)
from neuroscope.studies.association.extraction import Extracted, extract_subject, measure_stored
from neuroscope.studies.association.figures import association_figures
from neuroscope.studies.association.measures import SiteContrasts, measure_site
from neuroscope.studies.association.models import compare_models, difference
from neuroscope.studies.association.outputs import metric_points, write_outputs
from neuroscope.studies.association.predictions import (
    cannot_predict,
    no_predictions,
    predict,
    predicted_roles,
)
from neuroscope.studies.association.result import AssociationResult
from neuroscope.studies.association.rows import association_result
from neuroscope.studies.association.tables import summary_table
from neuroscope.studies.association.words import read_lexicon
from neuroscope.studies.model_runs import ModelStudy, step_count, study_models
from neuroscope.studies.steps import InlineExecutor, Steps
from neuroscope.studies.study import Results, Study
from neuroscope.studies.subjects import (
    Subject,
    changes_since,
    subjects_of,
)


def associate(
    model: Model,
    experiment: str | Path | AssociationExperiment,
    *,
    progress: Progress = silent,
) -> AssociationResult:
    """Measure associations in a loaded model.

    Nothing is recorded in MLflow; only the model's baseline statistics are stored.

    >>> result = ns.associate(model, "experiments/occupations_gender.yaml")
    >>> print(result.headline)

    Args:
        model: model from `load_model`; the models, the device and the number format that the
            experiment names have no effect.
        experiment: experiment of kind `association`, or its file.
        progress: callback that receives the current task, and how much of it is done.

    Raises:
        ExperimentError: the file is not an experiment of kind `association`, or the tokenizer does
            not know a word.
        ModelError, PromptError, SiteError, NonfiniteError: as in `extract`.
    """
    check_model(model)
    if isinstance(experiment, str | Path):
        experiment = association_experiment(experiment)
    if not isinstance(experiment, AssociationExperiment):
        raise ExperimentError(
            f"expected an experiment of kind 'association' or its file, not {experiment!r}",
            remedy="give a file such as experiments/occupations_gender.yaml",
        )
    studied = experiment.model_copy(update={"models": [model.name]})
    activations = extract(
        model,
        studied.prompt_set,
        studied.site,
        studied.layers,
        pool="none",
        token_rule="all",
        truncate=studied.truncate,
        budget=FIXED_BUDGET,
        progress=progress,
    )
    lexicon = read_lexicon(studied, activations.tokens, model.name)
    baseline = ensure_baseline(model, studied.component, progress=progress)
    sites = [
        measure_site(
            studied,
            activations,
            site,
            lexicon,
            read_baseline(baseline, "content", site.layer),
            causal=model.architecture.causal,
        )
        for site in activations
    ]
    reason = cannot_predict(studied, model.checkpoint)
    if not reason and not model.has_head:
        reason = "the model was loaded without its language-model head"
    predictions = no_predictions(reason) if reason else predict(studied, model)
    warnings = activations.provenance.warnings
    return association_result(studied, model.name, lexicon, sites, predictions, warnings)


def run_association(
    experiment: AssociationExperiment,
    tracker: Tracker | None = None,
    executor: Executor | None = None,
    progress: Progress = silent,
) -> Results[AssociationResult]:
    """Run a study of associations and record one run per model, and an overview of several.

    Args:
        experiment: experiment of kind `association`.
        tracker: tracker that records the runs; None to record nothing in MLflow.
        executor: executor that runs the steps; by default they run in this thread. The steps of a
            model are the extraction, the contrasts at each layer, their tests, and the report.
        progress: callback that receives the current step and how many steps are done.

    Returns:
        One result per model, in the order of the experiment's models.

    Raises:
        NeuroscopeError: the study failed; the subclass and the message say why. An open run is
            marked FAILED; none is opened if a model or layer does not exist.
    """
    check(experiment)
    subjects = subjects_of(experiment)
    total = step_count(subjects, tracker, lambda subject: len(subject.sites) + 1)
    steps = Steps(executor or InlineExecutor(), progress, total=total)
    study = ModelStudy(
        extract=extract_subject,
        measure=partial(_study_model, experiment, steps),
        write=write_outputs,
        points=metric_points,
        overview=compare_models,
        difference=difference,
    )
    return study_models(experiment, subjects, tracker, steps, study)


def check(experiment: AssociationExperiment) -> None:
    """Check everything that can be checked before work starts.

    Raises:
        ModelError, SiteError, PromptError, ExperimentError: a model or layer does not exist, or
            its tokenizer does not know a word.
    """
    for index, subject in enumerate(subjects_of(experiment)):
        reader = TokenReader.of(subject.checkpoint)
        tokens = tokenise(reader, experiment.prompt_set.prompts, truncate=experiment.truncate)
        with about("models", index):
            read_lexicon(experiment, tokens, subject.label)
        if not cannot_predict(experiment, subject.checkpoint):
            _check_statements(experiment, reader)


def _check_statements(experiment: AssociationExperiment, reader: TokenReader) -> None:
    """Raise PromptError if a statement is too long with some role and the longest word."""
    word = max(experiment.group_words, key=len)
    for index, statement in enumerate(experiment.statements):
        filled = [Filled.of(statement, role, word).text for role in predicted_roles(experiment)]
        with about("statements", index):
            tokenise(reader, PromptSet.of(filled).prompts)


def _study_model(
    experiment: AssociationExperiment, steps: Steps, subject: Subject, extracted: Extracted
) -> AssociationResult:
    """Measure the layers of one model."""
    label = subject.label
    pending = [
        steps.submit(
            f"contrast {label} {site}", measure_stored, experiment, subject, extracted, site
        )
        for site in subject.sites
    ]
    sites = [steps.wait(contrasts) for contrasts in pending]
    return steps.wait(steps.submit(f"test {label}", _result, experiment, subject, extracted, sites))


def _result(
    experiment: AssociationExperiment,
    subject: Subject,
    extracted: Extracted,
    sites: Sequence[SiteContrasts],
) -> AssociationResult:
    """Test the contrasts of one model and return its result."""
    read = read_activations(extracted.activations, [])
    return association_result(
        experiment,
        subject.checkpoint.name,
        read_lexicon(experiment, read.tokens, subject.label),
        sites,
        extracted.predictions,
        changes_since(experiment, subject) + read.provenance.warnings,
    )


STUDY = Study(AssociationExperiment, check, run_association, summary_table, association_figures)
