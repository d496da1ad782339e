"""Moments of groups and measures from them, compared with NumPy and SciPy on all prompts."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import entropy, f_oneway, pointbiserialr

from neuroscope.stats.group_moments import (
    GroupMoments,
    activation_entropy,
    cohens_d,
    correlation,
    entropy_selected,
    eta_squared,
)

seeds = st.integers(0, 2**32 - 1)


def block(seed, prompts=60, neurons=4, groups=3, mean=1e4):
    """Return activations whose mean is far larger than their spread, and groups that overlap."""
    rng = np.random.default_rng(seed)
    members = rng.random((prompts, groups)) < 0.4
    values = rng.normal(mean, 1, (prompts, neurons))
    values[:, 0] += 2 * members[:, 0]
    return values, members


def everyone(prompts):
    return np.ones((prompts, 1), bool)


def sides(values, members):
    inside = GroupMoments.of(values, members)
    return inside, inside.complement(GroupMoments.of(values, everyone(len(values))))


def assert_moments(moments, values, members):
    """Compare with the mean and variance of NumPy, group by group."""
    np.testing.assert_array_equal(moments.count, members.sum(axis=0))
    for group, mean, m2 in zip(members.T, moments.mean, moments.m2, strict=True):
        if group.any():
            np.testing.assert_allclose(mean, values[group].mean(axis=0), rtol=1e-12)
            expected = values[group].var(axis=0) * group.sum()
            np.testing.assert_allclose(m2, expected, rtol=1e-10, atol=1e-10)


@given(seeds, st.lists(st.integers(0, 60), max_size=3))
def test_merged_blocks_equal_two_passes(seed, cuts):
    values, members = block(seed)
    members[:, 1] &= np.arange(60) < 20  # no prompt of this group in the last blocks
    bounds = [0, *sorted(cuts), 60]
    parts = [slice(*pair) for pair in pairwise(bounds)]
    moments = GroupMoments.of(values[:0], members[:0])
    for part in parts:
        moments = moments.merge(GroupMoments.of(values[part], members[part]))
    assert_moments(moments, values, members)
    assert moments.merge(GroupMoments.of(values[:0], members[:0])).m2 == pytest.approx(moments.m2)


def test_moments_of_single_precision_are_double():
    values, members = block(0)
    moments = GroupMoments.of(values.astype(np.float32), members)
    assert_moments(moments, values.astype(np.float32).astype(float), members)


@given(seeds)
def test_complement_equals_the_moments_of_the_other_prompts(seed):
    values, members = block(seed)
    members[:, 1], members[:, 2] = False, True  # an empty group, and one of all prompts
    _, outside = sides(values, members)
    assert_moments(outside, values, ~members)
    assert not outside.mean[2].any() and not outside.m2[2].any()


def test_complement_needs_all_prompts_in_one_group():
    values, members = block(0)
    moments = GroupMoments.of(values, members)
    for whole in moments, GroupMoments.of(values[:2], everyone(2)):
        with pytest.raises(ValueError, match="one group"):
            moments.complement(whole)
    with pytest.raises(ValueError, match="shapes"):
        GroupMoments.of(values, members[1:])


def test_cohens_d_equals_its_definition():
    values, members = block(1)
    d = cohens_d(*sides(values, members))
    for row, group in zip(d, members.T, strict=True):
        a, b = values[group], values[~group]
        pooled = ((len(a) - 1) * a.var(0, ddof=1) + (len(b) - 1) * b.var(0, ddof=1)) / 58
        np.testing.assert_allclose(row, (a.mean(0) - b.mean(0)) / np.sqrt(pooled), atol=1e-9)
    assert d[0, 0] > 1


def test_correlation_equals_scipy():
    values, members = block(2)
    r = correlation(*sides(values, members))
    expected = [[pointbiserialr(group, column)[0] for column in values.T] for group in members.T]
    np.testing.assert_allclose(r, expected, atol=1e-10)


def test_measures_without_variation_or_prompts_are_nan():
    values, members = block(3)
    values[:, 1] = 0.1  # its sums of squares are not exactly 0
    values[:, 2] = np.where(members[:, 0], 0.3, 0.1)  # varies between the sides alone
    members[:, 1], members[:, 2] = False, np.arange(60) < 1
    inside, outside = sides(values, members)
    d, r = cohens_d(inside, outside), correlation(inside, outside)
    np.testing.assert_array_equal(np.isfinite(d[0]), [True, False, False, True])
    np.testing.assert_array_equal(np.isfinite(r[0]), [True, False, True, True])
    assert r[0, 2] == pytest.approx(1)
    assert np.isnan(d[1:]).all() and np.isnan(r[1]).all() and np.isfinite(r[2, 0])


def test_eta_squared_equals_the_analysis_of_variance():
    values, _ = block(4)
    labels = np.arange(60) % 3
    values[:, 0] += labels
    values[:, 1] = 0.1
    moments = GroupMoments.of(values, labels[:, None] == np.arange(4))  # the last one is empty
    eta = eta_squared(moments)
    f = f_oneway(*(values[labels == k] for k in range(3))).statistic[[0, 2, 3]]
    np.testing.assert_allclose(eta[[0, 2, 3]], f * 2 / (f * 2 + 57), rtol=1e-9)
    assert np.isnan(eta[1]) and eta[0] > 0.15
    assert np.isnan(eta_squared(GroupMoments.of(values[:0], np.zeros((0, 2), bool)))).all()


def test_entropy_equals_scipy():
    shares = np.random.default_rng(0).random((5, 6))
    shares[:, 0], shares[1:, 1], shares[:, 2] = 0, 0, 0.5
    entropies = activation_entropy(shares)
    np.testing.assert_allclose(entropies[1:], entropy(shares[:, 1:], axis=0))
    assert np.isnan(entropies[0])
    assert entropies[1] == 0 and entropies[2] == pytest.approx(np.log(5))


def test_entropy_selects_active_neurons_of_a_single_topic():
    rng = np.random.default_rng(1)
    shares = rng.uniform(0.2, 0.4, (5, 200))
    shares[:, 0] = 0.9, 0, 0, 0, 0
    shares[:, 1] = 0.9, 0.9, 0, 0, 0
    shares[:, 2] = 1e-3, 0, 0, 0, 0  # specific, but seldom active
    shares[:, 3] = 0
    entropies = activation_entropy(shares)
    assert np.flatnonzero(entropy_selected(shares, entropies)).tolist() == [0, 1]
    assert np.flatnonzero(entropy_selected(shares, entropies, lowest=0.0)).tolist() == [0]
    assert entropy_selected(shares, entropies, lowest=1).sum() < 60
    assert not entropy_selected(np.zeros((5, 9)), np.full(9, np.nan)).any()
