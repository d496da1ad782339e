"""Similarity measures of activations, and the moments that standardise them."""

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
    a, b, baseline = (make(seed + 10 * part, 7, 20) for part in range(3))
    mean, sd = baseline.mean(axis=0, dtype=float), baseline.std(axis=0, ddof=1, dtype=float)
    z_a, z_b = ((activations - mean) / sd for activations in (a, b))
    share = np.sort(np.abs(np.einsum("pn,pn->n", a, b)))[::-1]
    expected = Similarity(
        cosine=1 - scipy.spatial.distance.cosine(a.ravel().astype(float), b.ravel()),
        mse=np.square(a - b, dtype=float).mean(),
        cosine_z=1 - scipy.spatial.distance.cosine(z_a.ravel(), z_b.ravel()),
        spearman=scipy.stats.spearmanr(z_a.ravel(), z_b.ravel()).statistic,
        rms_z=math.sqrt(np.square(z_a - z_b).mean()),
        top3_share=share[:3].sum() / share.sum(),
    )
    measured = similarity(a, b, Moments.of(baseline))
    np.testing.assert_allclose(values(measured), values(expected), rtol=1e-6, atol=1e-12)


@given(arrays(float, (2, 30), elements=st.integers(-4, 4)))
def test_spearman_equals_scipy_with_any_ties(pair):
    a, b = pair
    if len(set(a)) == 1 or len(set(b)) == 1:
        assert math.isnan(spearman(a, b))
    else:
        assert spearman(a, b) == pytest.approx(scipy.stats.spearmanr(a, b).statistic, abs=1e-12)


@given(seeds)
@settings(max_examples=30)
def test_measures_do_not_depend_on_the_order_of_the_pair(seed):
    a, b, baseline = normal(seed, 3, 4, 12)
    forward, reverse = (similarity(*pair, Moments.of(baseline)) for pair in ((a, b), (b, a)))
    np.testing.assert_allclose(values(forward), values(reverse), rtol=1e-12)
    assert all(-1 <= value <= 1 for value in (forward.cosine, forward.cosine_z, forward.spearman))
    assert 0 < forward.top3_share <= 1


def test_identical_activations_have_the_highest_similarity_in_every_measure():
    a = normal(0, 5, 16)
    same = similarity(a, a, Moments.of(normal(1, 50, 16)))
    assert values(same)[:5] == pytest.approx([1, 0, 1, 1, 0], abs=1e-12)
    opposite = similarity(a, -a, Moments(2, np.zeros(16), np.ones(16)))
    assert [opposite.cosine, opposite.cosine_z, opposite.spearman] == pytest.approx([-1] * 3)


def test_cosines_ignore_scale_and_magnitudes_do_not():
    a = normal(0, 5, 16)
    measured = similarity(a, 3 * a, Moments(2, np.zeros(16), np.full(16, 4.0)))  # sd 2
    assert [measured.cosine, measured.cosine_z, measured.spearman] == pytest.approx([1] * 3)
    power = np.square(a, dtype=float).mean()
    assert measured.mse == pytest.approx(4 * power)
    assert measured.rms_z == pytest.approx(math.sqrt(power))


@pytest.mark.parametrize("seed", range(5))
def test_a_rogue_neuron_determines_the_raw_cosine_but_not_the_standardised_one(seed):
    a, b, baseline = normal(seed, 3, 200, 768)
    for activations in (a, b, baseline):
        activations[:, 308] += 50  # 767 neurons around 0 and one far from it
    measured = similarity(a, b, Moments.of(baseline))
    assert measured.cosine > 0.7
    assert abs(measured.cosine_z) < 0.02
    assert abs(measured.spearman) < 0.02
    assert measured.top3_share > 0.7
    assert similarity(a[:, :300], b[:, :300], Moments.of(baseline[:, :300])).top3_share < 0.05


def test_top3_share_of_planted_contributions():
    a, b = np.ones((1, 28)), np.ones((1, 28))
    a[0, [3, 9, 20]] = 100, -50, 25  # against 25 contributions of 1
    assert top3_share(a, b) == pytest.approx(175 / 200)
    assert top3_share(np.ones((4, 100)), np.ones((4, 100))) == pytest.approx(0.03)
    assert top3_share(np.ones((4, 2)), np.ones((4, 2))) == 1


def test_contributions_are_summed_over_positions_before_their_absolute_value_is_taken():
    a = np.array([[5.0, 1, 1, 1, 1], [5, 1, 1, 1, 1]])
    b = np.array([[1.0, 1, 1, 1, 1], [-1, 1, 1, 1, 1]])  # neuron 0 contributes 5 - 5
    assert top3_share(a, b) == pytest.approx(3 / 4)


def test_every_measure_of_no_positions_is_nan():
    empty = np.zeros((0, 8), dtype=np.float32)
    measured = similarity(empty, empty, Moments.of(normal(0, 9, 8)))
    assert np.isnan(values(measured)).all() and np.isnan(values(Similarity.missing())).all()


def test_activations_that_are_all_zero_have_a_distance_but_no_cosine():
    zero, a = np.zeros((2, 8), dtype=np.float32), normal(0, 2, 8)
    measured = similarity(zero, a, Moments(2, np.zeros(8), np.ones(8)))
    assert math.isnan(measured.cosine) and math.isnan(measured.top3_share)
    assert measured.mse == pytest.approx(np.square(a, dtype=float).mean())
    assert math.isnan(cosine(zero, zero))


def test_different_shapes_are_refused():
    with pytest.raises(ValueError, match=r"\(2, 8\).*\(3, 8\)"):
        similarity(normal(0, 2, 8), normal(0, 3, 8), Moments.of(normal(0, 9, 8)))


def test_large_float32_activations_do_not_overflow():
    a = np.full((3, 8), 3e38, dtype=np.float32)
    assert cosine(a.astype(float), a.astype(float)) == pytest.approx(1)
    assert math.isfinite(similarity(a, -a, Moments.of(normal(0, 9, 8))).mse)


def test_jaccard_is_the_share_of_common_elements():
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
def test_merged_moments_equal_those_of_all_tokens_for_any_division(block, cuts, offset):
    block = block.astype(np.float64) + offset
    merged = Moments.of(block[:0])
    for part in np.split(block, sorted(cut for cut in cuts if cut <= len(block))):
        merged = merged.merge(Moments.of(part))
    scale = 1 + np.abs(block).max()
    assert merged.count == len(block)
    np.testing.assert_allclose(merged.mean, block.mean(axis=0), rtol=0, atol=1e-10 * scale)
    np.testing.assert_allclose(merged.sd, block.std(axis=0, ddof=1), rtol=0, atol=1e-10 * scale)


@given(seeds)
@settings(max_examples=30)
def test_merging_does_not_depend_on_the_order(seed):
    parts = [Moments.of(normal(seed + part, 3 + part, 6, scale=10.0**part)) for part in range(4)]
    pairwise = parts[0].merge(parts[1]).merge(parts[2].merge(parts[3]))
    in_turn = parts[3].merge(parts[1]).merge(parts[0]).merge(parts[2])
    assert pairwise.count == in_turn.count == 3 + 4 + 5 + 6
    np.testing.assert_allclose(pairwise.mean, in_turn.mean, rtol=0, atol=1e-10 * 1e3)
    np.testing.assert_allclose(pairwise.sd, in_turn.sd, rtol=1e-10)


def test_moments_are_accurate_where_a_sum_of_squares_is_not():
    block = normal(0, 500, 3).astype(np.float64) + 1e6
    expected = block.std(axis=0, ddof=1)
    merged = Moments.of(block[:200]).merge(Moments.of(block[200:]))
    naive = np.sqrt(((block**2).sum(axis=0) - 500 * block.mean(axis=0) ** 2) / 499)
    np.testing.assert_allclose(merged.sd, expected, rtol=1e-10)
    assert np.abs(naive / expected - 1).max() > 1e-6


def test_moments_of_float32_are_computed_in_float64():
    block = (normal(0, 20_000, 2) + 1000).astype(np.float32)
    moments = Moments.of(block)
    assert moments.mean.dtype == moments.m2.dtype == np.float64
    np.testing.assert_allclose(moments.mean, block.astype(float).mean(axis=0), rtol=1e-12)


def test_merging_moments_of_no_tokens_changes_nothing():
    none, some = Moments.of(np.zeros((0, 4))), Moments.of(normal(0, 5, 4))
    for merged in (none.merge(some), some.merge(none)):
        assert merged.count == 5
        np.testing.assert_array_equal(merged.mean, some.mean)
        np.testing.assert_array_equal(merged.m2, some.m2)
    assert none.merge(none).count == 0 and (none.sd == 0).all()


def test_standardising_a_block_by_its_own_moments_gives_mean_0_and_sd_1():
    block = normal(3, 60, 5, scale=7) + 2
    z = Moments.of(block).standardise(block)
    np.testing.assert_allclose(z, scipy.stats.zscore(block.astype(float), ddof=1), atol=1e-10)


@given(st.floats(-1e4, 1e4, width=32), st.lists(st.integers(1, 50), min_size=1, max_size=5))
def test_a_neuron_that_does_not_vary_is_standardised_to_0(value, sizes):
    merged = Moments.of(np.zeros((0, 1), dtype=np.float32))
    for size in sizes:
        merged = merged.merge(Moments.of(np.full((size, 1), value, dtype=np.float32)))
    assert merged.standardise(np.array([[value + 5]])).tolist() == [[0]]


def test_the_sd_of_a_single_token_is_0():
    moments = Moments.of(normal(0, 1, 4))
    assert (moments.sd == 0).all()
    assert (moments.standardise(normal(1, 3, 4)) == 0).all()
