"""Geometry of activations, compared with all pairs, eigenvalues and planted shapes."""

import math
from itertools import combinations, pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.distance import cosine, pdist
from scipy.stats import ortho_group

from neuroscope.stats.geometry import (
    MeanCosine,
    UnitSum,
    curvature,
    effective_rank,
    matrix_entropy,
    outlier_neurons,
)

seeds = st.integers(0, 2**32 - 1)


def normal(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@given(seeds, st.integers(1, 12), st.integers(1, 12))
def test_effective_rank_and_entropy_equal_those_of_the_eigenvalues(seed, tokens, neurons):
    values = normal(seed, tokens, neurons).astype(float) + 1
    p = np.linalg.eigvalsh(values @ values.T)
    p /= p.sum()
    assert effective_rank(values) == pytest.approx(1 / np.sum(p**2), rel=1e-10)
    assert matrix_entropy(values) == pytest.approx(-math.log(np.sum(p**2)), rel=1e-10, abs=1e-10)
    assert 1 - 1e-12 <= effective_rank(values) <= min(tokens, neurons) + 1e-12


@pytest.mark.parametrize("directions", [1, 3, 8])
def test_effective_rank_of_orthogonal_tokens_is_their_number(directions):
    tokens = 5 * np.repeat(np.eye(20)[:directions], 4, axis=0) @ ortho_group.rvs(20, random_state=0)
    assert effective_rank(tokens) == pytest.approx(directions, rel=1e-12)
    assert matrix_entropy(tokens) == pytest.approx(math.log(directions), abs=1e-12)


def test_one_massive_token_reduces_the_effective_rank_to_1():
    tokens = normal(0, 10, 64)
    assert effective_rank(tokens) > 7
    tokens[0] *= 1000
    assert effective_rank(tokens) == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("tokens", [np.zeros((0, 4)), np.zeros((3, 4))])
def test_tokens_without_a_direction_have_no_rank(tokens):
    assert math.isnan(effective_rank(tokens))
    assert math.isnan(matrix_entropy(tokens))


@given(seeds, st.integers(3, 10), st.integers(2, 8))
def test_curvature_is_the_mean_of_the_angles_between_steps(seed, tokens, neurons):
    values = normal(seed, tokens, neurons).astype(float)
    steps = [values[i + 1] - values[i] for i in range(tokens - 1)]
    angles = [
        math.degrees(math.acos(max(-1, min(1, 1 - cosine(a, b))))) for a, b in pairwise(steps)
    ]
    assert curvature(values) == pytest.approx(np.mean(angles), abs=1e-5)


@pytest.mark.parametrize("turn", [0, 1e-6, 30, 90, 179.999, 180])
def test_curvature_of_a_constant_turn_is_that_angle(turn):
    angles = np.radians(turn) * np.arange(6)
    steps = np.stack([np.cos(angles), np.sin(angles)], axis=1) * np.arange(1, 7)[:, None]
    assert curvature(np.cumsum(steps, axis=0)) == pytest.approx(turn, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize(
    "tokens", [np.eye(4)[:0], np.eye(4)[:2], np.eye(4)[[0, 1, 1, 2]]], ids=["none", "two", "equal"]
)
def test_curvature_without_an_angle_is_missing(tokens):
    assert math.isnan(curvature(tokens))


def grouped(seed, sizes, neurons=6):
    """Return vectors of different lengths around a direction per group, and their groups."""
    rng = np.random.default_rng(seed)
    groups = np.repeat(np.arange(len(sizes)), sizes)
    values = (
        rng.normal(size=(len(groups), neurons)) + rng.normal(size=(len(sizes), neurons))[groups]
    )
    return values * 10.0 ** rng.uniform(-3, 3, size=(len(groups), 1)), groups


def mean_cosines_of_pairs(values, groups):
    """Return the mean cosine over all pairs, pairs within groups and pairs between groups."""
    cosines = 1 - pdist(values, "cosine")
    same = pdist(groups[:, None].astype(float), "hamming") == 0
    return [
        part.mean() if len(part) else math.nan for part in (cosines, cosines[same], cosines[~same])
    ]


def sums(values, groups):
    return [UnitSum.of(values[groups == group]) for group in np.unique(groups)]


def means(cosine):
    return [cosine.overall, cosine.within, cosine.between]


@given(seeds, st.lists(st.integers(1, 7), min_size=1, max_size=6))
def test_mean_cosines_equal_those_of_all_pairs(seed, sizes):
    values, groups = grouped(seed, sizes)
    expected = mean_cosines_of_pairs(values, groups)
    measured = means(MeanCosine.of(sums(values, groups)))
    np.testing.assert_allclose(measured, expected, rtol=0, atol=1e-10)


@given(seeds, st.lists(st.integers(1, 7), min_size=2, max_size=6), st.data())
def test_merged_sums_equal_those_of_a_single_pass(seed, sizes, data):
    values, groups = grouped(seed, sizes)
    expected = means(MeanCosine.of(sums(values, groups)))
    cut = data.draw(st.integers(0, len(values)))
    parts = [
        UnitSum.of(values[:cut][groups[:cut] == g]).merge(
            UnitSum.of(values[cut:][groups[cut:] == g])
        )
        for g in range(len(sizes))
    ]
    np.testing.assert_allclose(means(MeanCosine.of(parts)), expected, rtol=0, atol=1e-10)
    first = data.draw(st.integers(1, len(sizes) - 1))
    merged = MeanCosine.of(parts[:first]).merge(MeanCosine.of(parts[first:]))
    np.testing.assert_allclose(means(merged), expected, rtol=0, atol=1e-10)


def test_mean_cosines_of_many_float32_vectors_are_computed_in_float64():
    values = normal(0, 20_000, 8) + 3
    units = values.astype(float) / np.linalg.norm(values.astype(float), axis=1, keepdims=True)
    expected = sum(units[a] @ units[b] for a, b in combinations(range(0, 20_000, 2000), 2)) / 45
    few = MeanCosine.of([UnitSum.of(values[::2000])])
    assert few.overall == pytest.approx(expected, abs=1e-12)
    parts = [UnitSum.of(part) for part in np.split(values, 100)]
    total = units.sum(axis=0)
    many = MeanCosine.of(parts)
    assert many.overall == pytest.approx((total @ total - 20_000) / (20_000 * 19_999), abs=1e-13)


def test_vectors_of_zeros_are_not_counted():
    values, groups = grouped(0, [3, 4])
    padded = np.insert(values, [1, 5], 0, axis=0)
    expected = MeanCosine.of(sums(values, groups))
    measured = MeanCosine.of([UnitSum.of(padded[:4]), UnitSum.of(padded[4:])])
    assert measured.vectors.count == 7
    np.testing.assert_allclose(means(measured), means(expected), rtol=0, atol=1e-12)


def test_a_mean_without_a_pair_is_missing():
    single = MeanCosine.of([UnitSum.of(normal(0, 1, 4))])
    assert np.isnan(means(single)).all()
    two = MeanCosine.of([UnitSum.of(np.eye(4)[:1]), UnitSum.of(np.eye(4)[:1])])
    assert two.overall == two.between == 1
    assert math.isnan(two.within)
    with pytest.raises(ValueError, match="group"):
        MeanCosine.of([])


def test_planted_groups_are_alike_within_and_not_between():
    directions = np.repeat(np.eye(5), 30, axis=0)
    cosine = MeanCosine.of([UnitSum.of(part) for part in np.split(7 * directions, 5)])
    assert (cosine.within, cosine.between) == (1, 0)


def test_outliers_are_planted_neurons():
    mean_square = np.random.default_rng(0).uniform(0.8, 1.2, size=768)
    mean_square[[308, 381]] = 400, 900
    outliers = outlier_neurons(mean_square)
    assert outliers.neurons == (308, 381)
    assert outliers.share == 2 / 768
    assert outliers.energy == pytest.approx(1300 / mean_square.sum(), rel=1e-12)


@given(seeds, st.integers(2, 300))
def test_outliers_are_more_than_three_deviations_above_the_mean(seed, neurons):
    mean_square = np.random.default_rng(seed).lognormal(sigma=2, size=neurons).astype(np.float32)
    root = np.sqrt(mean_square.astype(float))
    above = [j for j in range(neurons) if (root[j] - root.mean()) / root.std(ddof=1) > 3]
    assert outlier_neurons(mean_square).neurons == tuple(above)


@pytest.mark.parametrize("value", [0.0, 2.5])
def test_equal_neurons_have_no_outlier(value):
    outliers = outlier_neurons(np.full(50, value))
    assert (outliers.neurons, outliers.share, outliers.energy) == ((), 0, 0)


@pytest.mark.parametrize("bad", [[1.0, -1.0], [1.0, np.nan], [np.inf, 1.0], [1.0], [[1.0, 2.0]]])
def test_invalid_mean_squares_are_refused(bad):
    with pytest.raises(ValueError, match="mean squares"):
        outlier_neurons(np.array(bad))


@pytest.mark.parametrize("function", [effective_rank, matrix_entropy, curvature, UnitSum.of])
def test_an_array_of_another_shape_is_refused(function):
    with pytest.raises(ValueError, match=r"\(4,\)"):
        function(np.ones(4))
