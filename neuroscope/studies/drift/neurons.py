"""Neurons that moved most, with what has changed: mean, spread, correlation and selectivity."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from neuroscope.activations import Floats
from neuroscope.sites import Site
from neuroscope.stats.moments import Moments
from neuroscope.stats.paired import neuron_distances
from neuroscope.stats.selectivity import auroc
from neuroscope.studies.drift.agreement import Values
from neuroscope.studies.drift.explanation import MOST_SHOWN

LEAST_SELECTIVE = 5
"""Fewest prompts of a topic for which selectivity is measured."""


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
    base_topic: str = ""
    """Topic for which it is most selective in the base: that whose AUROC is farthest from 0.5.
    Empty without topics."""
    base_auroc: float = np.nan
    """AUROC of that topic against all other prompts: above 0.5 if the neuron is more active at
    prompts of the topic, below if it is less active."""
    candidate_topic: str = ""
    """Topic for which it is most selective in the candidate."""
    candidate_auroc: float = np.nan


def moved_neurons(
    base: Values, candidate: Values, topics: Sequence[str | None] = ()
) -> list[NeuronDrift]:
    """Return the neurons with the largest 1 - r over all sites, in descending order.

    Args:
        base: activations of the base.
        candidate: activations of the candidate.
        topics: topic of each prompt, or None; empty to leave out selectivity.
    """
    moved: list[NeuronDrift] = []
    for site in base:
        distance = neuron_distances(base[site], candidate[site]).distance
        most = np.argsort(-np.nan_to_num(distance), kind="stable")[:MOST_SHOWN]
        own, other = (Moments.of(values[site][:, most]) for values in (base, candidate))
        with np.errstate(divide="ignore", invalid="ignore"):
            shift, scale = (other.mean - own.mean) / own.sd, other.sd / own.sd
        moved += [
            NeuronDrift(
                f"{site}.{neuron}", float(distance[neuron]), float(shift[at]), float(scale[at])
            )
            for at, neuron in enumerate(most.tolist())
        ]
    most_moved = sorted(moved, key=lambda neuron: -np.nan_to_num(neuron.one_minus_r))[:MOST_SHOWN]
    return [_with_selectivity(neuron, base, candidate, topics) for neuron in most_moved]


def _with_selectivity(
    neuron: NeuronDrift, base: Values, candidate: Values, topics: Sequence[str | None]
) -> NeuronDrift:
    """Add the topics for which a neuron is most selective."""
    name, _, number = neuron.neuron.rpartition(".")
    site, column = Site.parse(name), int(number)
    own = most_selective(base[site][:, column], topics)
    other = most_selective(candidate[site][:, column], topics)
    return replace(
        neuron,
        base_topic=own[0],
        base_auroc=own[1],
        candidate_topic=other[0],
        candidate_auroc=other[1],
    )


def most_selective(values: Floats, topics: Sequence[str | None]) -> tuple[str, float]:
    """Return the topic whose AUROC against all other prompts is farthest from 0.5, and its AUROC.

    Topics with fewer than `LEAST_SELECTIVE` prompts are left out, as chance alone makes their AUROC
    extreme.

    Args:
        values: (prompts,) activations of a neuron.
        topics: topic of each prompt, or None.

    Returns:
        An empty name and NaN if there are fewer than two topics.
    """
    counts = Counter(topic for topic in topics if topic)
    names = sorted(topic for topic in counts if counts[topic] >= LEAST_SELECTIVE)
    if len(counts) < 2 or not names:
        return "", np.nan
    inside = np.array([[topic == name for topic in topics] for name in names])
    areas = [float(auroc(values[:, np.newaxis], members)[0]) for members in inside]
    best = max(range(len(names)), key=lambda at: (round(abs(areas[at] - 0.5), 12), areas[at]))
    return names[best], areas[best]
