"""Contrasts of associations: tests, intervals and shares against enumeration, SciPy and truth."""

import dataclasses
import itertools
import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from neuroscope.stats.contrasts import (
    LEAST_TEMPLATES,
    contrast_statistics,
    contributions,
    corrected,
    sign_flip_p,
    surviving_share,
    t_test_p,
    unit_vectors,
)
from neuroscope.stats.similarity import cosine

ARRAYS = ("mean", "low", "high", "p", "effect")


def normal(seed, *shape, mean=0.0):
    return np.random.default_rng(seed).normal(mean, 1, shape)


def mean(values, axis):
    return values.mean(axis=axis)


def enumerated(values):
    """Return twice the share of all sign patterns whose mean is at least as far on one side."""
    signs = np.array(list(itertools.product([1, -1], repeat=len(values))))
    sums, observed = signs @ values, values.sum()
    close = 1e-12 * np.abs(values).sum()
    return min(1.0, 2 * min((sums >= observed - close).mean(), (sums <= observed + close).mean()))


def expected_interval(values, seed=0):
    interval = scipy.stats.bootstrap(
        (values,), np.mean, n_resamples=9999, rng=np.random.default_rng(seed)
    ).confidence_interval
    return interval.low, interval.high


@pytest.mark.parametrize("templates", [6, 9, 13])
def test_the_p_value_is_that_of_all_sign_patterns(templates):
    values = normal(templates, templates, 5) + np.linspace(0, 1, 5)
    assert sign_flip_p(values) == pytest.approx([enumerated(column) for column in values.T])


@given(arrays(float, 7, elements=st.integers(-3, 3)))
def test_the_p_value_is_exact_with_ties_and_zeros(values):
    assert sign_flip_p(values[:, None])[0] == pytest.approx(enumerated(values))


@pytest.mark.parametrize("templates", range(6, 14))
def test_contrasts_of_one_sign_have_the_smallest_p_value(templates):
    values = np.abs(normal(0, templates, 2)) * [1, -1]
    assert sign_flip_p(values) == pytest.approx([2 / 2**templates] * 2)


def test_one_other_sign_gives_the_next_p_value():
    values = np.array([[8.0, 8, 8, 8, 8, 8, -1]]).T  # only its own sign flipped is more extreme
    assert sign_flip_p(values) == pytest.approx(2 * 2 / 2**7)


def test_random_sign_patterns_are_used_for_many_templates():
    values = normal(1, 15, 1, mean=0.3)
    error = 2 * math.sqrt(enumerated(values[:, 0]) / 2 / 9999)
    assert sign_flip_p(values)[0] == pytest.approx(enumerated(values[:, 0]), abs=3 * error)
    assert sign_flip_p(np.ones((15, 1)))[0] == pytest.approx(2 / 10_000)
    assert sign_flip_p(values) == sign_flip_p(values)


@pytest.mark.parametrize("templates", [4, 13, 30])
def test_intervals_equal_those_of_scipy(templates):
    values = normal(2, templates, 3) ** 2
    single = [contrast_statistics(values[:, [column]]) for column in range(3)]
    for column, measured in zip(values.T, single, strict=True):
        expected = expected_interval(column)
        assert (measured.low[0], measured.high[0]) == pytest.approx(expected, rel=1e-10)


def test_statistics_of_many_contrasts_are_those_of_each():
    values = normal(3, 13, 8, mean=0.5)
    together = contrast_statistics(values)
    assert together.mean == pytest.approx(values.mean(axis=0))
    assert together.effect == pytest.approx(values.mean(axis=0) / values.std(axis=0, ddof=1))
    assert together.p == pytest.approx([enumerated(column) for column in values.T])
    assert (together.low < together.mean).all() and (together.mean < together.high).all()
    assert together.templates.tolist() == [13] * 8


def test_a_contrast_is_tested_over_the_templates_that_have_it():
    values = normal(4, 10, 5, mean=0.5)
    values[3, 1] = values[[0, 1], 2] = values[:5, 3] = values[:, 4] = np.nan
    measured = contrast_statistics(values)
    assert measured.templates.tolist() == [10, 9, 8, 5, 0]
    for column in range(4):
        known = values[~np.isnan(values[:, column]), column][:, None]
        alone = contrast_statistics(known)
        for name in ARRAYS:
            np.testing.assert_allclose(
                getattr(measured, name)[column], getattr(alone, name)[0], rtol=1e-12
            )
    assert np.isnan(measured.p[3]) and not np.isnan([measured.low[3], measured.effect[3]]).any()
    assert all(np.isnan(getattr(measured, name)[4]) for name in ARRAYS)


@pytest.mark.parametrize("shape", [(0, 3), (7, 0)])
def test_no_templates_and_no_contrasts(shape):
    measured = contrast_statistics(np.zeros(shape))
    assert all(np.isnan(getattr(measured, name)).all() for name in ARRAYS)
    assert measured.templates.tolist() == [0] * shape[1]


def test_a_single_template_has_a_mean_only():
    measured = contrast_statistics(np.array([[0.3]]))
    assert measured.mean[0] == 0.3
    assert np.isnan([measured.low, measured.high, measured.p, measured.effect]).all()


def test_constant_contrasts():
    measured = contrast_statistics(np.array([[0.0, 0.1, -2.0]] * 7))
    assert measured.mean == pytest.approx([0, 0.1, -2])
    assert measured.low == pytest.approx(measured.mean) == measured.high
    assert measured.p == pytest.approx([1, 2 / 2**7, 2 / 2**7])
    assert np.isnan(measured.effect).all()


@given(arrays(float, st.tuples(st.integers(1, 9), st.integers(1, 4)), elements=st.integers(-2, 2)))
def test_no_values_raise_a_warning(values):
    measured = contrast_statistics(values)
    assert (np.isnan(measured.low) == (len(values) < 2)).all()
    assert (np.isnan(measured.p) == (len(values) < LEAST_TEMPLATES)).all()


def example(seed, controls=3, words=(4, 2)):
    """Return unit vectors of a role, of control roles and of two groups."""
    return [
        unit_vectors(normal(seed + part, size, 20))
        for part, size in enumerate((1, controls, *words))
    ]


def similarity_of(role, group):
    """Return the mean cosine of a vector with each of several, pair by pair."""
    return np.mean([cosine(role, word) for word in group])


@pytest.mark.parametrize("seed", range(3))
def test_contributions_add_up_to_contrasts_of_cosines(seed):
    (role,), controls, first, second = example(10 * seed)
    raw, controlled = contributions(role, controls, first, second)
    contrasts = [
        similarity_of(word, first) - similarity_of(word, second) for word in (role, *controls)
    ]
    assert raw.shape == controlled.shape == (20,)
    assert raw.sum() == pytest.approx(contrasts[0])
    assert controlled.sum() == pytest.approx(contrasts[0] - np.mean(contrasts[1:]))
    direction = first.mean(axis=0) - second.mean(axis=0)
    assert raw == pytest.approx(role * direction)


def test_swapped_groups_change_every_sign():
    (role,), controls, first, second = example(5)
    forward = contributions(role, controls, first, second)
    assert np.negative(forward) == pytest.approx(
        np.array(contributions(role, controls, second, first))
    )
    values = normal(0, 13, 2, mean=0.4)
    one, other = contrast_statistics(values), contrast_statistics(-values)
    assert other.mean == pytest.approx(-one.mean) and other.effect == pytest.approx(-one.effect)
    assert other.p == pytest.approx(one.p)
    assert [other.low, other.high] == pytest.approx(np.array([-one.high, -one.low]), abs=0.02)
    raw, controlled = values[:, 0] + 2, values[:, 1]
    share, same = surviving_share(raw, controlled), surviving_share(-raw, -controlled)
    assert dataclasses.astuple(same) == pytest.approx(dataclasses.astuple(share))


def test_an_effect_of_the_pair_of_groups_cancels():
    (role,), controls, first, second = example(7)
    shared = np.zeros(21)
    shared[20] = 1  # a dimension that roles share with the words of the first group alone
    role, controls, first, second = (
        np.pad(vectors, [(0, 0)] * (vectors.ndim - 1) + [(0, 1)])
        for vectors in (role, controls, first, second)
    )
    before = contributions(role, controls, first, second)
    after = contributions(role + 0.5 * shared, controls + 0.5 * shared, first + 2 * shared, second)
    assert after[0].sum() == pytest.approx(before[0].sum() + 1)
    assert after[1] == pytest.approx(before[1])


def test_unit_vectors_have_norm_1_and_zeros_stay():
    values = normal(0, 2, 3, 5).astype(np.float32)
    values[1, 2] = 0
    units = unit_vectors(values)
    assert units.dtype == np.float64 and (units[1, 2] == 0).all()
    assert np.linalg.norm(units, axis=-1) == pytest.approx(np.array([[1, 1, 1], [1, 1, 0]]))
    assert units[0] * np.linalg.norm(values[0], axis=1)[:, None] == pytest.approx(values[0])


@pytest.mark.parametrize("share", [0, 0.3, 0.5, 1])
def test_a_planted_share_is_recovered_exactly(share):
    raw = normal(1, 13, mean=3)
    measured = surviving_share(raw, share * raw)
    assert dataclasses.astuple(measured) == pytest.approx([share] * 3)


@pytest.mark.parametrize("share", [0, 0.5, 1])
def test_the_interval_of_a_share_is_that_of_scipy(share):
    raw, noise = normal(2, 13, mean=4), normal(3, 13)
    controlled = share * raw + 0.2 * noise
    expected = scipy.stats.bootstrap(
        (raw, controlled),
        lambda raw, controlled, axis: controlled.mean(axis=axis) / raw.mean(axis=axis),
        paired=True,
        n_resamples=9999,
        rng=np.random.default_rng(0),
    ).confidence_interval
    measured = surviving_share(raw, controlled)
    assert measured.share == pytest.approx(controlled.mean() / raw.mean())
    assert (measured.low, measured.high) == pytest.approx((expected.low, expected.high))
    assert measured.low < share < measured.high


def test_there_is_no_share_of_what_may_be_nothing():
    raw = normal(0, 13)
    assert expected_interval(raw)[0] < 0 < expected_interval(raw)[1]
    for nothing in (raw, np.zeros(13), np.ones(1), np.full(13, np.nan)):
        assert np.isnan(dataclasses.astuple(surviving_share(nothing, np.ones(len(nothing))))).all()


def test_a_share_is_that_of_the_templates_with_both_contrasts():
    raw, controlled = normal(2, 13, mean=4), normal(3, 13, mean=1)
    both = surviving_share(raw[2:], controlled[2:])
    raw[0] = controlled[1] = np.nan
    assert surviving_share(raw, controlled) == both


def test_t_tests_equal_those_of_scipy():
    values = normal(0, 13, 40, mean=0.3)
    expected = [scipy.stats.ttest_1samp(column, 0).pvalue for column in values.T]
    assert t_test_p(values) == pytest.approx(expected)
    same = t_test_p(np.array([[0.0, 2.0, -1e-9]] * 7))  # the same in every template: no sample
    assert same[0] == 1 and np.isnan(same[1:]).all()
    assert np.isnan(t_test_p(values[: LEAST_TEMPLATES - 1])).all()


def test_corrected_p_values_are_those_of_scipy_without_the_missing_ones():
    p = np.random.default_rng(0).random((4, 5)) ** 3
    expected = p.copy()
    p[1, 2] = p[3, 4] = expected[1, 2] = expected[3, 4] = np.nan
    known = ~np.isnan(p)
    expected[known] = scipy.stats.false_discovery_control(p[known])
    np.testing.assert_allclose(corrected(p), expected)
    assert np.isnan(corrected(np.full(3, np.nan))).all()


def test_a_share_over_roles_is_the_slope_through_the_origin():
    raw = normal(0, 13, 3) * 0.01 + np.array([0.4, -0.2, 0.1])
    controlled = normal(1, 13, 3) * 0.01 + np.array([0.3, -0.1, 0.0])
    found = surviving_share(raw, controlled)
    r, d = raw.mean(axis=0), controlled.mean(axis=0)
    assert found.share == pytest.approx((r @ d) / (r @ r))
    assert found.low < found.share < found.high < 1
    flipped = surviving_share(raw * [1, -1, 1], controlled * [1, -1, 1])
    assert flipped.share == pytest.approx(found.share)  # signs of roles do not cancel
