"""Explanation of drift: where, on which topics, in which neurons, on which prompts and words."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from neuroscope.activations import Floats
from neuroscope.sites import Site
from neuroscope.stats.moments import Doubles, Moments
from neuroscope.stats.paired import neuron_distances
from neuroscope.studies.drift.agreement import Values
from neuroscope.studies.drift.passes import Behaviour

MOST_SHOWN = 20
"""Number of neurons, prompts and tokens that are listed."""


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
    ratio: float
    """Divergence on this topic, divided by that on all other prompts."""


@dataclass(frozen=True)
class TokenDrift:
    """Token that the candidate prefers more, or less, than the base does."""

    token: str
    share: float
    """Share of the positions at which it is among the tokens whose logits changed most."""
    null: float
    """Largest such share in a benign replicate; 0 without replicates of the logits."""


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


def mean_by_prompt(behaviour: Behaviour, count: int) -> Doubles:
    """Return the mean divergence per prompt, (prompts,); NaN for a prompt without positions."""
    sums = np.bincount(behaviour.prompts, weights=behaviour.divergence, minlength=count)
    positions = np.bincount(behaviour.prompts, minlength=count)
    means: Doubles = np.divide(sums, positions, out=np.full(count, np.nan), where=positions > 0)
    return means


def topic_drift(divergence: Doubles, topics: Sequence[str | None]) -> list[TopicDrift]:
    """Return the change on each topic, the largest first.

    Args:
        divergence: (prompts,) mean divergence per prompt.
        topics: topic of each prompt, or None.
    """
    rows = []
    for topic in sorted({topic for topic in topics if topic}):
        inside = np.array([other == topic for other in topics])
        own, rest = np.nanmean(divergence[inside]), _mean(divergence[~inside])
        ratio = own / rest if rest > 0 else np.nan
        rows.append(TopicDrift(topic, int(inside.sum()), float(own), float(ratio)))
    return sorted(rows, key=lambda row: -np.nan_to_num(row.divergence))


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


def preferred_tokens(
    changed: NDArray[np.int32], texts: Sequence[str], null: Mapping[int, float] = {}
) -> list[TokenDrift]:
    """Return the tokens that are most often among those whose logits changed most.

    Tokens are ranked by how much more often that is than in benign replicates.

    Args:
        changed: (positions, k) ids of the tokens whose logits changed most at each position; -1
            where there are fewer.
        texts: token of each id.
        null: id -> largest share in a benign replicate.
    """
    ids, counts = np.unique(changed[changed >= 0], return_counts=True)
    shares = counts / len(changed)
    expected = np.array([null.get(int(id), 0.0) for id in ids])
    order = np.argsort(expected - shares, kind="stable")[:MOST_SHOWN]
    return [
        TokenDrift(texts[ids[at]], float(shares[at]), float(expected[at]))
        for at in order
        if shares[at] > expected[at]
    ]


def local_start(sites: Sequence[Site], local: Sequence[float], floor: float) -> Site | None:
    """Return the first site whose local distance is above a floor; None if there is none.

    Args:
        sites: sites in the order of the forward pass.
        local: local distance at each site.
        floor: largest distance that benign changes cause.
    """
    return next((site for site, change in zip(sites, local, strict=True) if change > floor), None)


def _mean(values: Doubles) -> float:
    """Return the mean of the values that are not NaN; NaN if there is none."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else np.nan
