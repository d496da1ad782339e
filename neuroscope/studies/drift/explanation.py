"""Explanation of drift: where, on which topics, in which neurons, on which prompts and words."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from neuroscope.activations import Floats
from neuroscope.extraction.pair_changes import Behaviour
from neuroscope.stats.moments import Doubles, Moments
from neuroscope.stats.paired import neuron_distances
from neuroscope.studies.drift.agreement import Values

MOST_SHOWN = 20
"""Number of neurons, prompts and tokens that are listed."""
_RARE = 1e-4
"""Mean probability below which the change of a token hardly counts."""


@dataclass(frozen=True)
class NeuronDrift:
    """Neuron that has moved, with what has changed."""

    neuron: str
    one_minus_r: float
    """1 - r of its activations in both models."""
    shift: float
    """Change of its mean, in standard deviations of the base."""
    scale: float
    """Ratio of its standard deviations, candidate by base; NaN if it is constant in the base."""


@dataclass(frozen=True)
class PromptDrift:
    """Prompt on which the outputs have changed, with the token at which they changed most."""

    id: str
    text: str
    topic: str
    divergence: float
    """Mean over its positions: KL divergence in nats, or 1 - cosine without a head."""
    largest: float
    """Largest divergence at a position."""
    token: str
    """Token at that position."""


@dataclass(frozen=True)
class TopicDrift:
    """Change on the prompts of one topic."""

    topic: str
    prompts: int
    divergence: float
    """Mean over its prompts of the divergence of the outputs."""
    gain: float
    """Mean over its prompts of the change of the log probability of the actual tokens, in nats per
    token; NaN without a language-model head. A candidate gains most on texts like those on which
    it was trained further."""


@dataclass(frozen=True)
class TokenDrift:
    """Token that the candidate expects more, or less, often than the base does."""

    token: str
    base: float
    """Mean probability in the base over all positions."""
    candidate: float
    """Mean probability in the candidate."""
    ratio: float
    """Log of the ratio of both, smoothed as in `preferred_tokens`."""
    null: float
    """Largest such value of this token in a benign replicate; NaN without replicates."""


def moved_neurons(base: Values, candidate: Values) -> list[NeuronDrift]:
    """Return the neurons with the largest 1 - r over all sites, in descending order."""
    moved: list[NeuronDrift] = []
    for site in base:
        distance = neuron_distances(base[site], candidate[site]).distance
        most = np.argsort(-np.nan_to_num(distance), kind="stable")[:MOST_SHOWN]
        own, other = (Moments.of(values[site][:, most]) for values in (base, candidate))
        with np.errstate(divide="ignore", invalid="ignore"):
            shift, scale = (other.mean - own.mean) / own.sd, other.sd / own.sd
        moved += [
            NeuronDrift(f"{site}.{neuron}", *map(float, (distance[neuron], shift[at], scale[at])))
            for at, neuron in enumerate(most.tolist())
        ]
    return sorted(moved, key=lambda neuron: -np.nan_to_num(neuron.one_minus_r))[:MOST_SHOWN]


def mean_by_prompt(values: Doubles, behaviour: Behaviour, count: int) -> Doubles:
    """Return the mean of values at positions per prompt, (prompts,); NaN without positions."""
    sums = np.bincount(behaviour.prompts, weights=values, minlength=count)
    positions = np.bincount(behaviour.prompts, minlength=count)
    means: Doubles = np.divide(sums, positions, out=np.full(count, np.nan), where=positions > 0)
    return means


def topic_drift(behaviour: Behaviour, topics: Sequence[str | None]) -> list[TopicDrift]:
    """Return the change on each topic: the one with the largest gain first.

    Without a language-model head, the topic with the largest divergence comes first.

    Args:
        behaviour: change of the outputs at each position.
        topics: topic of each prompt, or None.
    """
    divergence = mean_by_prompt(behaviour.divergence, behaviour, len(topics))
    gain = np.full(len(topics), np.nan)
    if changes := behaviour.predictions:
        gain = mean_by_prompt(changes.candidate - changes.base, behaviour, len(topics))
    rows = []
    for topic in sorted({topic for topic in topics if topic}):
        inside = np.array([other == topic for other in topics])
        own, gained = _mean(divergence[inside]), _mean(gain[inside])
        rows.append(TopicDrift(topic, int(inside.sum()), own, gained))
    leading = "divergence" if behaviour.predictions is None else "gain"
    return sorted(rows, key=lambda row: -float(np.nan_to_num(getattr(row, leading), nan=-np.inf)))


def layers_by_topic(
    base: Values, candidate: Values, topics: Sequence[str | None]
) -> tuple[list[str], Doubles]:
    """Return the names of the topics, and the change of the neurons on each at each site.

    Returns:
        Topics, and (topics, sites): the root mean squared difference over neurons and prompts, in
        standard deviations of the base over all prompts.
    """
    names = sorted({topic for topic in topics if topic})
    changes = np.empty((len(names), len(base)))
    for column, site in enumerate(base):
        squares = _squared_change(base[site], candidate[site])
        for row, name in enumerate(names):
            inside = [topic == name for topic in topics]
            changes[row, column] = np.sqrt(squares[inside].mean())
    return names, changes


def _squared_change(base: Floats, candidate: Floats) -> Doubles:
    """Return the mean over neurons of the squared difference, in variances of the base."""
    sd = Moments.of(base).sd
    varies = sd > 0
    change = (candidate[:, varies].astype(np.float64) - base[:, varies]) / sd[varies]
    squares: Doubles = np.square(change).mean(axis=1)
    return squares


def group_means(expected: Doubles) -> Doubles:
    """Return the mean probability of each token by group, and over all groups in the last row.

    Args:
        expected: (groups, vocabulary) expected counts; those of all tokens of a group add up to the
            number of its positions.

    Returns:
        (groups + 1, vocabulary); 0 for a group without positions.
    """
    counts = np.concatenate([expected, expected.sum(axis=0, keepdims=True)])
    positions = counts.sum(axis=1, keepdims=True)
    means: Doubles = np.divide(counts, positions, out=np.zeros_like(counts), where=positions > 0)
    return means


def token_ratios(base: Doubles, candidate: Doubles) -> Doubles:
    """Return how much more often the candidate expects each token, of the shape of `base`.

    It is log((q + a) / (p + a)), with p and q the mean probabilities of the token over all
    positions, and a = 1e-4, which keeps tokens that hardly occur from leading the list.

    Args:
        base: (..., vocabulary) mean probabilities in the base.
        candidate: mean probabilities in the candidate.
    """
    ratios: Doubles = np.log((candidate + _RARE) / (base + _RARE))
    return ratios


def preferred_tokens(
    base: Doubles, candidate: Doubles, texts: Sequence[str], bounds: Doubles | None = None
) -> tuple[list[TokenDrift], list[TokenDrift]]:
    """Return the tokens that the candidate expects much more, and much less, often.

    Args:
        base: (vocabulary,) mean probabilities in the base.
        candidate: mean probabilities in the candidate.
        texts: token of each id.
        bounds: (vocabulary,) largest absolute `token_ratios` of benign replicates; tokens whose
            ratio is not beyond them are left out.
    """
    ratios = token_ratios(base, candidate)
    beyond = np.zeros(len(ratios)) if bounds is None else bounds
    order = np.argsort(-np.abs(ratios), kind="stable")
    order = order[np.abs(ratios[order]) > beyond[order]]

    def tokens(sign: int) -> list[TokenDrift]:
        chosen = [at for at in order.tolist() if sign * ratios[at] > 0][:MOST_SHOWN]
        floor = beyond if bounds is not None else np.full(len(ratios), np.nan)
        return [
            TokenDrift(texts[at], *map(float, (base[at], candidate[at], ratios[at], floor[at])))
            for at in chosen
        ]

    return tokens(1), tokens(-1)


def _mean(values: Doubles) -> float:
    """Return the mean of the values that are not NaN; NaN if there is none."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else np.nan
