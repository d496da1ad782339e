"""Agreement of neurons in two models, compared with SciPy, decimals and plain resampling."""

import tracemalloc
from decimal import Decimal, localcontext

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from neuroscope.stats import paired
from neuroscope.stats.paired import (
    bootstrap_counts,
    neuron_distances,
    resampled_medians,
    spread,
)


def pair(seed, prompts=60, neurons=11, noise=0.3):
    """Return activations of two models, with neurons of different mean and scale."""
    rng = np.random.default_rng(seed)
    base = rng.normal(size=(prompts, neurons))
    candidate = base + noise * rng.normal(size=base.shape)
    scale, offset = 10.0 ** rng.uniform(-3, 3, size=neurons), 10 * rng.normal(size=neurons)
    return tuple((scale * (values + offset)).astype(np.float32) for values in (base, candidate))


def exact_distance(x, y):
    """Return 1 - r of two sequences in decimals of 60 digits."""
    with localcontext() as context:
        context.prec = 60
        x, y = ([Decimal(float(value)) for value in values] for values in (x, y))
        x, y = ([value - sum(values) / len(values) for value in values] for values in (x, y))
        xy, xx, yy = (
            sum(p * q for p, q in zip(a, b, strict=True)) for a, b in ((x, y), (x, x), (y, y))
        )
        return float(1 - xy / (xx * yy).sqrt())


def recomputed_medians(base, candidate, counts):
    medians = []
    for row in counts:
        drawn = np.repeat(np.arange(len(base)), row)
        medians.append(spread(neuron_distances(base[drawn], candidate[drawn]).distance).median)
    return np.array(medians)


@pytest.mark.parametrize("seed", range(5))
def test_distances_equal_scipy(seed):
    base, candidate = (values.astype(float) for values in pair(seed))
    agreement = neuron_distances(base, candidate)
    for neuron, distance in enumerate(agreement.distance):
        r = scipy.stats.pearsonr(base[:, neuron], candidate[:, neuron]).statistic
        assert distance == pytest.approx(1 - r, rel=1e-11, abs=1e-13)
    expected = np.sqrt(np.mean((base - candidate) ** 2, axis=0)) / base.std(axis=0, ddof=1)
    np.testing.assert_allclose(agreement.rms_z, expected, rtol=1e-12)


def test_equal_activations_have_a_distance_of_exactly_0():
    for seed in range(20):
        base, _ = pair(seed, prompts=2 + seed)
        agreement = neuron_distances(base, base.copy())
        assert (agreement.distance == 0).all() and (agreement.rms_z == 0).all()


@pytest.mark.parametrize("noise", [1e-3, 1e-6, 1e-9])
def test_tiny_distances_keep_their_digits(noise):
    rng = np.random.default_rng(0)
    base = rng.normal(size=(200, 6)) + 5
    candidate = base * (1 + noise * rng.normal(size=base.shape))
    measured = neuron_distances(base, candidate).distance
    expected = [exact_distance(x, y) for x, y in zip(base.T, candidate.T, strict=True)]
    np.testing.assert_allclose(measured, expected, rtol=1e-7 if noise == 1e-9 else 1e-9)


@given(
    arrays(np.float32, (7, 2), elements=st.floats(-1e6, 1e6, width=32)),
    st.integers(-60, 60),
)
def test_distances_of_any_values_equal_their_definition(values, power):
    x, y = values[:, :1].astype(float), np.ldexp(values[:, 1:].astype(float), power)
    distance = neuron_distances(x, y).distance[0]
    assert neuron_distances(y, x).distance[0] == pytest.approx(distance, abs=1e-12, nan_ok=True)
    if np.ptp(x) and np.ptp(y):
        assert distance == pytest.approx(exact_distance(x[:, 0], y[:, 0]), abs=1e-12)


def test_a_shift_or_a_scale_does_not_change_the_distance_but_rms_z():
    base, _ = pair(0)
    shifted = neuron_distances(base, base + 2 * base.std(axis=0, ddof=1))
    np.testing.assert_allclose(shifted.distance, 0, atol=1e-11)
    np.testing.assert_allclose(shifted.rms_z, 2, rtol=1e-4)
    for factor, expected in ((2.0**40, 0), (-3.0, 2)):
        distance = neuron_distances(base, factor * base.astype(float)).distance
        np.testing.assert_allclose(distance, expected, atol=1e-14)


def test_neurons_that_are_constant():
    base, candidate = pair(1, neurons=4)
    base[:, [0, 1, 2]] = 0.1
    candidate[:, [0, 1, 3]] = [0.1, 0.2, 0.3]
    agreement = neuron_distances(base, candidate)
    np.testing.assert_array_equal(agreement.distance, [0, np.nan, 1, 1])
    assert agreement.rms_z[0] == 0 and np.isnan(agreement.rms_z[1:3]).all()
    assert agreement.rms_z[3] > 0


def test_quantiles_skip_nan_and_say_so():
    values = np.array([np.nan, 0.0, 1, 2, 3, 4, np.nan])
    summary = spread(values, (0.25, 0.9))
    assert (summary.median, summary.skipped) == (2, 2)
    assert summary.quantiles == {0.25: 1, 0.9: pytest.approx(3.6)}
    nothing = spread(values[:1], (0.5,))
    assert np.isnan([nothing.median, nothing.quantiles[0.5]]).all() and nothing.skipped == 1


def test_bootstrap_counts_draw_as_many_prompts_as_there_are():
    counts = bootstrap_counts(50, 4000, 3)
    assert counts.shape == (4000, 50) and (counts.sum(axis=1) == 50).all()
    np.testing.assert_array_equal(counts, bootstrap_counts(50, 4000, 3))
    assert (counts != bootstrap_counts(50, 4000, 4)).any()
    assert (counts == 0).mean() == pytest.approx((1 - 1 / 50) ** 50, abs=0.01)


@pytest.mark.parametrize("noise", [1.0, 0.1, 1e-4])
def test_medians_equal_those_of_the_resampled_prompts(noise):
    base, candidate = pair(5, prompts=80, neurons=300, noise=noise)
    counts = bootstrap_counts(80, 40, 0)
    expected = recomputed_medians(base, candidate, counts)
    measured = resampled_medians(base, candidate, counts)
    np.testing.assert_allclose(measured, expected, rtol=1e-10, atol=1e-10 * noise**2)


@given(st.integers(0, 2**32 - 1), st.integers(2, 12))
@settings(max_examples=40)
def test_neurons_that_few_prompts_activate_are_resampled_exactly(seed, prompts):
    rng = np.random.default_rng(seed)
    base, candidate = (
        (rng.random((prompts, 5)) < 0.3) * 10.0 ** rng.integers(-4, 5, size=(prompts, 5)) + 0.1
        for _ in range(2)
    )
    for neuron in range(5):  # the median over a single neuron is its distance
        part = base[:, [neuron]], candidate[:, [neuron]]
        counts = bootstrap_counts(prompts, 30, seed)
        measured, expected = resampled_medians(*part, counts), recomputed_medians(*part, counts)
        np.testing.assert_allclose(measured, expected, rtol=0, atol=1e-10)


def test_a_resample_without_the_outlier_is_computed_from_its_prompts():
    base, candidate = (values.astype(float) for values in pair(6, prompts=30, neurons=1))
    base[4], candidate[4] = 1e12, 1e13
    base[:15], candidate[7:22] = base[:15] + 1e9, candidate[7:22] - 1e9
    counts = bootstrap_counts(30, 200, 1)
    counts[:100, 15:] = 0  # so that base and candidate hardly vary, far from their medians
    counts[:100, [8, 9]] += 1
    _, doubtful = paired._distances_from_sums(base, candidate, counts)
    assert 0 < doubtful.sum() < 200
    expected = recomputed_medians(base, candidate, counts)
    np.testing.assert_allclose(resampled_medians(base, candidate, counts), expected, atol=1e-10)


def test_equal_activations_have_resampled_medians_of_exactly_0():
    base, _ = pair(7, prompts=50, neurons=33)
    medians = resampled_medians(base, base.copy(), bootstrap_counts(50, 100, 0))
    assert (medians == 0).all()


def test_medians_of_resamples_skip_neurons_that_are_constant_and_differ():
    base, candidate = pair(8, neurons=3)
    base[:, 0], candidate[:, 0] = 1, 2
    counts = bootstrap_counts(60, 20, 0)
    known = resampled_medians(base[:, 1:], candidate[:, 1:], counts)
    np.testing.assert_array_equal(resampled_medians(base, candidate, counts), known)
    assert np.isnan(resampled_medians(base[:, :1], candidate[:, :1], counts)).all()


def test_the_memory_limit_is_respected_and_does_not_change_the_medians():
    base, candidate = pair(9, prompts=150, neurons=700)
    counts, memory = bootstrap_counts(150, 300, 0), 1_000_000
    expected = resampled_medians(base, candidate, counts)
    tracemalloc.start()
    measured = resampled_medians(base, candidate, counts, memory=memory)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < memory
    np.testing.assert_allclose(measured, expected, rtol=1e-10)
    with pytest.raises(ValueError, match=r"\b150\b.*\b700\b"):
        resampled_medians(base, candidate, counts, memory=10_000)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused(value):
    base, candidate = pair(0)
    candidate[17, [4, 9]] = value
    counts = bootstrap_counts(60, 3, 0)
    for arguments in ((base, candidate), (candidate, base)):
        with pytest.raises(ValueError, match=r"\b4\b"):
            neuron_distances(*arguments)
        with pytest.raises(ValueError, match=r"\b4\b"):
            resampled_medians(*arguments, counts)


@pytest.mark.parametrize(
    "shapes", [((5, 3), (5, 4)), ((5, 3), (4, 3)), ((5,), (5,)), ((5, 0), (5, 0)), ((1, 3), (1, 3))]
)
def test_shapes_that_do_not_match_are_refused(shapes):
    with pytest.raises(ValueError, match="shape"):
        neuron_distances(*(np.ones(shape) for shape in shapes))


@pytest.mark.parametrize("counts", [[[1, 1]], [1, 1, 1], [[0, 0, 0]], [[-1, 2, 2]]])
def test_counts_that_draw_no_resample_are_refused(counts):
    with pytest.raises(ValueError, match="counts"):
        resampled_medians(np.eye(3), np.eye(3), np.array(counts))


def test_a_bootstrap_of_nothing_is_refused():
    for prompts, resamples in ((0, 5), (5, 0)):
        with pytest.raises(ValueError, match=rf"\b{prompts}\b.*\b{resamples}\b"):
            bootstrap_counts(prompts, resamples, 0)
    with pytest.raises(ValueError, match=r"\(2, 2\)"):
        spread(np.eye(2))
