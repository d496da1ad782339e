"""Measures of a check of drift, from stored activations and the results of its passes."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from neuroscope.extraction.differences import CheckpointDifferences
from neuroscope.extraction.pair_changes import Behaviour, Passes
from neuroscope.extraction.recorded_outputs import KEPT_TOKENS
from neuroscope.stats.divergence import KLSummary, summarise_kl
from neuroscope.stats.moments import Doubles
from neuroscope.studies.drift.agreement import (
    Estimate,
    SiteAgreement,
    Values,
    estimate_drift,
    site_agreement,
    with_neurons,
)
from neuroscope.studies.drift.changed_prompts import changed_prompts, regressed_improved
from neuroscope.studies.drift.check import Patches, Stored, deciding_sites, topic_numbers
from neuroscope.studies.drift.experiment import DriftExperiment
from neuroscope.studies.drift.explanation import (
    MOST_TOPICS,
    TopicDrift,
    group_means,
    layers_by_topic,
    preferred_tokens,
    tokens_by_topic,
    topic_drift,
)
from neuroscope.studies.drift.neurons import moved_neurons
from neuroscope.studies.drift.positions import position_drift
from neuroscope.studies.drift.readers import PROCRUSTES, Reader, readers
from neuroscope.studies.drift.replicates import Replicates
from neuroscope.studies.drift.result import (
    Explanation,
    FinalChange,
    PartRow,
    Patching,
    Topics,
)
from neuroscope.studies.drift.subjects import Pair

NEIGHBOURS = 10
"""Nearest neighbours of each prompt that are compared."""


def measure_sites(
    experiment: DriftExperiment,
    pair: Pair,
    stored: Stored,
    passes: Passes | None,
    replicates: Replicates,
) -> list[SiteAgreement]:
    """Return the agreement of both models at every site of the base."""
    k = min(NEIGHBOURS, len(experiment.prompt_set) - 1)
    null = dict(zip(deciding_sites(experiment, pair.base), replicates.distances.T, strict=True))
    rows = []
    for site, match in pair.matches.items():
        own, other = (values[site] for values in stored.values(pair, [site]))
        row = site_agreement(site, match, own, other, neighbours=k)
        if pair.same_shape:
            row = with_neurons(row, own, other, passes.local.get(site) if passes else None)
        if site in null:
            row = replace(row, null_low=float(null[site].min()), null_high=float(null[site].max()))
        rows.append(row)
    return rows


def estimate(experiment: DriftExperiment, pair: Pair, stored: Stored) -> Estimate:
    """Return the statistic of the candidate with its limits, from the deciding sites."""
    own, other = stored.values(pair, deciding_sites(experiment, pair.base))
    return estimate_drift(
        [*own.values()],
        [*other.values()],
        pair.distance,
        resamples=experiment.resamples,
        seed=experiment.seed,
    )


def read_again(experiment: DriftExperiment, pair: Pair, stored: Stored) -> list[Reader]:
    """Return how well readers of the base's last layer work on the candidate of the same width."""
    last = pair.base.sites[-1]
    own, other = (values[last] for values in stored.values(pair, [last]))
    if own.shape != other.shape:
        return []
    return readers(own, other, topics_of(experiment), seed=experiment.seed)


def explain(
    experiment: DriftExperiment,
    pair: Pair,
    stored: Stored,
    passes: Passes | None,
    patches: Patches | None,
    replicates: Replicates,
) -> Explanation:
    """Return what has changed, where, and on which texts."""
    own, other = stored.values(pair, deciding_sites(experiment, pair.base))
    topics = topics_of(experiment)
    moved = tuple(moved_neurons(own, other, topics)) if pair.same_shape else ()
    if passes is None:
        return Explanation(neurons=moved)
    rows = topic_drift(passes.behaviour, topics) if len(set(filter(None, topics))) > 1 else []
    names = [row.topic for row in rows][:MOST_TOPICS]
    regressed, improved = regressed_improved(passes.behaviour, len(experiment.prompt_set))
    explanation = Explanation(
        topics=_topics(rows, names if pair.same_shape else [], own, other, topics)
        if rows
        else None,
        neurons=moved,
        prompts=tuple(
            changed_prompts(experiment.prompt_set, passes.behaviour, topics, passes.block)
        ),
        regressed=regressed,
        improved=improved,
        patching=_patching(patches) if patches else None,
        positions=position_drift(passes, topic_numbers(experiment), _sorted(topics), names),
    )
    return _with_tokens(explanation, passes, replicates.bounds, _sorted(topics), names)


def _with_tokens(
    explanation: Explanation,
    passes: Passes,
    bounds: Doubles | None,
    groups: Sequence[str],
    topics: Sequence[str],
) -> Explanation:
    """Add the tokens that the candidate expects more, or less, often, if there are heads.

    Args:
        explanation: explanation without these tokens.
        passes: passes of both models.
        bounds: (groups + 1, vocabulary) bounds of benign replicates, or None.
        groups: topic of each group for which tokens were counted.
        topics: topics for which tokens are listed.
    """
    if passes.expected is None:
        return explanation
    base, candidate = (group_means(counts)[-1] for counts in passes.expected)
    vocabulary = passes.block.vocabulary
    limits = None if bounds is None else bounds[-1]
    up, down = preferred_tokens(base, candidate, vocabulary, limits)
    by_topic = tokens_by_topic(passes.expected, groups, topics, vocabulary, bounds)
    return replace(
        explanation,
        tokens_up=tuple(up),
        tokens_down=tuple(down),
        topic_tokens=tuple(by_topic),
    )


def left_out(
    pair: Pair,
    differences: CheckpointDifferences,
    passes: Passes | None,
    read: Sequence[Reader],
) -> list[str]:
    """Return sentences on which measures were left out, and why."""
    notes = []
    if not pair.same_shape:
        notes.append(
            "the models differ in shape, so neurons do not correspond: distances of neurons, local"
            " distances and patching were left out; layers are matched by relative depth; the"
            " statistic is 1 - CKA, for which the default margin was not validated"
        )
    if passes is None:
        measures = "behaviour, local distances and patching" if pair.same_shape else "behaviour"
        reason = "no token is predicted, or the outputs cannot be compared"
        if not differences.same_tokens:
            reason = "the tokenizers differ, so the models are compared prompt by prompt"
        notes.append(f"{reason}: the following was left out: {measures}")
    if pair.baseline:
        notes.append(
            "the base is a baseline without weights: local distances, patching and the norms of the"
            " changes of the weights were left out"
        )
    elif passes and pair.same_shape and not passes.local:
        notes.append(
            "the models do not fit into memory together, or are streamed: local distances and"
            " patching were left out"
        )
    if passes and passes.bounded:
        notes.append(
            f"the outputs of the base were recorded: a KL divergence is that over the base's"
            f" {KEPT_TOKENS} most probable tokens and all others together, which is a lower bound"
        )
    if read and not any(PROCRUSTES in reader.activations for reader in read):
        notes.append(
            "a realignment by Procrustes was left out: it needs more prompts than there are neurons"
            " in the last layer"
        )
    if not read:
        notes.append(
            "readers of the old activations were left out: the layers differ in width, or no neuron"
            " of the last layer varies"
        )
    if passes and passes.expected and not _same_vocabulary(pair):
        notes.append(
            "the vocabularies differ in size: predictions are compared over the tokens of the"
            " smaller one"
        )
    return notes


def _same_vocabulary(pair: Pair) -> bool:
    """Return whether both models predict as many tokens."""
    sizes = {subject.checkpoint.neurons("logits") for subject in (pair.base, pair.candidate)}
    return len(sizes) == 1


def summarise_behaviour(behaviour: Behaviour) -> KLSummary | FinalChange:
    """Return the change of the outputs over all positions."""
    changes = behaviour.predictions
    if changes is not None:
        change = np.exp(changes.candidate) - np.exp(changes.base)
        return summarise_kl(changes.kl, changes.same_top, change, behaviour.prompts)
    median, q99 = np.quantile(behaviour.divergence, [0.5, 0.99]).tolist()
    mean, maximum = behaviour.divergence.mean(), behaviour.divergence.max()
    return FinalChange(float(mean), median, q99, float(maximum))


def part_rows(differences: CheckpointDifferences) -> list[PartRow]:
    """Return the table of differences of the weights."""
    return [
        PartRow(
            str(part.part),
            part.equal,
            part.changed + part.converted + part.unpaired,
            np.nan if part.relative_norm is None else part.relative_norm,
            np.nan if part.rank is None else part.rank,
        )
        for part in differences.parts
    ]


def topics_of(experiment: DriftExperiment) -> list[str | None]:
    """Return the topic of each prompt; None without one."""
    return [prompt.labels.get(experiment.studied_label) for prompt in experiment.prompt_set]


def _sorted(topics: Sequence[str | None]) -> list[str]:
    """Return the topics in the order of their numbers, `topic_numbers`."""
    return sorted({topic for topic in topics if topic})


def _topics(
    rows: Sequence[TopicDrift],
    names: Sequence[str],
    own: Values,
    other: Values,
    topics: Sequence[str | None],
) -> Topics:
    """Return the change by topic, and that of the neurons by layer for the topics in `names`."""
    if not names:
        return Topics(tuple(rows))
    return Topics(tuple(rows), tuple(names), layers_by_topic(own, other, topics, names))


def _patching(patches: Patches) -> Patching:
    """Return the share of the divergence that each patch removes, with jackknife errors."""
    shares = [_share(patches.unpatched, patched) for patched in patches.patched]
    return Patching(
        tuple(map(str, patches.sites)),
        tuple(share for share, _ in shares),
        tuple(error for _, error in shares),
        len(patches.unpatched),
    )


def _share(unpatched: Doubles, patched: Doubles) -> tuple[float, float]:
    """Return 1 - sum(patched) / sum(unpatched), and its jackknife standard error over prompts.

    The jackknife is that of Efron & Stein (1981, Annals of Statistics 9).
    """
    total, rest = unpatched.sum(), patched.sum()
    if total == 0:
        return np.nan, np.nan
    left_out = 1 - (rest - patched) / (total - unpatched)
    n = len(unpatched)
    error = np.sqrt((n - 1) / n * np.square(left_out - left_out.mean()).sum())
    return float(1 - rest / total), float(error)
