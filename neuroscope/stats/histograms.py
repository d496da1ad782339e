"""Measures of neurons as detectors of topics, computed from histograms of their activations.

    >>> edges = edges_of(np.arange(100.0)[:, None])
    >>> inside = np.array([0] * 63 + [5])
    >>> outside = np.array([20] + [0] * 63)
    >>> auroc(inside, outside)[0].item()
    1.0

A histogram counts the prompts of a topic in each of 64 bins of a neuron's activation. An activation
x falls into bin b if edge b - 1 < x <= edge b, as `np.searchsorted` and `torch.bucketize` count
by default. Counts of different prompts can be added, so shards are processed apart. Every measure
treats the prompts of one bin as tied; where that changes the value, a bound on the change follows.
"""

import numpy as np
from numpy.typing import NDArray

from neuroscope.stats.checks import check_activations
from neuroscope.stats.moments import Doubles
from neuroscope.stats.similarity import Array

Counts = NDArray[np.integer] | NDArray[np.floating]
"""Whole numbers of prompts; the last axis is the bins, from the lowest to the highest."""

BINS = 64
"""Number of bins of a histogram, the open first and last ones included."""

_UNIFORM = 48  # uniform steps of the quantile level
_TAIL = 8  # further levels at each end
_RATIO = 1.6  # of two successive levels of a tail


def levels() -> Doubles:
    """Return the quantile levels of the 63 interior edges, (63,), in ascending order.

    They are k/48 for k = 1..47 and, at each end, 8 levels that approach 0 or 1 by a factor of 1.6.
    Topics are rare: the average precision of a topic with 1 prompt in 100 depends on the order of
    the few most active prompts, so the tails need narrow bins. The smallest level is about 1/2061,
    which a pilot sample of 2,048 prompts resolves.
    """
    tail = _RATIO ** -np.arange(_TAIL, 0, -1.0) / _UNIFORM
    return np.concatenate([tail, np.arange(1, _UNIFORM) / _UNIFORM, 1 - tail[::-1]])


def edges_of(values: Array) -> NDArray[np.float32]:
    """Return the interior edges of the bins of each neuron: quantiles of a pilot sample.

    Quantiles between two activations are interpolated linearly, as by `np.quantile`. Edges may
    coincide, for example at 0 for a neuron that is often exactly 0. The bin between two equal edges
    stays empty.

    Args:
        values: (prompts, neurons) activations of the pilot sample.

    Returns:
        (neurons, 63) in ascending order, in the unit of the activations.

    Raises:
        ValueError: the array has another number of dimensions, no prompt or no neuron; or a value
            is NaN or infinite.
    """
    check_activations(values, "values")
    ordered = np.sort(values, axis=0)  # much faster than np.quantile with so many levels
    positions = levels()[:, None] * (len(values) - 1)
    lower = np.floor(positions).astype(np.intp)[:, 0]
    upper = np.minimum(lower + 1, len(values) - 1)
    left, right = (ordered[rows].astype(np.float64) for rows in (lower, upper))
    quantiles = (left + (positions - lower[:, None]) * (right - left)).T.astype(np.float32)
    ascending: NDArray[np.float32] = np.maximum.accumulate(quantiles, axis=-1)  # despite rounding
    return ascending


def auroc(inside: Counts, outside: Counts) -> tuple[Doubles, Doubles]:
    """Return the area under the ROC curve of a topic and a bound on its error.

    It is the probability that the activation at a prompt of the topic is higher than at another
    prompt, ties counting one half (Hanley & McNeil 1982, Radiology 143). With p_b and q_b the
    shares of the prompts inside and outside the topic that lie in bin b, the pairs within bins are
    sum_b p_b q_b of all pairs. Each of them counts 1/2 instead of 0, 1/2 or 1. The area of the
    activations therefore differs by at most 1/2 sum_b p_b q_b.

    Args:
        inside: (…, bins) number of prompts of the topic in each bin.
        outside: number of other prompts, of a shape that broadcasts with `inside`.

    Returns:
        Area and bound, both (…); NaN if there is no prompt inside, or none outside.
    """
    p, q = _doubles(inside), _doubles(outside)
    pairs = p.sum(axis=-1) * q.sum(axis=-1)
    ties = np.einsum("...b,...b->...", p, q)
    return _ratio(_wins(p, q), pairs), _ratio(ties / 2, pairs)


def pairwise_auroc(counts: Counts) -> Doubles:
    """Return the area under the ROC curve of each topic against each other topic.

    Args:
        counts: (neurons, topics, bins) number of prompts.

    Returns:
        (neurons, topics, topics): [n, i, j] is the probability that neuron n is more active at a
        prompt of topic i than at one of topic j, ties counting one half. It is 0.5 on the diagonal,
        up to rounding, and NaN where topic i or topic j has no prompt.
    """
    counts = _doubles(counts)
    shares = _ratio(counts, counts.sum(axis=-1, keepdims=True))
    below = np.cumsum(shares, axis=-1) - shares / 2
    areas: Doubles = shares @ below.swapaxes(-1, -2)
    return areas


def average_precision(inside: Counts, outside: Counts) -> tuple[Doubles, Doubles]:
    """Return the average precision of a topic and a bound on its error.

    Prompts are retrieved from the highest bin to the lowest. The value is the mean over the
    prompts of the topic of the precision when the prompt's bin has been retrieved, as that of
    `sklearn.metrics.average_precision_score` with the bin as the score; Suau et al. (2020,
    arXiv:2005.07647) select neurons by it. For a neuron that detects the topic it is usually lower
    than that of the activations, as a bin counts the precision after its last prompt.

    The average precision of the activations depends on the order within bins. Let T and F be the
    numbers of prompts inside and outside the topic in higher bins, and p and q those in this bin.

    - Best case: the p prompts are tied and come before the q, each with precision
      (T + p) / (T + p + F).
    - Worst case: they come last and untied. Number i of them has precision f(i) with
      f(i) = (T + i) / (T + i + F + q). As f is concave, the mean of f(1)..f(p) is at least
      (f(1) + f(p)) / 2, and f(p) is the precision that the value uses.

    The bound is the larger of the sums of both differences, so it is never too small.

    Args:
        inside: (…, bins) number of prompts of the topic in each bin.
        outside: number of other prompts, of a shape that broadcasts with `inside`.

    Returns:
        Value and bound, both (…); NaN if there is no prompt inside.
    """
    p, q = _doubles(inside), _doubles(outside)
    precision, best, first = _precisions(p, q)
    members = np.broadcast_to(p.sum(axis=-1), precision.shape[:-1])
    above = np.einsum("...b,...b->...", p, best - precision)
    below = np.einsum("...b,...b->...", p, precision - first) / 2
    value = np.einsum("...b,...b->...", p, precision)
    return _ratio(value, members), _ratio(np.maximum(above, below), members)


def _precisions(p: Doubles, q: Doubles) -> tuple[Doubles, Doubles, Doubles]:
    """Return three precisions per bin: the one after it, the best case, and f(1) of the worst."""
    hits, misses = _from_the_top(p), _from_the_top(q)  # T + p and F + q
    retrieved = hits + misses
    precision = hits / np.maximum(retrieved, 1)
    best = hits / np.maximum(retrieved - q, 1)
    first = (hits - p + 1) / (retrieved - p + 1)
    return precision, best, first


def _from_the_top(counts: Doubles) -> Doubles:
    """Return the number of prompts in each bin and all higher ones."""
    return np.cumsum(counts[..., ::-1], axis=-1)[..., ::-1]


def rank_p_value(inside: Counts, outside: Counts) -> Doubles:
    """Return the two-sided p-value of the Mann-Whitney test of a topic against the other prompts.

    The normal approximation with correction for ties and for continuity, as
    `scipy.stats.mannwhitneyu(method="asymptotic", use_continuity=True)` computes it from bins.
    Prompts in the same bin are ties, so the test is valid, and loses a little power. The unit is
    the prompt.

    Args:
        inside: (…, bins) number of prompts of the topic in each bin.
        outside: number of other prompts, of a shape that broadcasts with `inside`.

    Returns:
        (…); NaN if there is no prompt inside, or none outside; 1 if all prompts share a bin.
    """
    from scipy.special import ndtr

    p, q = _doubles(inside), _doubles(outside)
    pairs = p.sum(axis=-1) * q.sum(axis=-1)
    total = p.sum(axis=-1) + q.sum(axis=-1)
    tied = np.einsum("...b,...b,...b->...", *[p + q] * 3)
    variance = pairs / 12 * _ratio(np.maximum(total**3 - tied, 0), total * (total - 1))
    distance = np.maximum(np.abs(_wins(p, q) - pairs / 2) - 0.5, 0)  # 0.5 for continuity
    z = np.divide(distance, np.sqrt(variance), out=np.zeros_like(distance), where=variance > 0)
    return np.where(pairs > 0, 2 * ndtr(-z), np.nan)


def quantiles(
    counts: Counts, edges: Array, low: Array, high: Array, at: NDArray[np.floating]
) -> Doubles:
    """Return quantiles of each neuron, interpolated linearly within bins.

    The open first and last bins end at the minimum and the maximum of the neuron.

    Args:
        counts: (neurons, bins) number of prompts.
        edges: (neurons, bins - 1) interior edges, in ascending order.
        low: (neurons,) minimum of the activations that were counted.
        high: (neurons,) maximum.
        at: (levels,) levels of the quantiles, from 0 to 1.

    Returns:
        (neurons, levels), in the unit of the activations; NaN for a neuron without counts.
    """
    low, high = _doubles(low)[:, None], _doubles(high)[:, None]
    ends = np.concatenate([low, np.clip(edges, low, high), high], axis=1)  # (neurons, bins + 1)
    up_to = np.cumsum(counts, axis=1, dtype=np.float64)  # prompts up to the end of each bin
    ranks = up_to[:, -1:] * np.asarray(at, dtype=np.float64)
    bins = (up_to[:, None, :-1] < ranks[..., None]).sum(axis=-1)  # (neurons, levels)
    size = np.take_along_axis(_doubles(counts), bins, axis=1)
    missing = np.take_along_axis(up_to, bins, axis=1) - ranks
    part = 1 - np.divide(missing, size, out=np.ones_like(ranks), where=size > 0)
    left, right = (np.take_along_axis(ends, bins + step, axis=1) for step in (0, 1))
    return np.where(up_to[:, -1:] > 0, left + part * (right - left), np.nan)


def _wins(p: Doubles, q: Doubles) -> Doubles:
    """Return the Mann-Whitney U: pairs in which the prompt inside is higher, ties one half."""
    below = np.cumsum(q, axis=-1)
    below -= q / 2
    wins: Doubles = np.einsum("...b,...b->...", p, below)
    return wins


def _ratio(total: Doubles, count: Doubles) -> Doubles:
    """Return total / count, or NaN where the count is 0."""
    return np.divide(total, count, out=np.full_like(total, np.nan), where=count > 0)


def _doubles(values: Counts) -> Doubles:
    return np.asarray(values, dtype=np.float64)
