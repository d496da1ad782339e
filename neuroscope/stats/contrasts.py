"""Contrasts of associations over templates: difference in differences, tests and intervals."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neuroscope.stats.moments import Doubles

LEAST_TEMPLATES = 6
"""Fewest templates of a sign-flip test: of n templates, the smallest two-sided p-value is 2/2^n."""

_RESAMPLES = 9999
_BATCH = 500  # resamples or sign patterns that are held in memory at a time
_ROUNDING = 1e-12  # size of a contrast, a difference of cosines, that may be rounding
_LEAST_SPREAD = 1e-12  # standard deviation relative to the values, below which they are equal


def unit_vectors(values: NDArray[np.floating]) -> Doubles:
    """Return vectors divided by their Euclidean norms; 0 for a vector of zeros, NaN for NaN.

    Args:
        values: (..., neurons).
    """
    values = values.astype(np.float64)
    norms = np.linalg.norm(values, axis=-1, keepdims=True)
    units: Doubles = np.divide(values, norms, out=np.zeros_like(values), where=norms != 0)
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


def contrast_statistics(values: Doubles, *, seed: int = 0, p: bool = True) -> ContrastStatistics:
    """Return the means of contrasts, tested with the template as unit.

    The p-value is that of a sign-flip permutation test, exact up to 13 templates
    (`scipy.stats.permutation_test`, Ernst 2004, doi:10.1214/088342304000000396); the interval is
    the BCa bootstrap over templates (Efron 1987, doi:10.1080/01621459.1987.10478410;
    `scipy.stats.bootstrap`).

    Args:
        values: (templates, contrasts); NaN where a template has no value.
        seed: seed of resamples.
        p: whether to compute p-values, which takes longest.
    """
    means, effects = (np.full(values.shape[1], np.nan) for _ in range(2))
    lows, highs, tests = (np.full(values.shape[1], np.nan) for _ in range(3))
    known = ~np.isnan(values)
    # contrasts with values in the same templates are tested together
    for pattern in np.unique(known, axis=1).T:
        columns = np.flatnonzero((known == pattern[:, None]).all(axis=0))
        block = values[np.ix_(pattern, columns)]
        if not len(block):
            continue
        means[columns] = block.mean(axis=0)
        if len(block) > 1:
            lows[columns], highs[columns] = bca_interval(block, seed=seed)
            effects[columns] = _effects(block)
        if p and len(block) >= LEAST_TEMPLATES:
            tests[columns] = sign_flip_p(block, seed=seed)
    return ContrastStatistics(means, lows, highs, tests, effects, known.sum(axis=0))


def sign_flip_p(values: Doubles, *, seed: int = 0) -> Doubles:
    """Return the two-sided p-value of each mean being 0, (contrasts,), by flipping signs.

    Args:
        values: (templates, contrasts), without NaN.
        seed: seed of sign patterns, if there are too many for all of them.
    """
    from scipy.stats import permutation_test

    p = np.ones(values.shape[1])
    # a contrast that is 0 in every template, apart from rounding, has p = 1
    varied = np.abs(values).max(axis=0) > _ROUNDING
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


def bca_interval(values: Doubles, *, seed: int = 0) -> tuple[Doubles, Doubles]:
    """Return the 95 % BCa interval of each mean, two arrays (contrasts,).

    Args:
        values: (templates, contrasts), without NaN, of 2 templates or more.
        seed: seed of resamples.
    """
    from scipy.stats import bootstrap

    low = values.mean(axis=0)
    high = low.copy()  # a contrast that is the same in every template has no width
    varied = _varies(values)
    if varied.any():
        interval = bootstrap(
            (values[:, varied],),
            _mean,
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
    """Return the share of raw contrasts that is left in the controlled ones, with its interval.

    With R and D the means over templates, it is the slope of D on R through the origin, the sum
    over roles of R D divided by the sum of R^2: D / R for one role. The interval is the 95 % BCa
    bootstrap over templates.

    Args:
        raw: (templates,) or (templates, roles) raw contrasts; NaN where a template has no value.
        controlled: controlled contrasts of the same shape.
        seed: seed of resamples.

    Returns:
        NaN with fewer than 2 templates that have all values, or if the interval of every raw
        contrast contains 0: a share of what may be nothing has no meaning.
    """
    from scipy.stats import bootstrap

    raw, controlled = (values.reshape(len(values), -1) for values in (raw, controlled))
    known = ~np.isnan(raw + controlled).any(axis=1)
    raw, controlled = raw[known], controlled[known]
    if len(raw) < 2:
        return Share(math.nan, math.nan, math.nan)
    low, high = bca_interval(raw, seed=seed)
    if not ((low > 0) | (high < 0)).any():
        return Share(math.nan, math.nan, math.nan)

    def share(templates: NDArray[Any], axis: int) -> Doubles:
        drawn = templates.astype(np.int64)
        r, d = (values[drawn].mean(axis=-2) for values in (raw, controlled))
        slopes: Doubles = (r * d).sum(axis=-1) / (r * r).sum(axis=-1)
        return slopes

    templates = np.arange(len(raw))
    estimate = float(share(templates, -1))
    if np.abs(controlled - estimate * raw).max() <= _LEAST_SPREAD * np.abs(raw).max():
        return Share(estimate, estimate, estimate)  # the same in every template
    interval = bootstrap(
        (templates,),
        share,
        vectorized=True,
        n_resamples=_RESAMPLES,
        batch=_BATCH,
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return Share(estimate, float(interval.low), float(interval.high))


def t_test_p(values: Doubles) -> Doubles:
    """Return the two-sided p-value of each mean being 0 by a one-sample t test, (neurons,).

    Unlike a sign-flip test of few templates, it reaches p-values that survive a correction for
    thousands of neurons, at the price of assuming that values are roughly normal over templates.

    Args:
        values: (templates, neurons), without NaN.

    Returns:
        NaN below `LEAST_TEMPLATES` templates, and for a neuron whose value does not depend on the
        template, which is no sample; 1 if that value is 0.
    """
    from scipy.stats import ttest_1samp

    if len(values) < LEAST_TEMPLATES:
        return np.full(values.shape[1], np.nan)
    p = np.where(values.any(axis=0), math.nan, 1.0)
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
