"""Study of drift: whether a candidate may replace a base, and what has changed."""

import datetime
import tempfile
from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import replace
from pathlib import Path
from typing import Any

from neuroscope.errors import ExperimentError
from neuroscope.extraction.differences import CheckpointDifferences
from neuroscope.extraction.pair_changes import Passes
from neuroscope.progress import Progress, silent
from neuroscope.prompt_files import write_prompts
from neuroscope.prompts import Prompts, PromptSet
from neuroscope.reporting.logged_models import FINGERPRINT_TAG
from neuroscope.reporting.run_reader import PROMPTS_TAG, REPORT
from neuroscope.reporting.tracking import Tracker
from neuroscope.studies.drift.agreement import Decision, decide_drift
from neuroscope.studies.drift.associations import association_drift, check_associations
from neuroscope.studies.drift.baseline import write_baseline
from neuroscope.studies.drift.check import (
    Patches,
    Stored,
    candidate_dtype,
    record_base,
    recorded_replicates,
    replicate,
    run_both,
    run_candidate,
    store_model,
)
from neuroscope.studies.drift.experiment import DriftExperiment, drift_experiment
from neuroscope.studies.drift.figures import drift_figures
from neuroscope.studies.drift.headline import explanation_sentences, verdict_sentence
from neuroscope.studies.drift.measures import (
    estimate,
    explain,
    left_out,
    measure_sites,
    part_rows,
    read_again,
    summarise_behaviour,
)
from neuroscope.studies.drift.outputs import (
    BASE_TAG,
    VERDICT_TAG,
    metric_points,
    write_outputs,
)
from neuroscope.studies.drift.replicates import Replicates
from neuroscope.studies.drift.result import DriftResult
from neuroscope.studies.drift.subjects import Pair, compare_files, pair_of
from neuroscope.studies.drift.tables import summary_table
from neuroscope.studies.model_runs import Recording, run_files, short_name
from neuroscope.studies.steps import InlineExecutor, Steps
from neuroscope.studies.study import Results, Study
from neuroscope.studies.subjects import changes_since

_STEPS = 6  # files, base, candidate, replicates, both, report
_ASSOCIATION_STEPS = 4  # reading and measuring in each model


def run_drift(
    experiment: DriftExperiment,
    tracker: Tracker | None = None,
    executor: Executor | None = None,
    progress: Progress = silent,
) -> Results[DriftResult]:
    """Check whether a candidate may replace a base.

    Args:
        experiment: experiment of kind `drift`.
        tracker: tracker that records the run; None to record nothing in MLflow.
        executor: executor that runs the steps; by default they run in this thread.
        progress: callback that receives the current step and how many steps are done.

    Returns:
        One result.

    Raises:
        NeuroscopeError: the study failed; the subclass and the message say why.
    """
    experiment = experiment.model_copy(update={"label": experiment.studied_label})  # to record it
    pair = pair_of(experiment)
    check_associations(experiment, pair)
    total = _STEPS + _ASSOCIATION_STEPS * bool(experiment.associations)
    steps = Steps(executor or InlineExecutor(), progress, total=total)
    differences = steps.wait(steps.submit("compare files", compare_files, pair))
    if tracker is None:
        return Results([_check(experiment, pair, differences, steps)[0]])
    subjects = [pair.base, pair.candidate]
    recording = Recording(tracker, experiment, datetime.datetime.now())
    name = f"{short_name(pair.candidate)} vs {short_name(pair.base)}"
    with recording.run(subjects, name=name, tags=_tags(experiment, pair)) as run:
        result, stored = _check(experiment, pair, differences, steps)
        with run_files(run) as path:
            arguments = (experiment, pair, stored, result, run.links, path)
            steps.wait(steps.submit("report", write_outputs, *arguments))
        run.log_points(metric_points(result))
        run.set_tags({VERDICT_TAG: result.decision.verdict})
        run.describe(f"{result.headline} {result.summary}".strip(), REPORT)
    return Results([replace(result, run_id=run.id)])


def drift(
    base: str,
    candidate: str,
    prompts: Prompts | Sequence[str],
    *,
    tracker: Tracker | None = None,
    progress: Progress = silent,
    **settings: Any,
) -> DriftResult:
    """Check whether a candidate may replace a base.

    >>> result = drift("news-v1", "news-v2", ns.PromptFile.open("topics.csv"), label="topic")
    >>> result.decision.verdict
    'compatible'

    Args:
        base: name of the old model, as in `load_model`, or path of a baseline.
        candidate: name of the new model.
        prompts: prompts, as a set, a file or texts; changes are reported by their label.
        tracker: tracker that records the run in MLflow; None to record nothing.
        progress: callback that receives the current step and how many steps are done.
        settings: other keys of a drift experiment with their values, such as `label`, `site`,
            `margin`, `alpha` and `candidate_dtype`.

    Raises:
        NeuroscopeError: a model or layer does not exist, there are too few prompts, or a setting is
            invalid; the subclass and the message say why.
    """
    read = PromptSet.of(prompts) if isinstance(prompts, Sequence) else prompts
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "prompts.jsonl"
        write_prompts(file, read)
        experiment = drift_experiment(
            base, candidate, {"file": str(file)}, name=settings.pop("name", "drift"), **settings
        )
        check(experiment)
        return run_drift(experiment, tracker, progress=progress)[0]


def check(experiment: DriftExperiment) -> None:
    """Check everything that can be checked before work starts.

    Raises:
        ModelError, SiteError, PromptError, ExperimentError: a model, layer or file of prompts does
            not exist, or there are too few prompts or replicates.
    """
    _ = experiment.studied_label
    check_associations(experiment, pair_of(experiment))


def _tags(experiment: DriftExperiment, pair: Pair) -> dict[str, str]:
    """Return the tags by which runs of a pair of models and a prompt set are found."""
    base, candidate = pair.base.checkpoint, pair.candidate.checkpoint
    return {
        "neuroscope.model": candidate.name,
        FINGERPRINT_TAG: candidate.fingerprint,
        "neuroscope.base": base.name,
        BASE_TAG: base.fingerprint,
        PROMPTS_TAG: experiment.prompt_set.digest,
    }


def _check(
    experiment: DriftExperiment, pair: Pair, differences: CheckpointDifferences, steps: Steps
) -> tuple[DriftResult, Stored | None]:
    """Return the result, and where the activations of both models are stored if they were read."""
    if differences.identical and candidate_dtype(experiment) == experiment.dtype:
        return _identical(experiment, pair, differences), None
    return _compared(experiment, pair, differences, steps)


def _identical(
    experiment: DriftExperiment, pair: Pair, differences: CheckpointDifferences
) -> DriftResult:
    """Return the result for files that compute the same values; no pass is run."""
    decision = Decision(
        "identical", 0.0, 0.0, 0.0, experiment.margin, 1.0, experiment.alpha, 0, 0.0
    )
    return DriftResult(
        base=pair.base.checkpoint.name,
        model=pair.candidate.checkpoint.name,
        prompts=len(experiment.prompt_set),
        site=experiment.component,
        basis="files",
        decision=decision,
        differences=differences.kind,
        parts=tuple(part_rows(differences)),
        notes=_changes(experiment, pair),
        headline=verdict_sentence(pair.candidate.label, pair.base.label, decision),
    )


def _changes(experiment: DriftExperiment, pair: Pair) -> tuple[str, ...]:
    """Return sentences on what has changed since the run of which the experiment is a copy."""
    subjects = pair.base, pair.candidate
    notes = [note for subject in subjects for note in changes_since(experiment, subject)]
    return tuple(dict.fromkeys(notes))


def _compared(
    experiment: DriftExperiment, pair: Pair, differences: CheckpointDifferences, steps: Steps
) -> tuple[DriftResult, Stored]:
    """Return the result for models whose files differ."""
    stored = _stored(experiment, pair, steps)
    estimated = estimate(experiment, pair, stored)
    count = experiment.replicates_for(above_margin=estimated.limits.lower > experiment.margin)
    replicates = _replicates(experiment, pair, stored, steps, count)
    passes, patches = _passes(experiment, pair, steps)
    sites = measure_sites(experiment, pair, stored, passes, replicates)
    decision = decide_drift(
        estimated, replicates.distances, margin=experiment.margin, alpha=experiment.alpha
    )
    behaviour = summarise_behaviour(passes.behaviour) if passes else None
    read = read_again(experiment, pair, stored)
    explanation = explain(experiment, pair, stored, passes, patches, replicates)
    parts = part_rows(differences)
    associations = association_drift(experiment, pair, steps)
    sentences = explanation_sentences(
        sites,
        decision,
        replicates.rewordings,
        behaviour,
        read,
        explanation,
        parts=parts,
        associations=associations,
        bounded=bool(passes and passes.bounded),
    )
    result = DriftResult(
        base=pair.base.checkpoint.name,
        model=pair.candidate.checkpoint.name,
        prompts=len(experiment.prompt_set),
        site=experiment.component,
        basis="neurons" if pair.same_shape else "representations",
        decision=decision,
        differences=differences.kind,
        parts=tuple(parts),
        rewordings=replicates.rewordings,
        sites=tuple(sites),
        behaviour=behaviour,
        readers=tuple(read),
        explanation=explanation,
        notes=_changes(experiment, pair),
        associations=tuple(associations),
        left_out=tuple(left_out(pair, differences, passes, read)),
        headline=verdict_sentence(pair.candidate.label, pair.base.label, decision),
        summary=" ".join(sentences),
        labels=(pair.base.label, pair.candidate.label),
        bounded=bool(passes and passes.bounded),
    )
    return result, stored


def _stored(experiment: DriftExperiment, pair: Pair, steps: Steps) -> Stored:
    """Store the activations of both models, of which a baseline has those of the base."""
    models = [(pair.candidate, candidate_dtype(experiment))]
    if pair.baseline is None:
        models.insert(0, (pair.base, experiment.dtype))
    folders = [
        steps.submit(
            f"read {subject.label}", store_model, experiment, subject, dtype, loads_model=True
        )
        for subject, dtype in models
    ]
    found = [steps.wait(folder) for folder in folders]
    return Stored(pair.baseline.activations, *found) if pair.baseline else Stored(*found)


def _replicates(
    experiment: DriftExperiment, pair: Pair, stored: Stored, steps: Steps, count: int
) -> Replicates:
    """Return the benign replicates of the base."""
    if pair.baseline:
        return recorded_replicates(experiment, pair.baseline, pair.distance, count)
    arguments = (experiment, pair.base, stored.base, pair.distance, count)
    name = f"replicate {pair.base.label} {count} times"
    return steps.wait(steps.submit(name, replicate, *arguments, loads_model=True))


def _passes(
    experiment: DriftExperiment, pair: Pair, steps: Steps
) -> tuple[Passes | None, Patches | None]:
    """Return what is kept of the passes of both models; of a baseline, of the candidate alone."""
    name = "compare passes"
    if pair.baseline:
        arguments = (experiment, pair, pair.baseline)
        return steps.wait(steps.submit(name, run_candidate, *arguments, loads_model=True)), None
    return steps.wait(steps.submit(name, run_both, experiment, pair, loads_model=True))


def save_baseline(
    experiment: DriftExperiment,
    path: Path,
    executor: Executor | None = None,
    progress: Progress = silent,
) -> None:
    """Save what checks need of the base, so that its weights need not be present again.

    After a check with the same settings, only one pass is run.

    Args:
        experiment: experiment of kind `drift`.
        path: file to write.
        executor, progress: as in `run_drift`.

    Raises:
        NeuroscopeError: a model cannot be used, or the file cannot be written.
    """
    pair = pair_of(experiment)
    if pair.baseline:
        raise ExperimentError(f"{pair.baseline.name} is a baseline already", remedy="copy the file")
    steps = Steps(executor or InlineExecutor(), progress, total=3)
    arguments = (experiment, pair.base, experiment.dtype)
    folder = steps.wait(
        steps.submit(f"read {pair.base.label}", store_model, *arguments, loads_model=True)
    )
    count = experiment.replicates_for(above_margin=True)
    replicates = _replicates(experiment, pair, Stored(folder, folder), steps, count)
    name = f"record {pair.base.label}"
    outputs = steps.wait(steps.submit(name, record_base, experiment, pair.base, loads_model=True))
    distance = pair.distance.name
    write_baseline(path, experiment, pair.base, folder, outputs, len(replicates), distance)


STUDY = Study(DriftExperiment, check, run_drift, summary_table, drift_figures)
