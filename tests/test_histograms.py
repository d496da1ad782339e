"""Measures from histograms, compared with scikit-learn and SciPy on bins and on activations."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import mannwhitneyu
from sklearn.metrics import average_precision_score, roc_auc_score

from neuroscope.stats.histograms import (
    BINS,
    auroc,
    average_precision,
    edges_of,
    levels,
    pairwise_auroc,
    quantiles,
    rank_p_value,
)

seeds = st.integers(0, 2**32 - 1)


def bins_of(values, edges):
    """Return the bin of each activation, (prompts, neurons)."""
    return np.stack([np.searchsorted(e, v) for e, v in zip(edges, values.T, strict=True)], axis=1)


def counts_of(bins, members):
    """Return the counts of topics, (neurons, topics, bins)."""
    counts = [
        [np.bincount(column[topic], minlength=BINS) for topic in members.T] for column in bins.T
    ]
    return np.array(counts)


def planted(seed, prompts=400, neurons=5, topics=3, *, decimals=None, shift=1.0):
    """Return activations and topics; each topic raises the neuron of its own index."""
    rng = np.random.default_rng(seed)
    members = rng.random((prompts, topics)) < 0.2
    members[:2] = [[True], [False]]
    values = rng.normal(size=(prompts, neurons)).astype(np.float32)
    values[:, :topics] += shift * members
    return values if decimals is None else values.round(decimals), members


def histogram(values, members):
    """Return the bins of the activations and the counts inside and outside each topic."""
    bins = bins_of(values, edges_of(values))
    return bins, counts_of(bins, members), counts_of(bins, ~members)


def scores(metric, members, values):
    """Return a measure of scikit-learn, (neurons, topics)."""
    return np.array([[metric(topic, column) for topic in members.T] for column in values.T])


def test_levels_are_symmetric_and_resolve_the_tails():
    assert levels().shape == (BINS - 1,)
    assert (np.diff(levels()) > 0).all()
    np.testing.assert_allclose(levels(), 1 - levels()[::-1], atol=1e-15)
    assert 1 / levels()[0] == pytest.approx(2061, abs=1)
    assert {k / 48 for k in range(1, 48)} <= set(levels())


@given(seeds, st.integers(1, 40))
def test_edges_ascend_even_for_small_pilots(seed, prompts):
    values = planted(seed, prompts + 2)[0][:prompts]
    edges = edges_of(values * np.float32(1e5))
    assert edges.shape == (5, BINS - 1) and edges.dtype == np.float32
    assert (np.diff(edges) >= 0).all()
    expected = np.quantile(values.astype(float) * 1e5, levels(), axis=0).T
    np.testing.assert_allclose(edges, expected, rtol=1e-5, atol=0.1)


def test_edges_of_a_neuron_that_is_often_0_coincide():
    values = np.maximum(planted(0)[0], 0)
    edges = edges_of(values)
    assert (edges == 0).sum(axis=1).min() > 10
    counts = counts_of(bins_of(values, edges), np.ones((400, 1), bool))[:, 0]
    np.testing.assert_array_equal(counts[:, 0], (values == 0).sum(axis=0))
    with pytest.raises(ValueError, match="neuron 2"):
        edges_of(np.array([[0.0, 1.0, np.nan]]))


@pytest.mark.parametrize("decimals", [None, 1, 0])
def test_measures_equal_scikit_learn_on_bins_and_bound_the_error(decimals):
    values, members = planted(1, decimals=decimals)
    bins, inside, outside = histogram(values, members)
    measures = (auroc, roc_auc_score), (average_precision, average_precision_score)
    for measure, reference in measures:
        value, bound = measure(inside, outside)
        np.testing.assert_allclose(value, scores(reference, members, bins), atol=1e-12)
        error = np.abs(value - scores(reference, members, values))
        assert (error <= bound + 1e-12).all()
        assert decimals is not None or bound.max() < 0.05


@given(seeds, st.integers(2, 60), st.integers(1, 9), st.integers(1, 12))
def test_bounds_hold_for_any_order_within_bins(seed, prompts, used, steps):
    rng = np.random.default_rng(seed)
    bins = rng.integers(0, used, (prompts, 1))
    values = bins + rng.integers(0, steps, (prompts, 1)) / steps  # many ties
    topic = rng.random(prompts) < rng.random()
    topic[:2] = True, False
    inside, outside = (counts_of(bins, mask[:, None])[0, 0] for mask in (topic, ~topic))
    for measure, reference in (auroc, roc_auc_score), (average_precision, average_precision_score):
        value, bound = measure(inside, outside)
        assert value == pytest.approx(reference(topic, bins[:, 0]), abs=1e-12)
        assert abs(value - reference(topic, values[:, 0])) <= bound + 1e-12


def test_bounds_are_reached_by_a_single_bin():
    inside, outside = np.array([0, 2]), np.array([0, 3])
    value, bound = average_precision(inside, outside)
    best = average_precision_score([1, 1, 0, 0, 0], [3, 3, 1, 1, 1])
    worst = average_precision_score([1, 1, 0, 0, 0], [1, 2, 3, 3, 3])
    assert value == pytest.approx(0.4) and best == 1
    assert bound == pytest.approx(max(best - value, value - worst))
    assert auroc(inside, outside) == (0.5, 0.5)


def test_outside_counts_broadcast():
    _, inside, outside = histogram(*planted(2))
    other = outside[:, :1]
    for measure in auroc, average_precision:
        expected = measure(inside, np.broadcast_to(other, inside.shape))
        np.testing.assert_array_equal(measure(inside, other), expected)
        assert measure(other, inside)[0].shape == (5, 3)
    assert rank_p_value(inside, other).shape == (5, 3)


def test_pairwise_auroc_equals_auroc_of_two_topics():
    _, counts, _ = histogram(*planted(3))
    areas = pairwise_auroc(counts)
    np.testing.assert_allclose(areas, auroc(counts[:, :, None], counts[:, None])[0], atol=1e-12)
    np.testing.assert_allclose(np.diagonal(areas, axis1=1, axis2=2), 0.5)
    np.testing.assert_allclose(areas + areas.swapaxes(1, 2), 1)


def test_an_empty_topic_gives_nan():
    values, members = planted(4)
    members[:, 1] = False
    _, inside, outside = histogram(values, members)
    empty = np.array([False, True, False])
    for measure in auroc, average_precision:
        for result in measure(inside, outside):
            np.testing.assert_array_equal(np.isnan(result).all(axis=0), empty)
            np.testing.assert_array_equal(np.isnan(result).any(axis=0), empty)
    assert np.isnan(rank_p_value(inside, outside)[:, 1]).all()
    assert np.isnan(auroc(outside, inside)[0][:, 1]).all()
    pairs = np.isnan(pairwise_auroc(inside))
    np.testing.assert_array_equal(pairs[0], empty[:, None] | empty)


@given(seeds, st.integers(3, 80), st.integers(1, 9), st.integers(0, 4))
def test_p_value_equals_scipy(seed, prompts, used, shift):
    rng = np.random.default_rng(seed)
    topic = rng.random(prompts) < 0.4
    topic[:2] = True, False
    bins = (rng.integers(0, used, prompts) + shift * topic)[:, None]
    inside, outside = (counts_of(bins, mask[:, None])[0, 0] for mask in (topic, ~topic))
    value = rank_p_value(inside, outside)
    if len(np.unique(bins)) == 1:
        assert value == 1
    else:
        test = mannwhitneyu(bins[topic, 0], bins[~topic, 0], method="asymptotic")
        assert value == pytest.approx(test.pvalue, rel=1e-9)


def test_p_values_of_shuffled_topics_are_uniform():
    values, members = planted(5, prompts=500, neurons=2000, topics=1, shift=0)
    _, inside, outside = histogram(values, members)
    p = rank_p_value(inside, outside)
    for level in 0.01, 0.05, 0.5:
        assert (p < level).mean() == pytest.approx(level, abs=4 * np.sqrt(level / 2000))


@given(seeds)
def test_counts_of_two_shards_add_up(seed):
    values, members = planted(seed)
    bins, inside, outside = histogram(values, members)
    for whole, topics in (inside, members), (outside, ~members):
        shards = [counts_of(bins[part], topics[part]) for part in (slice(150), slice(150, None))]
        np.testing.assert_array_equal(sum(shards), whole)


def test_quantiles_are_close_to_those_of_the_activations():
    values, _ = planted(6, prompts=3000)
    edges = edges_of(values[:2048])
    counts = counts_of(bins_of(values, edges), np.ones((3000, 1), bool))[:, 0]
    at = np.array([0, 0.001, 0.01, 0.25, 0.5, 0.9, 0.999, 1])
    low, high = values.min(axis=0), values.max(axis=0)
    result = quantiles(counts, edges, low, high, at)
    expected = np.quantile(values, at, axis=0).T
    np.testing.assert_array_equal(result[:, [0, -1]], np.stack([low, high], axis=1))
    np.testing.assert_allclose(result[:, 2:6], expected[:, 2:6], atol=0.03)
    np.testing.assert_allclose(result, expected, atol=0.4)


def test_quantiles_of_few_prompts_stay_between_minimum_and_maximum():
    edges = np.array([[0.0, 0.0, 2.0], [0.0, 1.0, 2.0], [0.0, 1.0, 2.0]])
    counts = np.array([[4, 0, 0, 0], [0, 2, 2, 0], [0, 0, 0, 0]])
    low, high = np.array([0.0, 0.5, 0.0]), np.array([0.0, 1.5, 0.0])
    result = quantiles(counts, edges, low, high, np.array([0, 0.25, 0.5, 1]))
    np.testing.assert_allclose(result[:2], [[0, 0, 0, 0], [0.5, 0.75, 1, 1.5]])
    assert np.isnan(result[2]).all()


@given(seeds, st.integers(1, 30))
def test_quantiles_ascend(seed, prompts):
    rng = np.random.default_rng(seed)
    values = np.maximum(rng.normal(size=(prompts, 3)), 0).astype(np.float32)
    edges = edges_of(rng.normal(size=(50, 3)).astype(np.float32))
    counts = counts_of(bins_of(values, edges), np.ones((prompts, 1), bool))[:, 0]
    low, high = values.min(axis=0), values.max(axis=0)
    result = quantiles(counts, edges, low, high, np.linspace(0, 1, 21))
    assert (np.diff(result) >= -1e-12).all()
    assert all((low[i] <= result[i, j] + 1e-12) for i, j in product(range(3), range(21)))
    np.testing.assert_allclose(result[:, -1], high)
