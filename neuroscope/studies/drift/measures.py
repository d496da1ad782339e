"""Measures of a check of drift, from what its passes left."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from neuroscope.extraction.differences import CheckpointDifferences
from neuroscope.extraction.pair_changes import Behaviour, Passes
from neuroscope.stats.divergence import KLSummary, summarise_kl
from neuroscope.stats.moments import Doubles
from neuroscope.studies.drift.agreement import (
    Decision,
    SiteAgreement,
    Values,
    decide_drift,
    site_agreement,
)
from neuroscope.studies.drift.check import Patches, Stored, deciding_sites
from neuroscope.studies.drift.experiment import DriftExperiment
from neuroscope.studies.drift.explanation import (
    MOST_SHOWN,
    PromptDrift,
    TokenDrift,
    layers_by_topic,
    mean_by_prompt,
    moved_neurons,
    preferred_tokens,
    topic_drift,
)
from neuroscope.studies.drift.readers import Reader, readers
from neuroscope.studies.drift.replicates import Replicates
from neuroscope.studies.drift.result import (
    Explanation,
    FinalChange,
    PartRow,
    Patching,
    Topics,
)
from neuroscope.studies.drift.subjects import Pair
from neuroscope.tokens import TokenBlock

NEIGHBOURS = 10
"""Nearest neighbours of each prompt that are compared."""


def measure_sites(
    experiment: DriftExperiment, pair: Pair, stored: Stored, passes: Passes, replicates: Replicates
) -> list[SiteAgreement]:
    """Return the agreement of both models at every site."""
    k = min(NEIGHBOURS, len(experiment.prompt_set) - 1)
    null = dict(zip(deciding_sites(experiment, pair.base), replicates.distances.T, strict=True))
    rows = []
    for site in pair.base.sites:
        own, other = stored.values([site])
        row = site_agreement(site, own[site], other[site], passes.local.get(site), neighbours=k)
        if site in null:
            row = replace(row, null_low=float(null[site].min()), null_high=float(null[site].max()))
        rows.append(row)
    return rows


def decide(
    experiment: DriftExperiment, pair: Pair, stored: Stored, replicates: Replicates
) -> Decision:
    """Return the decision, from the neurons of the deciding sites."""
    own, other = stored.values(deciding_sites(experiment, pair.base))
    return decide_drift(
        own,
        other,
        replicates.distances,
        margin=experiment.margin,
        alpha=experiment.alpha,
        resamples=experiment.resamples,
        seed=experiment.seed,
    )


def read_again(experiment: DriftExperiment, pair: Pair, stored: Stored) -> list[Reader]:
    """Return how well readers of the base's last layer work on the candidate."""
    last = pair.base.sites[-1]
    own, other = stored.values([last])
    return readers(own[last], other[last], topics_of(experiment), seed=experiment.seed)


def explain(
    experiment: DriftExperiment,
    pair: Pair,
    stored: Stored,
    passes: Passes,
    patches: Patches | None,
    replicates: Replicates,
) -> Explanation:
    """Return what has changed, where, and on which texts."""
    own, other = stored.values(deciding_sites(experiment, pair.base))
    topics = topics_of(experiment)
    up: list[TokenDrift] = []
    down: list[TokenDrift] = []
    if passes.expected is not None:
        positions = len(passes.behaviour.prompts)
        base, candidate = (counts.sum(axis=0) / positions for counts in passes.expected)
        up, down = preferred_tokens(
            base, candidate, passes.block.vocabulary.texts, replicates.ratios
        )
    return Explanation(
        topics=_topics(passes.behaviour, own, other, topics),
        neurons=tuple(moved_neurons(own, other)),
        prompts=tuple(_prompts(experiment, passes.behaviour, topics, passes.block)),
        patching=_patching(patches) if patches else None,
        tokens_up=tuple(up),
        tokens_down=tuple(down),
    )


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


def _topics(
    behaviour: Behaviour, own: Values, other: Values, topics: Sequence[str | None]
) -> Topics | None:
    if len({topic for topic in topics if topic}) < 2:
        return None
    names, changes = layers_by_topic(own, other, topics)
    return Topics(tuple(topic_drift(behaviour, topics)), tuple(names), changes)


def _prompts(
    experiment: DriftExperiment,
    behaviour: Behaviour,
    topics: Sequence[str | None],
    block: TokenBlock,
) -> list[PromptDrift]:
    """Return the prompts whose outputs changed most, in descending order."""
    prompts = experiment.prompt_set
    means = mean_by_prompt(behaviour.divergence, behaviour, len(prompts))
    rows = []
    for index in np.argsort(-np.nan_to_num(means, nan=-1.0), kind="stable")[:MOST_SHOWN].tolist():
        own = behaviour.prompts == index
        if not own.any():
            continue
        at = int(behaviour.divergence[own].argmax())
        token = block[index].texts[behaviour.positions[own][at]]
        rows.append(
            PromptDrift(
                prompts.ids[index],
                prompts.texts[index],
                topics[index] or "",
                float(means[index]),
                float(behaviour.divergence[own][at]),
                token,
            )
        )
    return rows


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
