"""Moments of the activations of groups of prompts, and measures of how groups differ.

A group is, for example, the prompts of one topic. Moments of different prompts are merged, so that
shards are processed apart and no activation is kept.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from neuroscope.stats.moments import Doubles, Moments
from neuroscope.stats.similarity import Array

_ROUNDING = 1e-13  # a spread below this part of the mean or of a difference of means is rounding


@dataclass(frozen=True)
class GroupMoments:
    """Number of prompts of each group and, per group and neuron, the mean and squared deviations.

        >>> values, members = np.array([[1.0], [3.0], [8.0]]), np.array([[True], [True], [False]])
        >>> inside = GroupMoments.of(values, members)
        >>> outside = inside.complement(GroupMoments.of(values, np.ones((3, 1), bool)))
        >>> inside.mean.item(), outside.mean.item()
        (2.0, 8.0)

    A prompt may belong to several groups or to none. Merging uses the pairwise update of Chan,
    Golub & LeVeque (1979), which stays accurate where the mean is much larger than the spread.
    """

    count: NDArray[np.int64]
    """(groups,) number of prompts."""
    mean: Doubles
    """(groups, neurons) mean in the unit of the activations; 0 for a group without prompts."""
    m2: Doubles
    """(groups, neurons) sum of the squared deviations from the mean of the group."""

    @classmethod
    def of(cls, values: Array, members: NDArray[np.bool_]) -> "GroupMoments":
        """Return the moments of one block of prompts.

        Args:
            values: (prompts, neurons) activations.
            members: (prompts, groups) whether each prompt belongs to each group.

        Raises:
            ValueError: the arrays have other dimensions or different numbers of prompts.
        """
        if values.ndim != 2 or members.ndim != 2 or len(values) != len(members):
            raise ValueError(
                f"values must be (prompts, neurons) and members (prompts, groups); their shapes"
                f" are {values.shape} and {members.shape}"
            )
        groups = [Moments.of(values[group]) for group in members.T]
        empty = np.zeros((0, values.shape[1]))
        return cls(
            np.array([group.count for group in groups], dtype=np.int64),
            np.stack([group.mean for group in groups]) if groups else empty,
            np.stack([group.m2 for group in groups]) if groups else empty,
        )

    def merge(self, other: "GroupMoments") -> "GroupMoments":
        """Return the moments of both sets of prompts, which have the same groups and neurons."""
        count = self.count + other.count
        share = (other.count / np.maximum(count, 1))[:, None]
        delta = other.mean - self.mean
        return GroupMoments(
            count,
            self.mean + delta * share,
            self.m2 + other.m2 + delta**2 * (self.count[:, None] * share),
        )

    def select(self, groups: slice) -> "GroupMoments":
        """Return the moments of some of the groups."""
        return GroupMoments(self.count[groups], self.mean[groups], self.m2[groups])

    def complement(self, whole: "GroupMoments") -> "GroupMoments":
        """Return, for each group, the moments of all prompts outside it.

        The update of Chan et al. is solved for one of its two parts.

        Args:
            whole: moments of a single group that contains every prompt.

        Raises:
            ValueError: `whole` has several groups, or fewer prompts than one of these groups.
        """
        if len(whole.count) != 1 or (self.count > whole.count).any():
            raise ValueError(
                "the moments of all prompts must be one group that contains the others"
            )
        count = whole.count - self.count
        present = (count > 0)[:, None]
        odds = (self.count / np.maximum(count, 1))[:, None]  # prompts inside : prompts outside
        shift = whole.mean - self.mean
        m2 = np.maximum(whole.m2 - self.m2 - shift**2 * odds * whole.count, 0)  # not below rounding
        return GroupMoments(
            count,
            np.where(present, whole.mean + shift * odds, 0.0),
            np.where(present, m2, 0.0),
        )


def cohens_d(inside: GroupMoments, outside: GroupMoments) -> Doubles:
    """Return the difference of the means in pooled standard deviations (Cohen 1988).

    d = (mean inside - mean outside) / s, with s^2 = (m2 inside + m2 outside) / (n + m - 2).

    Args:
        inside: moments of the prompts of each group.
        outside: moments of the prompts outside it.

    Returns:
        (groups, neurons); NaN if a side has fewer than 2 prompts, or if the neuron does not vary
        within the sides.
    """
    n, m = inside.count[:, None], outside.count[:, None]
    within = inside.m2 + outside.m2
    defined = (n >= 2) & (m >= 2) & _varies(inside, outside, within)
    sd = np.sqrt(within / np.maximum(n + m - 2, 1))
    return _ratio(inside.mean - outside.mean, sd, defined)


def correlation(inside: GroupMoments, outside: GroupMoments) -> Doubles:
    """Return the point-biserial correlation of each neuron with membership of each group.

    It is Pearson's r with 1 inside the group and 0 outside, as `scipy.stats.pointbiserialr`.

    Args:
        inside: moments of the prompts of each group.
        outside: moments of the prompts outside it.

    Returns:
        (groups, neurons), from -1 to 1; NaN if a side has no prompt or the neuron does not vary.
    """
    n, m = inside.count[:, None], outside.count[:, None]
    difference = inside.mean - outside.mean
    harmonic = n * m / np.maximum(n + m, 1)
    total = inside.m2 + outside.m2 + difference**2 * harmonic
    defined = (n > 0) & (m > 0) & (total > _rounding(inside, outside))
    return _ratio(difference * np.sqrt(harmonic), np.sqrt(total), defined)


def eta_squared(groups: GroupMoments) -> Doubles:
    """Return the share of the variation of each neuron that lies between the groups.

    eta^2 = SSB / (SSB + SSW): squared deviations of the group means from the mean of all prompts,
    weighted by the number of prompts, and squared deviations within groups (Fisher 1925). It is the
    R^2 of a one-way analysis of variance. Each prompt must belong to at most one group.

    Returns:
        (neurons,), from 0 to 1; NaN if there is no prompt or the neuron does not vary.
    """
    count = groups.count[:, None]
    prompts = max(int(count.sum()), 1)
    mean = (count * groups.mean).sum(axis=0) / prompts
    between = (count * (groups.mean - mean) ** 2).sum(axis=0)
    total = between + groups.m2.sum(axis=0)
    return _ratio(between, total, total > prompts * (_ROUNDING * mean) ** 2)


def activation_entropy(shares: Array) -> Doubles:
    """Return the entropy over topics of each neuron's probability of being active, in nats.

    It is LAPE, the language activation probability entropy of Tang et al. (2024,
    arXiv:2402.16438): H = -sum_k p'_k log p'_k with p'_k = p_k / sum p. 0 means active on a single
    topic, and log(topics) equally often active on all. It is meant for neurons that are often
    exactly inactive, as those after a ReLU or a gate.

    Args:
        shares: (topics, neurons) share of the prompts or tokens of a topic at which a neuron is
            active.

    Returns:
        (neurons,); NaN for a neuron that is never active.
    """
    from scipy.special import entr

    shares = np.asarray(shares, dtype=np.float64)
    total = shares.sum(axis=0)
    entropies: Doubles = entr(_ratio(shares, total, total > 0)).sum(axis=0)
    return entropies


def entropy_selected(
    shares: Array, entropies: Doubles, lowest: float = 0.01, active: float = 0.95
) -> NDArray[np.bool_]:
    """Return which neurons are specific to few topics by the rule of Tang et al. (2024).

    As in the code of the paper, neurons are first dropped unless one of their shares is above the
    `active` quantile of all shares. Of the others, those with the lowest entropies are selected, as
    many as `lowest` times the number of all neurons. Neurons with the same entropy as the last one
    are selected too.

    Args:
        shares: (topics, neurons) share of the prompts or tokens of a topic at which a neuron is
            active.
        entropies: (neurons,) their `activation_entropy`.
        lowest: share of all neurons to select, at least one neuron.
        active: quantile of all shares, from 0 to 1.
    """
    bar = np.quantile(shares, active, method="inverted_cdf")
    candidate = (shares > bar).any(axis=0) & np.isfinite(entropies)
    ranked = np.where(candidate, entropies, np.inf)
    number = max(round(lowest * len(ranked)), 1)
    last = np.sort(ranked)[:number][-1:]
    selected: NDArray[np.bool_] = candidate & (ranked <= last)
    return selected


def _varies(inside: GroupMoments, outside: GroupMoments, within: Doubles) -> NDArray[np.bool_]:
    """Return whether squared deviations within two sides are more than the rounding of sums."""
    n, m = inside.count[:, None], outside.count[:, None]
    between = (inside.mean - outside.mean) ** 2 * n * m / np.maximum(n + m, 1)
    varies: NDArray[np.bool_] = within > _ROUNDING * between + _rounding(inside, outside)
    return varies


def _rounding(inside: GroupMoments, outside: GroupMoments) -> Doubles:
    """Return squared deviations below which a neuron that never varied may seem to vary."""
    means = np.maximum(np.abs(inside.mean), np.abs(outside.mean))
    prompts = (inside.count + outside.count)[:, None]
    rounding: Doubles = prompts * (_ROUNDING * means) ** 2
    return rounding


def _ratio(values: Doubles, divisor: Doubles, defined: NDArray[np.bool_]) -> Doubles:
    """Return values / divisor, or NaN where it is not defined."""
    return np.divide(values, divisor, out=np.full_like(values, np.nan), where=defined)
