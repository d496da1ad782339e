"""Agreement of the same neurons in two models on the same prompts, and its bootstrap."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from neuroscope.stats.checks import check_activations
from neuroscope.stats.moments import Doubles
from neuroscope.stats.similarity import Array

Counts = NDArray[np.int64]
"""How often each prompt is drawn in each resample: (resamples, prompts)."""
Flags = NDArray[np.bool_]

_MEMORY = 1e9
_CHUNK = 128
"""Largest number of neurons per matrix product; larger products are no faster."""
_LEAST_SPREAD = 1e-4
"""Share of the larger mean square below which a variance from sums has lost too many digits."""


@dataclass(frozen=True)
class Agreement:
    """Distance of each neuron between two models, over the same prompts."""

    distance: Doubles
    """(neurons,) 1 - Pearson r, from 0 to 2; NaN if the neuron is constant at different values."""
    rms_z: Doubles
    """(neurons,) root mean squared difference in standard deviations of the base (ddof 1).

    0 if the activations are equal; NaN if they differ and the neuron is constant in the base.
    """


@dataclass(frozen=True)
class Spread:
    """Median and quantiles over neurons, without the neurons whose value is NaN."""

    median: float
    quantiles: Mapping[float, float]
    """Value of each quantile, by its level from 0 to 1."""
    skipped: int
    """Number of values that are NaN."""


def spread(values: Doubles, levels: Sequence[float] = (0.05, 0.25, 0.75, 0.95)) -> Spread:
    """Return the median and quantiles of values of neurons, and how many were skipped as NaN.

    Args:
        values: (neurons,), such as `Agreement.distance`.
        levels: levels of the quantiles, from 0 to 1.

    Returns:
        NaN for the median and every quantile if all values are NaN.

    Raises:
        ValueError: `values` is not one-dimensional; a level is not between 0 and 1.
    """
    if values.ndim != 1:
        raise ValueError(f"values must be (neurons,); their shape is {values.shape}")
    known = values[~np.isnan(values)]
    if len(known):
        median, *quantiles = np.quantile(known, [0.5, *levels]).tolist()
    else:
        median, *quantiles = [math.nan] * (1 + len(levels))
    return Spread(median, dict(zip(levels, quantiles, strict=True)), len(values) - len(known))


def neuron_distances(base: Array, candidate: Array) -> Agreement:
    """Return how far each neuron of a candidate is from the same neuron of the base.

    With x and y the activations of a neuron in both models, and a and b their standard deviations,

        1 - r = (var(x - y) - (a - b)^2) / (2ab)   where   a - b = cov(x - y, x + y) / (a + b).

    Unlike 1 minus a correlation close to 1, this keeps its digits when x and y are almost equal,
    and is exactly 0 when they are equal. A neuron that is constant in both models has distance 0
    if its values are equal and NaN otherwise; one that is constant in one model only has 1.

    Args:
        base: (prompts, neurons) activations of the base.
        candidate: activations of the candidate: the same prompts and neurons.

    Raises:
        ValueError: shapes differ or are not (prompts, neurons); there are fewer than 2 prompts; a
            value is NaN or infinite.
    """
    distance = correlation_distances(base, candidate)
    rms_z = np.empty(base.shape[1])
    for columns in _slices(base.shape[1], _columns(len(base), 1, _MEMORY)):
        rms_z[columns] = _rms_z(base[:, columns], candidate[:, columns])
    return Agreement(distance, rms_z)


def correlation_distances(base: Array, candidate: Array) -> Doubles:
    """Return `Agreement.distance` alone, (neurons,).

    Raises:
        ValueError: as `neuron_distances`.
    """
    _check_pair(base, candidate)
    distances = np.empty(base.shape[1])
    for columns in _slices(base.shape[1], _columns(len(base), 1, _MEMORY)):
        distances[columns] = _distances_of_all(base[:, columns], candidate[:, columns])
    return distances


def bootstrap_counts(prompts: int, resamples: int, seed: int) -> Counts:
    """Return how often each prompt is drawn in each bootstrap resample, (resamples, prompts).

    Each row is a multinomial draw of as many prompts as there are, with replacement (Efron 1979,
    Annals of Statistics 7).

    Raises:
        ValueError: there is no prompt or no resample.
    """
    if prompts < 1 or resamples < 1:
        raise ValueError(f"no bootstrap of {prompts} prompts with {resamples} resamples")
    rng = np.random.default_rng(seed)
    return rng.multinomial(prompts, np.full(prompts, 1 / prompts), size=resamples)


def resampled_medians(
    base: Array, candidate: Array, counts: Counts, *, memory: float = _MEMORY
) -> Doubles:
    """Return the median over neurons of 1 - r for each bootstrap resample of prompts.

    The values are those of `neuron_distances` on the drawn prompts, each as often as it is drawn,
    to about 1e-12. They are computed from weighted sums over prompts, which are products of
    matrices. Where such sums lose digits, because a neuron hardly varies among the drawn prompts,
    its distance is computed from these prompts instead.

    Args:
        base: (prompts, neurons) activations of the base.
        candidate: activations of the candidate: the same prompts and neurons.
        counts: (resamples, prompts) from `bootstrap_counts`.
        memory: number of bytes to use, apart from the arguments.

    Returns:
        (resamples,) medians over the neurons whose distance is not NaN; NaN if there is none.

    Raises:
        ValueError: as `neuron_distances`; `counts` has another shape, is negative somewhere or
            draws no prompt in a resample; `memory` is too small for one resample and one neuron.
    """
    _check_pair(base, candidate)
    _check_counts(counts, len(base))
    prompts, neurons = base.shape
    medians = np.empty(len(counts))
    resamples = min(len(counts), int(memory / 2 / (8 * (prompts + 2 * neurons))))
    columns = min(neurons, _columns(prompts, resamples, memory / 2))
    if resamples < 1 or columns < 1:
        raise ValueError(f"{memory:.0f} bytes are too few for {prompts} prompts, {neurons} neurons")
    for rows in _slices(len(counts), resamples):
        distances = np.empty((rows.stop - rows.start, neurons))
        for part in _slices(neurons, columns):
            distances[:, part] = _distances(base[:, part], candidate[:, part], counts[rows])
        medians[rows] = np.median(distances, axis=1)
        for row in np.flatnonzero(np.isnan(medians[rows])):
            medians[rows.start + row] = spread(distances[row], ()).median
    return medians


def _check_pair(base: Array, candidate: Array) -> None:
    """Raise ValueError unless the activations of both models can be compared."""
    check_activations(base, "base", least=2)
    check_activations(candidate, "candidate", least=2)
    if base.shape != candidate.shape:
        raise ValueError(f"shapes differ: base {base.shape}, candidate {candidate.shape}")


def _check_counts(counts: Counts, prompts: int) -> None:
    """Raise ValueError unless every row of counts draws some of the prompts."""
    if counts.ndim != 2 or counts.shape[1] != prompts:
        raise ValueError(f"counts must be (resamples, {prompts}); their shape is {counts.shape}")
    if (counts < 0).any() or not counts.any(axis=1).all():
        raise ValueError("counts are negative, or draw no prompt in a resample")


def _slices(count: int, size: int) -> Iterator[slice]:
    """Yield slices of up to `size` that cover `count`."""
    for start in range(0, count, size):
        yield slice(start, min(start + size, count))


def _columns(prompts: int, resamples: int, memory: float) -> int:
    """Return for how many neurons `_distances` fits in `memory`, in bytes."""
    return min(_CHUNK, int(memory / (8 * (12 * prompts + 18 * resamples))))


def _distances(base: Array, candidate: Array, counts: Counts) -> Doubles:
    """Return 1 - r of each neuron in each resample, (resamples, neurons)."""
    distances, doubtful = _distances_from_sums(base, candidate, counts)
    for row in np.flatnonzero(doubtful.any(axis=1)):
        neurons = np.flatnonzero(doubtful[row])
        drawn = np.ix_(np.repeat(np.arange(len(base)), counts[row]), neurons)
        distances[row, neurons] = correlation_distances(base[drawn], candidate[drawn])
    return distances


def _distances_of_all(base: Array, candidate: Array) -> Doubles:
    """Return 1 - r of each neuron over all prompts, each drawn once, (neurons,)."""
    x, y = base.astype(np.float64), candidate.astype(np.float64)
    equal = x[0] == y[0]
    centred_x, centred_y = _centred(x), _centred(y)
    xx, yy = _mean_product(centred_x, centred_x), _mean_product(centred_y, centred_y)
    power = _power(xx, yy)
    if power.any():  # rarely: it takes as long as all the rest
        y, centred_y, yy = np.ldexp(y, power), np.ldexp(centred_y, power), np.ldexp(yy, 2 * power)
    difference = _centred(x - y)
    dd = _mean_product(difference, difference)
    ds = _mean_product(difference, centred_x + centred_y)
    return _distances_from_variances(xx, yy, dd, ds, (xx == 0, yy == 0, equal))


def _centred(values: Doubles) -> Doubles:
    """Return values less their means over prompts: exactly 0 where all prompts have one value."""
    centred: Doubles = values - values[0]
    centred -= centred.mean(axis=0)
    return centred


def _mean_product(x: Doubles, y: Doubles) -> Doubles:
    """Return the mean over prompts of the product of two values of each neuron, (neurons,)."""
    means: Doubles = np.einsum("ij,ij->j", x, y) / len(x)
    return means


def _distances_from_sums(base: Array, candidate: Array, counts: Counts) -> tuple[Doubles, Flags]:
    """Return 1 - r of each neuron in each resample, and where sums have lost too many digits.

    Each neuron is shifted by its median. A value that most prompts share, such as the 0 of an
    inactive neuron, then adds exactly 0 to the sums. Because a median is at most one standard
    deviation from the mean, nothing is doubtful if every prompt is drawn once.
    """
    x, y, difference, equal = _shifted(base, candidate)
    products = (x, difference, x * x, y * y, difference**2, difference * (x + y))
    weights, drawn = counts.astype(np.float64), counts.sum(axis=1, keepdims=True)
    mean_x, mean_d, xx, yy, dd, ds = (weights @ product / drawn for product in products)
    mean_y = mean_x - mean_d
    var_x, var_y, var_d = xx - mean_x**2, yy - mean_y**2, dd - mean_d**2
    constant_x, constant_y = xx == 0, yy == 0
    covariance = ds - mean_d * (mean_x + mean_y)
    constants = constant_x, constant_y, equal
    distances = _distances_from_variances(var_x, var_y, var_d, covariance, constants)
    least = _LEAST_SPREAD * np.maximum(xx, yy)
    return distances, (var_x < least) & ~constant_x | (var_y < least) & ~constant_y


def _distances_from_variances(
    var_x: Doubles, var_y: Doubles, var_d: Doubles, covariance: Doubles, constants: Sequence[Flags]
) -> Doubles:
    """Return 1 - r from variances, and the covariance of x - y with x + y.

    Args:
        var_x: variance of x.
        var_y: variance of y.
        var_d: variance of x - y.
        covariance: covariance of x - y and x + y.
        constants: whether x is constant, whether y is, and whether the constants are equal.
    """
    constant_x, constant_y, equal = constants
    with np.errstate(divide="ignore", invalid="ignore"):  # constant and doubtful neurons
        a, b = np.sqrt(var_x), np.sqrt(var_y)
        gap = covariance / (a + b)
        distances: Doubles = np.clip((var_d - gap**2) / (2 * a * b), 0, 2)
    distances[constant_x | constant_y] = 1
    distances[constant_x & constant_y] = 0
    distances[constant_x & constant_y & ~equal] = math.nan
    return distances


def _shifted(base: Array, candidate: Array) -> tuple[Doubles, Doubles, Doubles, Flags]:
    """Return the activations x and y less their medians, x - y, and whether the medians are equal.

    y is multiplied by the power of 2 that brings it closest to the scale of x. This is exact, does
    not change r, and is 1 where the models almost agree; x - y is computed before the medians are
    subtracted, because it is then exact.
    """
    x, y = base.astype(np.float64), candidate.astype(np.float64)
    centre_x, centre_y = np.median(x, axis=0), np.median(y, axis=0)
    equal = centre_x == centre_y
    power = _power(((x - centre_x) ** 2).mean(axis=0), ((y - centre_y) ** 2).mean(axis=0))
    y, centre_y = np.ldexp(y, power), np.ldexp(centre_y, power)
    difference = (x - y) - (centre_x - centre_y)
    return x - centre_x, y - centre_y, difference, equal


def _power(square_x: Doubles, square_y: Doubles) -> NDArray[np.int64]:
    """Return the power of 2 that brings y closest to the scale of x, from their mean squares."""
    varies = (square_x > 0) & (square_y > 0)
    ratio = np.divide(square_x, square_y, out=np.ones_like(square_x), where=varies)
    return np.rint(np.log2(ratio) / 2).astype(np.int64)


def _rms_z(base: Array, candidate: Array) -> Doubles:
    """Return the root mean squared difference in standard deviations of the base, (neurons,)."""
    x = base.astype(np.float64)
    change, centred = x - candidate, _centred(x)
    rms = np.sqrt(_mean_product(change, change))
    sd = np.sqrt(_mean_product(centred, centred) * len(x) / (len(x) - 1))
    rms_z: Doubles = np.where(rms == 0, 0.0, math.nan)
    np.divide(rms, sd, out=rms_z, where=sd > 0)
    return rms_z
