"""Decision whether a candidate may replace the base: p-value, limits, margin and verdict."""

import math
from itertools import count
from typing import Literal, NamedTuple

import numpy as np

from neuroscope.stats.similarity import Array

Verdict = Literal["identical", "compatible", "drifted", "inconclusive"]
"""`identical` is decided from the files of the models, before any statistic."""


class Limits(NamedTuple):
    """One-sided confidence limits: each is exceeded on its side at the stated confidence."""

    lower: float
    upper: float


def p_value(statistic: float, null: Array) -> float:
    """Return the p-value of a statistic among m replicates of it under the null hypothesis.

    It is (1 + number of replicates >= statistic) / (m + 1), which is never 0 and keeps the false
    alarm rate even with few replicates (Phipson & Smyth 2010, Stat. Appl. Genet. Mol. Biol. 9).
    The smallest p-value that m replicates can give is 1 / (m + 1), so a hypothesis is rejected if
    p <= alpha, not only if p < alpha: 19 replicates are then enough for alpha = 0.05.

    Args:
        statistic: observed statistic; large values speak against the null hypothesis.
        null: (replicates,) statistics of the replicates.

    Raises:
        ValueError: there is no replicate; a value is NaN.
    """
    if null.ndim != 1 or len(null) == 0:
        raise ValueError(f"null must be (replicates,), at least one; its shape is {null.shape}")
    if math.isnan(statistic) or np.isnan(null).any():
        raise ValueError("the statistic or one of its replicates is NaN")
    return (1 + int(np.sum(null >= statistic))) / (len(null) + 1)


def decide(lower: float, upper: float, margin: float, p: float, alpha: float) -> Verdict:
    """Return the verdict on a statistic of drift that has a margin of what is tolerable.

    The candidate is compatible if the upper limit is below the margin (a non-inferiority test:
    not to detect drift would prove nothing), and drifted if the lower limit is above the margin
    and the statistic is larger than that of benign replicates, p <= alpha.

    Args:
        lower: one-sided lower confidence limit of the statistic.
        upper: one-sided upper confidence limit of the statistic.
        margin: largest tolerable value of the statistic.
        p: p-value of the statistic among benign replicates, as from `p_value`.
        alpha: largest p-value at which drift is declared.

    Raises:
        ValueError: a number is NaN, or `lower` is above `upper`.
    """
    if any(map(math.isnan, (lower, upper, margin, p, alpha))) or lower > upper:
        raise ValueError(
            f"no verdict from limits {lower} and {upper}, margin {margin}, p {p}, alpha {alpha}"
        )
    if upper < margin:
        return "compatible"
    return "drifted" if lower > margin and p <= alpha else "inconclusive"


def limits(statistic: float, resampled: Array, confidence: float = 0.95) -> Limits:
    """Return the one-sided lower and upper limits of a statistic that cannot be negative.

    They are the basic bootstrap limits, 2 t - q, with t the statistic and q the `confidence` and
    1 - `confidence` quantiles of the resamples (Davison & Hinkley 1997, Bootstrap Methods and their
    Application, section 5.2); together they are a two-sided interval of confidence
    2 confidence - 1. Unlike percentiles of the resamples, they correct for the bias that the
    resamples show: the distance of a neuron in a sample is on average a little smaller than in the
    population, and a bootstrap sample repeats this. With many neurons, whose median hardly varies,
    percentiles would nearly always miss the true value. The limits are widened, where the
    correction is larger than the spread, to include the statistic itself.

    Args:
        statistic: the statistic of all prompts.
        resampled: (resamples,) the statistic of each resample.
        confidence: confidence of each limit, between 0.5 and 1.

    Raises:
        ValueError: there is no resample; a value is NaN; `confidence` is out of range.
    """
    missing = math.isnan(statistic) or np.isnan(resampled).any()
    if resampled.ndim != 1 or len(resampled) == 0 or missing:
        raise ValueError("resampled must be (resamples,), at least one, and no value may be NaN")
    if not 0.5 <= confidence < 1:
        raise ValueError(f"confidence must be at least 0.5 and below 1; it is {confidence}")
    high, low = np.quantile(resampled, [confidence, 1 - confidence]).tolist()
    lower, upper = 2 * statistic - high, 2 * statistic - low
    return Limits(max(0.0, min(lower, statistic)), max(upper, statistic))


def spent_alpha(alpha: float, look: int) -> float:
    """Return the alpha of one of many looks, 6 alpha / (pi^2 look^2).

    Over any number of looks the values add up to less than `alpha`, so a monitor that tests every
    version in turn raises a false alarm with at most this probability: 6 / pi^2 is 1 divided by
    the sum of 1 / look^2, and the bound is that of Bonferroni.

    Args:
        alpha: probability of a false alarm over all looks together.
        look: number of the look, from 1.

    Raises:
        ValueError: `alpha` is not between 0 and 1; `look` is below 1.
    """
    _check_alpha(alpha)
    if look < 1:
        raise ValueError(f"looks are numbered from 1; this is {look}")
    return 6 * alpha / (math.pi * look) ** 2


def least_replicates(alpha: float) -> int:
    """Return the smallest number m of replicates with 1 / (m + 1) <= alpha.

    With fewer replicates, no `p_value` can be as small as `alpha`. 0.05 needs 19, 0.01 needs 99.

    Raises:
        ValueError: `alpha` is not between 0 and 1.
    """
    _check_alpha(alpha)
    start = max(1, math.floor(1 / alpha) - 2)  # the division may be rounded either way
    return next(m for m in count(start) if 1 / (m + 1) <= alpha)


def _check_alpha(alpha: float) -> None:
    """Raise ValueError unless alpha is between 0 and 1."""
    if not 0 < alpha < 1:
        raise ValueError(f"alpha must be between 0 and 1; it is {alpha}")
