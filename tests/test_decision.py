"""The decision about drift: exact values, false alarms and coverage by simulation."""

import math

import numpy as np
import pytest
import scipy.special
import scipy.stats
from threadpoolctl import threadpool_limits

from neuroscope.stats.decision import (
    Limits,
    decide,
    least_replicates,
    limits,
    p_value,
    spent_alpha,
)
from neuroscope.stats.paired import bootstrap_counts, neuron_distances, resampled_medians


def test_the_p_value_counts_the_observed_statistic_and_ties():
    null = np.array([1.0, 2, 3, 3])
    assert [p_value(value, null) for value in (0.5, 2, 3, 3.5)] == [1, 4 / 5, 3 / 5, 1 / 5]


def test_the_p_value_equals_scipy_for_replicates_drawn_at_random():
    data, null = [], []

    def statistic(sample):
        null.append(float(np.mean(sample)))
        return null[-1]

    rng = np.random.default_rng(0)
    data = rng.normal(loc=0.4, size=10)
    test = scipy.stats.monte_carlo_test(
        data, rng.standard_normal, statistic, n_resamples=199, batch=1, vectorized=False,
        alternative="greater",
    )  # fmt: skip
    assert p_value(float(test.statistic), test.null_distribution) == test.pvalue


@pytest.mark.parametrize("replicates", [19, 99])
def test_the_false_alarm_rate_over_exchangeable_statistics_is_alpha(replicates):
    rng = np.random.default_rng(replicates)
    drawn = rng.lognormal(size=(1000, 1)) * rng.gamma(2, size=(1000, replicates + 1))
    p_values = np.array([p_value(row[0], row[1:]) for row in drawn])
    assert np.mean(p_values <= 0.05) == pytest.approx(0.05, abs=0.014)


def test_19_replicates_can_reject_at_5_per_cent():
    p = p_value(2.0, np.arange(19) / 19)
    assert p == 0.05
    assert decide(1.0, 3.0, margin=0.5, p=p, alpha=0.05) == "drifted"
    assert decide(1.0, 3.0, margin=0.5, p=p_value(2.0, np.zeros(18)), alpha=0.05) == "inconclusive"


@pytest.mark.parametrize(
    ("lower", "upper", "p", "verdict"),
    [
        (0.1, 0.9, 0.01, "compatible"),  # a difference that is certain and tolerable
        (0.1, 0.9, 0.90, "compatible"),
        (0.1, 1.0, 0.01, "inconclusive"),
        (0.9, 1.1, 0.01, "inconclusive"),
        (1.0, 1.2, 0.01, "inconclusive"),
        (1.1, 1.2, 0.01, "drifted"),
        (1.1, 1.2, 0.06, "inconclusive"),
        (0.0, math.inf, 0.01, "inconclusive"),
    ],
)
def test_verdicts_for_a_margin_of_1(lower, upper, p, verdict):
    assert decide(lower, upper, margin=1.0, p=p, alpha=0.05) == verdict


def test_limits_are_quantiles_reflected_at_the_statistic():
    resampled = np.random.default_rng(0).permutation(np.arange(101.0))
    assert limits(60, resampled) == pytest.approx(Limits(lower=25, upper=115))
    assert limits(60, resampled, 0.99) == pytest.approx((21, 119))
    assert limits(10, resampled) == pytest.approx((0, 15))  # a distance is not negative


def test_limits_include_the_statistic():
    """The correction of a bias may be larger than the spread."""
    assert limits(10, np.linspace(12, 13, 101)) == pytest.approx((7.05, 10))
    assert limits(10, np.linspace(7, 8, 101)) == pytest.approx((10, 12.95))


def test_limits_are_those_of_scipy():
    values = np.random.default_rng(0).exponential(size=50)
    options = {"method": "basic", "confidence_level": 0.9, "rng": np.random.default_rng(1)}
    expected = scipy.stats.bootstrap((values,), np.mean, **options)
    ends = limits(values.mean(), expected.bootstrap_distribution)
    assert ends == pytest.approx(tuple(expected.confidence_interval))


def correlated(rng, prompts, neurons, share, seed):
    """Return (prompts, neurons) standard Gaussians that have `share` of variance in 3 factors."""
    loadings = np.random.default_rng(seed).normal(size=(3, neurons))
    loadings /= np.linalg.norm(loadings, axis=0)
    factors = rng.normal(size=(prompts, 3)) @ loadings
    own = rng.normal(size=(prompts, neurons))
    return math.sqrt(share) * factors + math.sqrt(1 - share) * own


def coverage(share, distances, trials, prompts):
    """Return the share of limits that hold the true median distance: (lower, upper)."""
    r, held = 1 - distances, []
    for trial in range(trials):
        rng = np.random.default_rng(trial)
        base, noise = (correlated(rng, prompts, len(r), share, seed) for seed in (1, 2))
        candidate = r * base + np.sqrt(1 - r**2) * noise
        counts = bootstrap_counts(prompts, 200, trial)
        with threadpool_limits(1):  # threads cost more than they save on small arrays
            statistic = np.median(neuron_distances(base, candidate).distance)
            ends = limits(statistic, resampled_medians(base, candidate, counts))
        held.append((ends.lower <= np.median(distances), np.median(distances) <= ends.upper))
    return np.mean(held, axis=0)


def test_the_limits_cover_the_median_distance_of_correlated_neurons():
    covered = coverage(0.9, np.full(40, 0.1), trials=400, prompts=150)
    assert covered == pytest.approx([0.95, 0.95], abs=0.033)  # three standard errors of 400 trials


def test_the_limits_hold_the_median_distance_of_independent_neurons_nearly_as_often():
    assert min(coverage(0.0, np.full(600, 0.05), trials=100, prompts=200)) > 0.84


def test_alpha_is_spent_over_all_looks():
    spent = [spent_alpha(0.05, look) for look in range(1, 100_001)]
    assert spent[0] == pytest.approx(0.05 / scipy.special.zeta(2))
    assert spent[2] == pytest.approx(spent[0] / 9)
    assert 0.04999 < sum(spent) < 0.05


def test_the_least_number_of_replicates_is_the_first_that_can_reject():
    assert [least_replicates(alpha) for alpha in (0.5, 0.3, 0.1, 0.05, 0.01)] == [1, 3, 9, 19, 99]
    rounded = [np.nextafter(1 / m, end) for m in range(2, 300) for end in (0, 1)]
    for alpha in (*(1 / np.arange(2, 2000)), *rounded, *np.linspace(0.001, 0.9, 997)):
        m = least_replicates(alpha)
        assert p_value(1, np.zeros(m)) <= alpha
        assert m == 1 or p_value(1, np.zeros(m - 1)) > alpha


def test_statistics_that_are_missing_are_refused():
    for statistic, null in ((math.nan, np.ones(3)), (1.0, np.array([1, math.nan]))):
        with pytest.raises(ValueError, match="NaN"):
            p_value(statistic, null)
    for null in (np.ones(0), np.ones((2, 2))):
        with pytest.raises(ValueError, match=r"\("):
            p_value(1.0, null)
    for resampled in (np.ones(0), np.ones((2, 2)), np.array([1, math.nan])):
        with pytest.raises(ValueError, match="resampled"):
            limits(1.0, resampled)
    for arguments in ((math.nan, 1, 1, 0.1, 0.05), (2, 1, 1, 0.1, 0.05), (0, 1, 1, math.nan, 0.1)):
        with pytest.raises(ValueError, match="verdict"):
            decide(*arguments)


def test_levels_out_of_range_are_refused():
    for alpha in (0, 1, -0.1, math.nan):
        with pytest.raises(ValueError, match=str(alpha)):
            least_replicates(alpha)
        with pytest.raises(ValueError, match=str(alpha)):
            spent_alpha(alpha, 1)
    with pytest.raises(ValueError, match=r"\b0$"):
        spent_alpha(0.05, 0)
    for confidence in (0.4, 1, math.nan):
        with pytest.raises(ValueError, match=str(confidence)):
            limits(1.0, np.ones(3), confidence)
