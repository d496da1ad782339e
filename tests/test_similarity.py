"""Measures of how alike activations are, and the moments that standardise them."""

import dataclasses
import math

import numpy as np
import pytest
import scipy.spatial.distance
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from neuroscope.stats.moments import Moments
from neuroscope.stats.similarity import (
    Similarity,
    cosine,
    jaccard,
    similarity,
    spearman,
    top3_share,
)

seeds = st.integers(0, 2**32 - 1)


def normal(seed, *shape, scale=1.0):
    return (scale * np.random.default_rng(seed).normal(size=shape)).astype(np.float32)


def with_ties(seed, *shape):
    return np.random.default_rng(seed).integers(-3, 4, size=shape).astype(np.float32)


def values(measured):
    return np.array(dataclasses.astuple(measured))


@pytest.mark.parametrize("make", [normal, with_ties])
@pytest.mark.parametrize("seed", range(5))
def test_every_measure_agrees_with_its_reference_implementation(make, seed):
    a, b, usual = (make(seed + 10 * part, 7, 20) for part in range(3))
    mean, sd = usual.mean(axis=0, dtype=float), usual.std(axis=0, ddof=1, dtype=float)
    z_a, z_b = ((one - mean) / sd for one in (a, b))
    share = np.sort(np.abs(np.einsum("pn,pn->n", a, b)))[::-1]
    expected = Similarity(
        cosine=1 - scipy.spatial.distance.cosine(a.ravel().astype(float), b.ravel()),
        mse=np.square(a - b, dtype=float).mean(),
        cosine_z=1 - scipy.spatial.distance.cosine(z_a.ravel(), z_b.ravel()),
        spearman=scipy.stats.spearmanr(z_a.ravel(), z_b.ravel()).statistic,
        rms_z=math.sqrt(np.square(z_a - z_b).mean()),
        top3_share=share[:3].sum() / share.sum(),
    )
    measured = similarity(a, b, Moments.of(usual))
    np.testing.assert_allclose(values(measured), values(expected), rtol=1e-6, atol=1e-12)


@given(arrays(float, (2, 30), elements=st.integers(-4, 4)))
@settings(deadline=None)
def test_spearman_is_scipys_with_any_ties(pair):
    a, b = pair
    if len(set(a)) == 1 or len(set(b)) == 1:
        assert math.isnan(spearman(a, b))
    else:
        assert spearman(a, b) == pytest.approx(scipy.stats.spearmanr(a, b).statistic, abs=1e-12)


@given(seeds)
@settings(deadline=None, max_examples=30)
def test_measures_do_not_depend_on_the_order_of_the_pair(seed):
    a, b, usual = normal(seed, 3, 4, 12)[:3]
    one, other = similarity(a, b, Moments.of(usual)), similarity(b, a, Moments.of(usual))
    np.testing.assert_allclose(values(one), values(other), rtol=1e-12)
    assert all(-1 <= value <= 1 for value in (one.cosine, one.cosine_z, one.spearman))
    assert 0 < one.top3_share <= 1


def test_identical_activations_are_alike_in_every_measure():
    a = normal(0, 5, 16)
    same = similarity(a, a, Moments.of(normal(1, 50, 16)))
    assert values(same)[:5] == pytest.approx([1, 0, 1, 1, 0], abs=1e-12)
    opposite = similarity(a, -a, Moments(2, np.zeros(16), np.ones(16)))
    assert [opposite.cosine, opposite.cosine_z, opposite.spearman] == pytest.approx([-1] * 3)


def test_a_cosine_cannot_see_scale_and_the_magnitudes_can():
    a = normal(0, 5, 16)
    measured = similarity(a, 3 * a, Moments(2, np.zeros(16), np.full(16, 4.0)))  # sd 2
    assert [measured.cosine, measured.cosine_z, measured.spearman] == pytest.approx([1] * 3)
    power = np.square(a, dtype=float).mean()
    assert measured.mse == pytest.approx(4 * power)
    assert measured.rms_z == pytest.approx(math.sqrt(power))


@pytest.mark.parametrize("seed", range(5))
def test_a_rogue_dimension_decides_the_raw_cosine_and_not_the_standardised_one(seed):
    a, b, usual = normal(seed, 3, 200, 768)
    for one in (a, b, usual):
        one[:, 308] += 50  # of 768 independent neurons, one is always far from zero
    measured = similarity(a, b, Moments.of(usual))
    assert measured.cosine > 0.7
    assert abs(measured.cosine_z) < 0.02
    assert abs(measured.spearman) < 0.02
    assert measured.top3_share > 0.7
    assert similarity(a[:, :300], b[:, :300], Moments.of(usual[:, :300])).top3_share < 0.05


def test_the_share_of_planted_contributions():
    a, b = np.ones((1, 28)), np.ones((1, 28))
    a[0, [3, 9, 20]] = 100, -50, 25  # against 25 contributions of 1
    assert top3_share(a, b) == pytest.approx(175 / 200)
    assert top3_share(np.ones((4, 100)), np.ones((4, 100))) == pytest.approx(0.03)
    assert top3_share(np.ones((4, 2)), np.ones((4, 2))) == 1


def test_a_contribution_is_summed_over_positions_before_its_size_counts():
    a = np.array([[5.0, 1, 1, 1, 1], [5, 1, 1, 1, 1]])
    b = np.array([[1.0, 1, 1, 1, 1], [-1, 1, 1, 1, 1]])  # neuron 0 gives 5 - 5
    assert top3_share(a, b) == pytest.approx(3 / 4)


def test_a_view_without_positions_has_no_value():
    empty = np.zeros((0, 8), dtype=np.float32)
    assert np.isnan(values(similarity(empty, empty, Moments.of(normal(0, 9, 8))))).all()


def test_activations_that_are_all_zero_have_no_cosine_and_a_distance():
    zero, a = np.zeros((2, 8), dtype=np.float32), normal(0, 2, 8)
    measured = similarity(zero, a, Moments(2, np.zeros(8), np.ones(8)))
    assert math.isnan(measured.cosine) and math.isnan(measured.top3_share)
    assert measured.mse == pytest.approx(np.square(a, dtype=float).mean())
    assert math.isnan(cosine(zero, zero))


def test_shapes_that_differ_are_refused():
    with pytest.raises(ValueError, match=r"shapes differ: \(2, 8\) and \(3, 8\)"):
        similarity(normal(0, 2, 8), normal(0, 3, 8), Moments.of(normal(0, 9, 8)))


def test_large_float32_activations_do_not_overflow():
    a = np.full((3, 8), 3e38, dtype=np.float32)
    assert cosine(a.astype(float), a.astype(float)) == pytest.approx(1)
    assert math.isfinite(similarity(a, -a, Moments.of(normal(0, 9, 8))).mse)


def test_jaccard():
    assert jaccard({1, 2, 3}, {2, 3, 4}) == 0.5
    assert jaccard({1}, {1}) == 1
    assert jaccard({1}, set()) == jaccard({1}, {2}) == 0
    assert math.isnan(jaccard(set(), set()))


@given(
    arrays(
        np.float32,
        st.tuples(st.integers(2, 40), st.integers(1, 5)),
        elements=st.floats(-1e3, 1e3, width=32),
    ),
    st.lists(st.integers(0, 40), max_size=6),
    st.floats(-1e6, 1e6),
)
@settings(deadline=None)
def test_merged_moments_are_those_of_all_tokens_however_they_are_split(block, cuts, offset):
    block = block.astype(np.float64) + offset
    merged = Moments.of(block[:0])
    for part in np.split(block, sorted(cut for cut in cuts if cut <= len(block))):
        merged = merged.merge(Moments.of(part))
    scale = 1 + np.abs(block).max()
    assert merged.count == len(block)
    np.testing.assert_allclose(merged.mean, block.mean(axis=0), rtol=0, atol=1e-10 * scale)
    np.testing.assert_allclose(merged.sd, block.std(axis=0, ddof=1), rtol=0, atol=1e-10 * scale)


@given(seeds)
@settings(deadline=None, max_examples=30)
def test_merging_does_not_depend_on_the_order(seed):
    parts = [Moments.of(normal(seed + part, 3 + part, 6, scale=10.0**part)) for part in range(4)]
    one = parts[0].merge(parts[1]).merge(parts[2].merge(parts[3]))
    other = parts[3].merge(parts[1]).merge(parts[0]).merge(parts[2])
    assert one.count == other.count == 3 + 4 + 5 + 6
    np.testing.assert_allclose(one.mean, other.mean, rtol=0, atol=1e-10 * 1e3)
    np.testing.assert_allclose(one.sd, other.sd, rtol=1e-10)


def test_moments_keep_the_digits_that_a_sum_of_squares_loses():
    block = normal(0, 500, 3).astype(np.float64) + 1e6
    expected = block.std(axis=0, ddof=1)
    merged = Moments.of(block[:200]).merge(Moments.of(block[200:]))
    naive = np.sqrt(((block**2).sum(axis=0) - 500 * block.mean(axis=0) ** 2) / 499)
    np.testing.assert_allclose(merged.sd, expected, rtol=1e-10)
    assert np.abs(naive / expected - 1).max() > 1e-6


def test_moments_of_float32_are_computed_in_double():
    block = (normal(0, 20_000, 2) + 1000).astype(np.float32)
    moments = Moments.of(block)
    assert moments.mean.dtype == moments.m2.dtype == np.float64
    np.testing.assert_allclose(moments.mean, block.astype(float).mean(axis=0), rtol=1e-12)


def test_moments_of_no_token_change_nothing():
    none, some = Moments.of(np.zeros((0, 4))), Moments.of(normal(0, 5, 4))
    for merged in (none.merge(some), some.merge(none)):
        assert merged.count == 5
        np.testing.assert_array_equal(merged.mean, some.mean)
        np.testing.assert_array_equal(merged.m2, some.m2)
    assert none.merge(none).count == 0 and (none.sd == 0).all()


def test_the_reference_itself_has_mean_0_and_sd_1_when_standardised():
    block = normal(3, 60, 5, scale=7) + 2
    z = Moments.of(block).standardise(block)
    np.testing.assert_allclose(z, scipy.stats.zscore(block.astype(float), ddof=1), atol=1e-10)


@given(st.floats(-1e4, 1e4, width=32), st.lists(st.integers(1, 50), min_size=1, max_size=5))
@settings(deadline=None)
def test_a_neuron_that_never_varied_is_0_when_standardised(value, sizes):
    merged = Moments.of(np.zeros((0, 1), dtype=np.float32))
    for size in sizes:
        merged = merged.merge(Moments.of(np.full((size, 1), value, dtype=np.float32)))
    assert merged.standardise(np.array([[value + 5]])).tolist() == [[0]]


def test_one_token_tells_no_spread():
    moments = Moments.of(normal(0, 1, 4))
    assert (moments.sd == 0).all()
    assert (moments.standardise(normal(1, 3, 4)) == 0).all()
