"""Contrasts of associations over templates: difference in differences, tests and intervals."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neuroscope.stats.moments import Doubles

LEAST_TEMPLATES = 6
"""Fewest templates of a sign-flip test: of n templates, the smallest two-sided p-value is 2/2^n."""

_RESAMPLES = 9999
_BATCH = 500  # resamples or sign patterns that are held in memory at a time
_LEAST_SPREAD = 1e-12  # standard deviation relative to the values, below which they are equal


def unit_vectors(values: NDArray[np.floating]) -> Doubles:
    """Return vectors divided by their Euclidean norms; 0 for a vector of zeros.

    Args:
        values: (..., neurons).
    """
    values = values.astype(np.float64)
    norms = np.linalg.norm(values, axis=-1, keepdims=True)
    units: Doubles = np.divide(values, norms, out=np.zeros_like(values), where=norms > 0)
    return units


def contributions(
    role: Doubles, controls: Doubles, group_a: Doubles, group_b: Doubles
) -> tuple[Doubles, Doubles]:
    """Return what each neuron contributes to the raw and to the controlled contrast.

    With S(r, g) the mean cosine of a role r with the words of a group g, the raw contrast is
    R(r) = S(r, a) - S(r, b), and the controlled one, a difference in differences, is
    D = R(r) - mean over control roles c of R(c). Whatever adds the same number to S(r, g) for
    every r, such as the length or the frequency of the words of g, cancels in D. Both are sums
    over neurons of the products that are returned. Summed over neurons, D is the numerator of WEAT
    (Caliskan et al. 2017, doi:10.1126/science.aal4230) with the attributes {r} and the controls.

    Args:
        role: (neurons,) unit vector of the role.
        controls: (controls, neurons) unit vectors of the control roles.
        group_a: (words, neurons) unit vectors of the words of the first group.
        group_b: (words, neurons) unit vectors of those of the second.

    Returns:
        Two arrays, (neurons,): terms of the raw and of the controlled contrast.
    """
    direction = group_a.mean(axis=0) - group_b.mean(axis=0)
    return role * direction, (role - controls.mean(axis=0)) * direction


@dataclass(frozen=True, eq=False)
class ContrastStatistics:
    """Means of contrasts over templates, with their errors; every array is (contrasts,)."""

    mean: Doubles
    low: Doubles
    """Lower end of the 95 % interval; NaN with a single template."""
    high: Doubles
    p: Doubles
    """Two-sided p-value of a sign-flip test; NaN below `LEAST_TEMPLATES` templates."""
    effect: Doubles
    """Mean divided by the standard deviation over templates (ddof 1), Cohen's d_z; NaN if that is
    0."""
    templates: NDArray[np.int64]
    """Number of templates that have a value."""


def contrast_statistics(values: Doubles, *, seed: int = 0) -> ContrastStatistics:
    """Return the means of contrasts, tested with the template as unit.

    The p-value is that of a sign-flip permutation test, exact up to 13 templates
    (`scipy.stats.permutation_test`, Ernst 2004, doi:10.1214/088342304000000396); the interval is
    the BCa bootstrap over templates (Efron 1987, doi:10.1080/01621459.1987.10478410;
    `scipy.stats.bootstrap`).

    Args:
        values: (templates, contrasts); NaN where a template has no value.
        seed: seed of resamples.
    """
    means, effects = (np.full(values.shape[1], np.nan) for _ in range(2))
    lows, highs, p = (np.full(values.shape[1], np.nan) for _ in range(3))
    known = ~np.isnan(values)
    # contrasts with values in the same templates are tested together
    for pattern in np.unique(known, axis=1).T:
        columns = np.flatnonzero((known == pattern[:, None]).all(axis=0))
        block = values[np.ix_(pattern, columns)]
        if not len(block):
            continue
        means[columns] = block.mean(axis=0)
        if len(block) > 1:
            lows[columns], highs[columns] = bca_interval([block], _mean, seed=seed)
            effects[columns] = _effects(block)
        if len(block) >= LEAST_TEMPLATES:
            p[columns] = sign_flip_p(block, seed=seed)
    return ContrastStatistics(means, lows, highs, p, effects, known.sum(axis=0))


def sign_flip_p(values: Doubles, *, seed: int = 0) -> Doubles:
    """Return the two-sided p-value of each mean being 0, (contrasts,), by flipping signs.

    Args:
        values: (templates, contrasts), without NaN.
        seed: seed of sign patterns, if there are too many for all of them.
    """
    from scipy.stats import permutation_test

    p = np.ones(values.shape[1])
    varied = values.any(axis=0)  # a contrast that is 0 in every template has p = 1
    if varied.any():
        p[varied] = permutation_test(
            (values[:, varied],),
            _mean,
            permutation_type="samples",
            vectorized=True,
            n_resamples=_RESAMPLES,
            batch=_BATCH,
            axis=0,
            rng=np.random.default_rng(seed),
        ).pvalue
    return p


def bca_interval(
    samples: Sequence[Doubles], statistic: Any, *, seed: int = 0
) -> tuple[Doubles, Doubles]:
    """Return the 95 % BCa interval of a statistic of paired samples, two arrays (contrasts,).

    Args:
        samples: (templates, contrasts) each, without NaN, and with 2 templates or more.
        statistic: function of the samples and of `axis`.
        seed: seed of resamples.
    """
    from scipy.stats import bootstrap

    low = np.array(statistic(*samples, axis=0), dtype=np.float64)
    high = low.copy()  # a contrast that is the same in every template has no width
    varied = np.any([_varies(sample) for sample in samples], axis=0)
    if varied.any():
        with np.errstate(divide="ignore", invalid="ignore"):
            interval = bootstrap(
                tuple(sample[:, varied] for sample in samples),
                statistic,
                paired=True,
                vectorized=True,
                n_resamples=_RESAMPLES,
                batch=_BATCH,
                axis=0,
                rng=np.random.default_rng(seed),
            ).confidence_interval
        low[varied], high[varied] = interval.low, interval.high
    return low, high


@dataclass(frozen=True)
class Share:
    """Share of a raw contrast that is left after control: 1 if all of it, 0 if none."""

    share: float
    low: float
    """Lower end of the 95 % interval."""
    high: float


def surviving_share(raw: Doubles, controlled: Doubles, *, seed: int = 0) -> Share:
    """Return mean(controlled) / mean(raw) with its 95 % BCa interval over templates.

    Args:
        raw: (templates,) raw contrasts; NaN where a template has no value.
        controlled: (templates,) controlled contrasts.
        seed: seed of resamples.

    Returns:
        NaN with fewer than 2 templates that have both, or if the interval of the raw contrast
        contains 0: a share of what may be nothing has no meaning.
    """
    known = ~(np.isnan(raw) | np.isnan(controlled))
    raw, controlled = (values[known][:, None] for values in (raw, controlled))
    if len(raw) < 2 or not _is_not_zero(raw, seed):
        return Share(math.nan, math.nan, math.nan)
    share = float(_ratio(raw, controlled, axis=0)[0])
    if np.abs(controlled - share * raw).max() <= _LEAST_SPREAD * np.abs(raw).max():
        return Share(share, share, share)  # the same in every template
    low, high = bca_interval([raw, controlled], _ratio, seed=seed)
    return Share(share, float(low[0]), float(high[0]))


def _is_not_zero(values: Doubles, seed: int) -> bool:
    """Return whether the interval of the mean, (templates, 1), does not contain 0."""
    low, high = bca_interval([values], _mean, seed=seed)
    return bool(low[0] > 0 or high[0] < 0)


def t_test_p(values: Doubles) -> Doubles:
    """Return the two-sided p-value of each mean being 0 by a one-sample t test, (neurons,).

    Unlike a sign-flip test of few templates, it reaches p-values that survive a correction for
    thousands of neurons, at the price of assuming that values are roughly normal over templates.

    Args:
        values: (templates, neurons), without NaN.

    Returns:
        NaN below `LEAST_TEMPLATES` templates; 1 for a neuron that is 0 in every template, and 0
        for one that has another value, the same in all.
    """
    from scipy.stats import ttest_1samp

    if len(values) < LEAST_TEMPLATES:
        return np.full(values.shape[1], np.nan)
    p = np.where(values.any(axis=0), 0.0, 1.0)
    varied = _varies(values)
    p[varied] = ttest_1samp(values[:, varied], 0.0, axis=0).pvalue
    return p


def corrected(p: NDArray[np.floating]) -> Doubles:
    """Return q-values by Benjamini and Hochberg (1995), in the shape of `p`; NaN where p is."""
    from scipy.stats import false_discovery_control

    q = np.full(p.shape, np.nan)
    known = ~np.isnan(p)
    if known.any():
        q[known] = false_discovery_control(p[known])
    return q


def _mean(values: Doubles, axis: int) -> Doubles:
    mean: Doubles = values.mean(axis=axis)
    return mean


def _ratio(raw: Doubles, controlled: Doubles, axis: int) -> Doubles:
    ratio: Doubles = controlled.mean(axis=axis) / raw.mean(axis=axis)
    return ratio


def _varies(values: Doubles) -> NDArray[np.bool_]:
    """Return which columns have values that differ by more than rounding errors."""
    spread: NDArray[np.bool_] = values.std(axis=0) > _LEAST_SPREAD * np.abs(values).max(axis=0)
    return spread


def _effects(values: Doubles) -> Doubles:
    """Return mean / standard deviation of each column (ddof 1); NaN for equal values."""
    sd = values.std(axis=0, ddof=1)
    effects: Doubles = np.divide(
        values.mean(axis=0), sd, out=np.full(values.shape[1], np.nan), where=_varies(values)
    )
    return effects
