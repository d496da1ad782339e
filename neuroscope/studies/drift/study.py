"""Study of drift: whether a candidate may replace a base, and what has changed."""

import datetime
from concurrent.futures import Executor
from dataclasses import replace

from neuroscope.extraction.differences import CheckpointDifferences
from neuroscope.progress import Progress, silent
from neuroscope.reporting.logged_models import FINGERPRINT_TAG
from neuroscope.reporting.tracking import PROMPTS_TAG, REPORT, Tracker
from neuroscope.studies.drift.agreement import Decision, decide_drift
from neuroscope.studies.drift.check import (
    Stored,
    candidate_dtype,
    compare_files,
    replicate,
    run_both,
    store_model,
)
from neuroscope.studies.drift.experiment import DriftExperiment
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
from neuroscope.studies.drift.result import DriftResult
from neuroscope.studies.drift.subjects import Pair, pair_of
from neuroscope.studies.drift.tables import summary_table
from neuroscope.studies.model_runs import Recording, run_files, short_name
from neuroscope.studies.steps import InlineExecutor, Steps
from neuroscope.studies.study import Results, Study

_STEPS = 6  # files, base, candidate, replicates, both, report


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
    pair = pair_of(experiment)
    steps = Steps(executor or InlineExecutor(), progress, total=_STEPS)
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


def check(experiment: DriftExperiment) -> None:
    """Check everything that can be checked before work starts.

    Raises:
        ModelError, SiteError, PromptError, ExperimentError: a model, layer or file of prompts does
            not exist, or there are too few prompts or replicates.
    """
    _ = experiment.studied_label
    pair_of(experiment)


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
        headline=verdict_sentence(pair.candidate.label, pair.base.label, decision),
    )


def _compared(
    experiment: DriftExperiment, pair: Pair, differences: CheckpointDifferences, steps: Steps
) -> tuple[DriftResult, Stored]:
    """Return the result for models whose neurons correspond to each other."""
    folders = [
        steps.submit(
            f"read {subject.label}", store_model, experiment, subject, dtype, loads_model=True
        )
        for subject, dtype in (
            (pair.base, experiment.dtype),
            (pair.candidate, candidate_dtype(experiment)),
        )
    ]
    stored = Stored(*map(steps.wait, folders))
    estimated = estimate(experiment, pair, stored)
    count = experiment.replicates_for(above_margin=estimated.limits.lower > experiment.margin)
    arguments = (experiment, pair.base, stored.base, pair.distance, count)
    replicates = steps.wait(
        steps.submit(f"replicate {pair.base.label}", replicate, *arguments, loads_model=True)
    )
    passes, patches = steps.wait(
        steps.submit("compare passes", run_both, experiment, pair, loads_model=True)
    )
    sites = measure_sites(experiment, pair, stored, passes, replicates)
    decision = decide_drift(
        estimated, replicates.distances, margin=experiment.margin, alpha=experiment.alpha
    )
    behaviour = summarise_behaviour(passes.behaviour) if passes else None
    read = read_again(experiment, pair, stored)
    explanation = explain(experiment, pair, stored, passes, patches, replicates)
    deciding = [row for row in sites if row.component == experiment.component]
    sentences = explanation_sentences(
        deciding,
        decision,
        replicates.rewordings,
        behaviour,
        read,
        explanation,
    )
    result = DriftResult(
        base=pair.base.checkpoint.name,
        model=pair.candidate.checkpoint.name,
        prompts=len(experiment.prompt_set),
        site=experiment.component,
        basis="neurons" if pair.same_shape else "representations",
        decision=decision,
        differences=differences.kind,
        parts=tuple(part_rows(differences)),
        rewordings=replicates.rewordings,
        sites=tuple(sites),
        behaviour=behaviour,
        readers=tuple(read),
        explanation=explanation,
        notes=tuple(left_out(pair, passes, read)),
        headline=verdict_sentence(pair.candidate.label, pair.base.label, decision),
        summary=" ".join(sentences),
        labels=(pair.base.label, pair.candidate.label),
    )
    return result, stored


STUDY = Study(DriftExperiment, check, run_drift, summary_table, drift_figures)
