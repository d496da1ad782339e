"""Shares of cases with an outcome, in per cent, and the comparison of two shares."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Flags = NDArray[np.bool_] | Sequence[bool]


@dataclass(frozen=True)
class Share:
    """Share of cases with an outcome, with its 95 % interval, all in per cent."""

    percent: float
    low: float
    """Lower end of the 95 % interval (Wilson 1927)."""
    high: float
    """Upper end of the interval."""
    count: int
    """Number of cases."""


def share(outcomes: Flags) -> Share:
    """Return the share of the cases with an outcome, and its Wilson interval.

    Args:
        outcomes: (cases,) flags, one or more.

    Raises:
        ValueError: there is no case.
    """
    from scipy.stats import binomtest

    count, hits = len(outcomes), int(np.count_nonzero(outcomes))
    interval = binomtest(hits, count).proportion_ci(0.95, method="wilson")
    low, high = float(interval.low), float(interval.high)
    return Share(100 * hits / count, 100 * low, 100 * high, count)


def paired_p_value(first: Flags, second: Flags) -> float:
    """Return the p-value of the exact test of McNemar (1947) that two shares are equal.

    Both outcomes are known of every case. Only the cases in which they differ matter: if the shares
    are equal, each of these has one outcome or the other with probability 1/2.

    Args:
        first: (cases,) flags of one outcome.
        second: (cases,) flags of the other outcome, of the same cases.

    Returns:
        Two-sided p-value; 1 if the outcomes differ in no case.
    """
    from scipy.stats import binomtest

    a, b = np.asarray(first, dtype=bool), np.asarray(second, dtype=bool)
    only_first, differing = int((a & ~b).sum()), int((a != b).sum())
    return float(binomtest(only_first, differing).pvalue) if differing else 1.0
