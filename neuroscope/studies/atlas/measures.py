"""Measures of an atlas: the selectivity of neurons for topics, computed from the counts."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from neuroscope.stats.confounds import covariate_auroc, group_auroc
from neuroscope.stats.group_moments import (
    GroupMoments,
    cohens_d,
    correlation,
    eta_squared,
)
from neuroscope.stats.histograms import (
    auroc,
    average_precision,
    pairwise_auroc,
    rank_p_value,
)
from neuroscope.stats.moments import Doubles
from neuroscope.studies.atlas.counts import SiteCounts
from neuroscope.studies.atlas.experiment import AtlasExperiment
from neuroscope.studies.atlas.topics import TopicIndex

_INSEPARABLE = 0.95
"""AUROC from which a topic cannot be told apart from its source or its length."""
_MOST_SHARED = 0.05
"""Largest share of the prompts of either topic that two rivals may have in common.

A prompt on both topics counts on both sides of the comparison: if all prompts of a topic are on
another one as well, no neuron could tell them apart. The shares that are allowed hardly matter.
"""


@dataclass(frozen=True, eq=False)
class Selectivity:
    """Selectivity of the neurons of a site; every array but the last is (neurons, topics).

    All values but `auroc` are those of the held-out half.
    """

    auroc: Doubles
    auroc_heldout: Doubles
    auroc_error: Doubles
    ap_heldout: Doubles
    ap_error: Doubles
    one_vs_one: Doubles
    """NaN if the topic has no rival."""
    rival: NDArray[np.int64]
    """Index of the topic that is hardest to tell apart; -1 if there is none."""
    d: Doubles
    r: Doubles
    p: Doubles
    polarity: NDArray[np.int8]
    partial_auroc: Doubles
    eta_squared: Doubles
    """(neurons,) share of the variance between topics; NaN if a prompt has several topics."""


def selectivity_of(counts: SiteCounts, known: TopicIndex) -> Selectivity:
    """Return the selectivity of each neuron of a site for each topic.

    Args:
        counts: counts and moments of the site.
        known: what is known of the prompts.
    """
    selection, selection_rest = _inside_outside(counts.counts[0])
    inside, outside = _inside_outside(counts.counts[1])
    areas, _ = auroc(selection, selection_rest)
    polarity = np.where(areas < 0.5, -1, 1).astype(np.int8)
    heldout, error = auroc(inside, outside)
    precision, precision_error = _precision(inside, outside, polarity)
    one_vs_one, rival = _one_vs_one(inside, polarity, rivals_of(known))
    partial, _ = auroc(*_inside_outside(counts.residual_counts))
    topics, rest = _topics_and_rest(counts.moments[1])
    return Selectivity(
        areas,
        heldout,
        error,
        precision,
        precision_error,
        one_vs_one,
        rival,
        cohens_d(topics, rest).T,
        correlation(topics, rest).T,
        rank_p_value(inside, outside),
        polarity,
        partial,
        variance_explained(counts, known),
    )


def _inside_outside(counts: NDArray[np.uint32]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the counts in and outside each topic, (neurons, topics, bins) each.

    Args:
        counts: (groups, neurons, bins), those of all prompts first.
    """
    signed = counts.astype(np.int64).transpose(1, 0, 2)
    inside = signed[:, 1:]
    return inside, signed[:, :1] - inside


def _precision(
    inside: NDArray[np.int64], outside: NDArray[np.int64], polarity: NDArray[np.int8]
) -> tuple[Doubles, Doubles]:
    """Return average precision and its error; for silent neurons, low values rank first."""
    active = average_precision(inside, outside)
    silent = average_precision(inside[..., ::-1], outside[..., ::-1])
    value, error = (
        np.where(polarity > 0, first, second) for first, second in zip(active, silent, strict=True)
    )
    return value, error


def _one_vs_one(
    inside: NDArray[np.int64], polarity: NDArray[np.int8], rivals: NDArray[np.bool_]
) -> tuple[Doubles, NDArray[np.int64]]:
    """Return the smallest AUROC against a single rival, and the index of that topic.

    Args:
        inside: (neurons, topics, bins) counts of each topic.
        polarity: (neurons, topics).
        rivals: (topics, topics), see `rivals_of`.

    Returns:
        (neurons, topics) each; NaN and -1 for a topic without rivals.
    """
    pairs = strength(pairwise_auroc(inside), polarity[..., None])
    pairs[:, ~rivals] = np.inf
    rival = np.nanargmin(pairs, axis=2)
    smallest = np.take_along_axis(pairs, rival[..., None], axis=2)[..., 0]
    alone = ~rivals.any(axis=1)
    return np.where(alone, np.nan, smallest), np.where(alone, -1, rival)


def rivals_of(topics: TopicIndex) -> NDArray[np.bool_]:
    """Return which topics each topic is compared with one against one, (topics, topics).

    Two topics are rivals if they share at most 5 % of the prompts of either in the held-out half.
    """
    members = topics.members[topics.heldout]
    shared = np.array([members[own].sum(axis=0) for own in members.T])  # number of prompts
    fewer = np.minimum.outer(shared.diagonal(), shared.diagonal())
    rivals: NDArray[np.bool_] = (shared <= _MOST_SHARED * fewer) & ~np.eye(len(shared), dtype=bool)
    return rivals


def strength(areas: Doubles, polarity: NDArray[np.int8]) -> Doubles:
    """Return the AUROC of active neurons (1), and 1 - AUROC of silent ones (-1)."""
    return np.where(polarity > 0, areas, 1 - areas)


def _topics_and_rest(moments: GroupMoments) -> tuple[GroupMoments, GroupMoments]:
    """Return the moments in and outside each topic.

    Args:
        moments: moments of all prompts first, then of each topic.
    """
    whole, topics = moments.select(slice(1)), moments.select(slice(1, None))
    return topics, topics.complement(whole)


@dataclass(frozen=True, eq=False)
class Verdicts:
    """Entries that pass the thresholds; every array is (neurons, topics)."""

    selective: NDArray[np.bool_]
    confounded: NDArray[np.bool_]


def verdicts_of(
    measured: Selectivity,
    q: Doubles,
    shares: Doubles,
    separable: NDArray[np.bool_],
    experiment: AtlasExperiment,
) -> Verdicts:
    """Return which neurons are selective for which topics, and which of these are confounded.

    A selective entry is confounded if its AUROC does not reach the threshold once the effect of
    the covariates is removed, or if the topic is not separable from one of them.

    Args:
        measured: selectivity of a site.
        q: (neurons, topics) q-values.
        shares: (topics,) share of each topic among the prompts of the held-out half.
        separable: (topics,) whether no single covariate identifies the topic.
        experiment: thresholds.
    """
    floor = np.minimum(experiment.min_lift * shares, (1 + shares) / 2)
    polarity = measured.polarity
    with np.errstate(invalid="ignore"):  # NaN passes no threshold
        selective = (
            (strength(measured.auroc, polarity) >= experiment.min_auroc)
            & (strength(measured.auroc_heldout, polarity) >= experiment.min_auroc)
            & (measured.ap_heldout >= floor)
            & ((measured.one_vs_one >= experiment.min_one_vs_one) | (measured.rival < 0))
            & (q < experiment.max_q)
        )
        explained = ~(strength(measured.partial_auroc, polarity) >= experiment.min_auroc)
    return Verdicts(selective, selective & (explained | ~separable))


@dataclass(frozen=True, eq=False)
class Confounds:
    """AUROC of each covariate for each topic, without any neuron."""

    areas: dict[str, Doubles]
    """Covariate -> (topics,) AUROC on the held-out half.

    That of the source is learned on one random half of the prompts, and is that of the other.
    """

    @classmethod
    def of(cls, topics: TopicIndex, tokens: NDArray[np.int64]) -> "Confounds":
        """Return the AUROC of each number and of the source.

        Args:
            topics: what is known of the prompts.
            tokens: (prompts,) number of content tokens of each prompt.
        """
        heldout, members = topics.heldout, topics.members
        numbers = {"tokens": tokens.astype(np.float64), **topics.numbers}
        areas = {
            name: covariate_auroc(values[heldout], members[heldout])
            for name, values in numbers.items()
        }
        if len(np.unique(topics.sources)) > 1:
            half = topics.random_half  # with a split by source, no half knows the other's sources
            areas["source"] = group_auroc(
                topics.sources[~half], members[~half], topics.sources[half], members[half]
            )
        return cls(areas)

    @property
    def separable(self) -> NDArray[np.bool_]:
        """(topics,) whether no single covariate identifies the topic."""
        return np.array([not reason for reason in self.reasons])

    @property
    def reasons(self) -> list[str]:
        """Why each topic is not separable in these data; empty for those that are."""
        count = len(next(iter(self.areas.values())))
        return [
            " and ".join(
                name.replace("tokens", "length").replace("_", " ")
                for name, areas in self.areas.items()
                if max(areas[topic], 1 - areas[topic]) >= _INSEPARABLE
            )
            for topic in range(count)
        ]


def variance_explained(counts: SiteCounts, known: TopicIndex) -> Doubles:
    """Return eta squared of each neuron over the topics, on the held-out half.

    It is NaN if a prompt has several topics, as the variance then has no parts that add up.
    """
    explained = eta_squared(counts.moments[1].select(slice(1, None)))
    several = bool((known.members.sum(axis=1) > 1).any())
    return np.full_like(explained, np.nan) if several else explained
