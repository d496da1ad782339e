"""Steps of a check of drift; their arguments and results are paths and immutable values."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neuroscope.errors import ExperimentError, HeadlessError, ResourceError
from neuroscope.extraction.batching import tokenise
from neuroscope.extraction.expected_tokens import expected_tokens, spread_evenly
from neuroscope.extraction.models import Model
from neuroscope.extraction.pair_changes import (
    Passes,
    are_comparable,
    patching,
    run_pair,
)
from neuroscope.extraction.recorded_outputs import (
    RecordedOutputs,
    compare_outputs,
    fits,
    record_outputs,
)
from neuroscope.labels import counted
from neuroscope.options import Attention, Dtype
from neuroscope.sites import Site
from neuroscope.stats.moments import Doubles
from neuroscope.storage.activation_store import read_activations, store_folder
from neuroscope.studies.drift.agreement import Distance, Values
from neuroscope.studies.drift.baseline import Baseline
from neuroscope.studies.drift.experiment import DriftExperiment
from neuroscope.studies.drift.replicate_files import (
    read_replicates,
    replicates_name,
    write_replicates,
)
from neuroscope.studies.drift.replicates import (
    BOUNDING,
    Condition,
    Replicates,
    UsualBase,
    draw_conditions,
    run_replicates,
)
from neuroscope.studies.drift.rewording import rewording_distances
from neuroscope.studies.drift.subjects import Pair, extraction_of, load
from neuroscope.studies.store.store import store_activations
from neuroscope.studies.subjects import Subject
from neuroscope.tokens import Integers

_AT_ONCE = 100  # replicates after which they are stored, so that an interrupted check keeps them
PATCHED_PROMPTS = 64
"""Number of prompts on which residual streams are patched."""


@dataclass(frozen=True, eq=False)
class Stored:
    """Folders of the pooled activations of both models."""

    base: Path
    candidate: Path

    def values(self, pair: Pair, sites: Sequence[Site]) -> tuple[Values, Values]:
        """Return the activations of base and candidate at some sites of the base.

        Those of the candidate are at the sites that correspond to them.
        """
        matches = {site: pair.matches[site] for site in sites}
        own = read_activations(self.base, sites)
        other = read_activations(self.candidate, list(dict.fromkeys(matches.values())))
        return (
            {site: own[site] for site in sites},
            {site: other[match] for site, match in matches.items()},
        )


@dataclass(frozen=True, eq=False)
class Patches:
    """Mean divergence per prompt without a patch, (prompts,), and with each, (sites, prompts)."""

    sites: tuple[Site, ...]
    unpatched: Doubles
    patched: Doubles


def store_model(experiment: DriftExperiment, subject: Subject, dtype: Dtype) -> Path:
    """Store the activations of one model, unless they are stored already; return the folder."""
    spec = extraction_of(experiment, subject, dtype)
    stored = store_activations(
        spec, store_folder(spec.key), lambda: load(experiment, subject, dtype)
    )
    return stored.folder


def replicate(
    experiment: DriftExperiment, base: Subject, stored: Path, distance: Distance, count: int
) -> Replicates:
    """Return benign replicates of the base, and the distances of reworded prompts.

    They are stored beside the base's activations: a check of another candidate reads them, and
    computes only what it needs more of.
    """
    name = replicates_name(experiment, distance, min(count, BOUNDING))
    replicates = read_replicates(stored, name)
    if replicates is None:
        conditions = draw_conditions(experiment, min(count, BOUNDING))
        replicates = _first_replicates(experiment, base, stored, distance, conditions)
        write_replicates(stored, name, replicates)
    usual = UsualBase(_deciding(experiment, base, stored), topic_numbers(experiment), None)
    while (done := len(replicates)) < count:
        conditions = draw_conditions(experiment, min(count, done + _AT_ONCE))[done:]
        more = _run(experiment, base, conditions, usual, distance, head=False)
        replicates = replicates.followed_by(more.distances)
        write_replicates(stored, name, replicates)
    return replicates.first(count)


def _first_replicates(
    experiment: DriftExperiment,
    base: Subject,
    stored: Path,
    distance: Distance,
    conditions: Sequence[Condition],
) -> Replicates:
    """Compute the first `BOUNDING` replicates, and the distances of reworded prompts."""
    activations, topics = _deciding(experiment, base, stored), topic_numbers(experiment)
    settings: Any = {"pool": experiment.pool, "truncate": experiment.truncate}
    usual = load_with_head(experiment, base, experiment.dtype)
    prompts, head = experiment.prompt_set, usual.has_head
    expected = None
    if head:
        block = tokenise(usual, prompts.prompts, truncate=experiment.truncate)
        expected = expected_tokens(usual, block, topics, count=int(topics.max()) + 1)
    rewordings = rewording_distances(usual, prompts, activations, distance, **settings)
    del usual  # each replicate's model must fit into memory
    compared = UsualBase(activations, topics, expected)
    replicates = _run(experiment, base, conditions, compared, distance, head=head)
    return replace(replicates, rewordings=tuple(rewordings))


def _run(
    experiment: DriftExperiment,
    base: Subject,
    conditions: Sequence[Condition],
    usual: UsualBase,
    distance: Distance,
    *,
    head: bool,
) -> Replicates:
    """Compute the base again under each condition."""

    def loaded(dtype: Dtype, attention: Attention) -> Model:
        if head:
            return load_with_head(experiment, base, dtype, attention)
        return load(experiment, base, dtype, attention)

    return run_replicates(
        loaded,
        conditions,
        experiment.prompt_set,
        usual,
        distance,
        pool=experiment.pool,
        truncate=experiment.truncate,
    )


def _deciding(experiment: DriftExperiment, base: Subject, stored: Path) -> Values:
    """Return the base's activations at the deciding sites."""
    sites = deciding_sites(experiment, base)
    read = read_activations(stored, sites)
    return {site: read[site] for site in sites}


def recorded_replicates(
    experiment: DriftExperiment, baseline: Baseline, distance: Distance, count: int
) -> Replicates:
    """Return the replicates of a baseline.

    Raises:
        ExperimentError: the baseline has fewer, or none for models of this shape.
    """
    name = replicates_name(experiment, distance, min(count, BOUNDING))
    replicates = read_replicates(baseline.activations, name)
    if replicates is None or len(replicates) < count:
        held = baseline.header["replicates"] if replicates is None else len(replicates)
        raise ExperimentError(
            f"the decision needs {counted(count, 'replicate')} of the base, compared by"
            f" {distance.name}; the baseline {baseline.name} has {held}, compared by"
            f" {baseline.header['distance']}",
            remedy="make a baseline with more replicates, or name the base itself",
        )
    return replicates.first(count)


def record_base(experiment: DriftExperiment, base: Subject) -> RecordedOutputs:
    """Run the base over the prompts, and return what a baseline keeps of its outputs."""
    return _outputs(experiment, load_with_head(experiment, base, experiment.dtype))


def _outputs(experiment: DriftExperiment, model: Model) -> RecordedOutputs:
    block = tokenise(model, experiment.prompt_set.prompts, truncate=experiment.truncate)
    return record_outputs(model, block, experiment.prompt_set, topic_numbers(experiment))


def run_candidate(experiment: DriftExperiment, pair: Pair, baseline: Baseline) -> Passes | None:
    """Run the candidate over the prompts, and compare its outputs with those of a baseline.

    Returns:
        None if the models do not read the same tokens, or their outputs cannot be compared.
    """
    tokens = read_activations(baseline.activations, []).tokens.ids
    return _compared_to(experiment, pair, baseline.outputs, tokens)


def _compared_to(
    experiment: DriftExperiment, pair: Pair, outputs: RecordedOutputs, tokens: Integers
) -> Passes | None:
    """Run the candidate, and compare its outputs with those of the base.

    Args:
        experiment: experiment of the check.
        pair: base and candidate.
        outputs: outputs of the base.
        tokens: ids of the tokens that the base has read.
    """
    dtype = candidate_dtype(experiment)
    candidate = load_with_head(experiment, pair.candidate, dtype)
    block = tokenise(candidate, experiment.prompt_set.prompts, truncate=experiment.truncate)
    if not (len(outputs.prompts) and np.array_equal(block.ids, tokens)):
        return None
    if outputs.expected is None and candidate.has_head:
        candidate = load(experiment, pair.candidate, dtype)
    if not fits(outputs, candidate):
        return None
    prompts = experiment.prompt_set
    return compare_outputs(outputs, candidate, block, prompts, topic_numbers(experiment))


def run_both(experiment: DriftExperiment, pair: Pair) -> tuple[Passes | None, Patches | None]:
    """Run both models over the prompts, and the candidate with old residual streams put in.

    If both do not fit into memory, or are streamed, they run one after the other.

    Returns:
        No passes if the models do not read the same tokens, have neither heads nor the same width,
        or predict no token; and no patches if they differ in shape, or run one after the other.
    """
    base, candidate = _both(experiment, pair)
    prompts = experiment.prompt_set
    block = tokenise(base, prompts.prompts, truncate=experiment.truncate)
    if base.streamed or candidate.streamed:
        del candidate
        outputs = _outputs(experiment, base)
        del base
        return _compared_to(experiment, pair, outputs, block.ids), None
    other = tokenise(candidate, prompts.prompts, truncate=experiment.truncate)
    if not np.array_equal(block.ids, other.ids) or not are_comparable(base, candidate, block):
        return None, None
    local = pair.base.sites if pair.same_shape else ()
    passes = run_pair(
        base,
        candidate,
        block,
        prompts,
        local,
        pool=experiment.pool,
        groups=topic_numbers(experiment),
        stream=[
            site for site in pair.base.sites if pair.same_shape and site.component == "resid_post"
        ],
    )
    if not local:
        return passes, None
    sites = (Site("resid_pre", 0), *(Site("resid_post", at) for at in range(base.layer_count)))
    sample = block.take(spread_evenly(len(block), PATCHED_PROMPTS))
    return passes, Patches(sites, *patching(base, candidate, sample, sites))


def deciding_sites(experiment: DriftExperiment, subject: Subject) -> tuple[Site, ...]:
    """Return the sites whose neurons decide."""
    return tuple(site for site in subject.sites if site.component == experiment.component)


def topic_numbers(experiment: DriftExperiment) -> NDArray[np.int64]:
    """Return the number of each prompt's topic, (prompts,); the last number is that of no topic."""
    topics = [prompt.labels.get(experiment.studied_label) for prompt in experiment.prompt_set]
    names = sorted({topic for topic in topics if topic})
    numbers = [names.index(topic) if topic else len(names) for topic in topics]
    return np.array(numbers, dtype=np.int64)


def load_with_head(
    experiment: DriftExperiment,
    subject: Subject,
    dtype: Dtype,
    attention: Attention | None = None,
) -> Model:
    """Load a model with its language-model head, if its files have one and it fits into memory."""
    if experiment.memory == "stream":  # a model with its head cannot be streamed
        return load(experiment, subject, dtype, attention)
    try:
        return load(experiment, subject, dtype, attention, head=True)
    except (HeadlessError, ResourceError):
        return load(experiment, subject, dtype, attention)


def _both(experiment: DriftExperiment, pair: Pair) -> tuple[Model, Model]:
    """Load base and candidate."""
    return (
        load_with_head(experiment, pair.base, experiment.dtype),
        load_with_head(experiment, pair.candidate, candidate_dtype(experiment)),
    )


def candidate_dtype(experiment: DriftExperiment) -> Dtype:
    """Return the number format of the candidate."""
    return experiment.candidate_dtype or experiment.dtype
