"""Covariates of prompts: planted confounds and effects, round trips, and false discoveries."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import false_discovery_control
from sklearn.metrics import roc_auc_score

from neuroscope.stats.confounds import (
    Design,
    covariate_auroc,
    fit,
    group_auroc,
    q_values,
    residuals,
)
from neuroscope.stats.histograms import BINS, edges_of, rank_p_value
from neuroscope.stats.selectivity import auroc


def prompts(seed, number=2000):
    """Return covariates of prompts, and a topic whose prompts are long and often from mail."""
    rng = np.random.default_rng(seed)
    topic = rng.random(number) < 0.3
    numbers = {
        "tokens": np.where(topic, rng.gamma(20, 3, number), rng.gamma(8, 3, number)).round(),
        "question": rng.random(number) < np.where(topic, 0.05, 0.3),
        "constant": np.zeros(number),
    }
    mail = rng.random(number) < np.where(topic, 0.8, 0.3)
    groups = {
        "source": np.where(mail, "mail", rng.choice(["news", "web"], number)),
        "language": np.full(number, "en"),
    }
    return numbers, groups, topic


def only(covariates, part):
    return {name: values[part] for name, values in covariates.items()}


def halves(numbers, groups, number=2000):
    """Return the design and the matrices of the first and the second half of the prompts."""
    first, second = slice(number // 2), slice(number // 2, None)
    design = Design.of(only(numbers, first), only(groups, first))
    return design, *(design.matrix(only(numbers, s), only(groups, s)) for s in (first, second))


def held_out_auroc(values, numbers, groups, topic):
    """Return the AUROC on the second half, before and after a regression on the first half."""
    _, first, second = halves(numbers, groups)
    remains = residuals(second, values[1000:], fit(first, values[:1000]))
    return auroc(values[1000:], topic[1000:]), auroc(remains, topic[1000:])


def test_a_neuron_of_length_detects_no_topic_after_the_regression():
    numbers, groups, topic = prompts(0)
    noise = np.random.default_rng(1).normal(size=2000)
    saturating = 6 * np.tanh((numbers["tokens"] - 35) / 12) + noise
    peaked = np.abs(numbers["tokens"] - 20) + noise
    source = 6.0 * (groups["source"] == "mail") + 0.3 * noise
    values = np.column_stack([saturating, peaked, source]).astype(np.float32)
    before, after = held_out_auroc(values, numbers, groups, topic)
    assert (before[:2] > 0.9).all() and before[2] > 0.7
    np.testing.assert_allclose(after, 0.5, atol=0.06)


def test_a_neuron_of_the_topic_keeps_its_auroc():
    numbers, groups, topic = prompts(0)
    rng = np.random.default_rng(1)
    numbers["tokens"] = rng.permutation(numbers["tokens"])
    numbers["question"] = rng.permutation(numbers["question"])
    groups["source"] = rng.permutation(groups["source"])
    values = rng.normal(size=(2000, 3)) + 2 * topic[:, None]
    before, after = held_out_auroc(values, numbers, groups, topic)
    assert (before > 0.9).all()
    np.testing.assert_allclose(after, before, atol=0.02)


def test_columns_are_an_intercept_bins_and_groups():
    numbers, groups, _ = prompts(0)
    design, matrix, other = halves(numbers, groups)
    assert list(design.numbers) == ["question", "tokens"] and list(design.groups) == ["source"]
    assert matrix.shape == other.shape == (1000, 1 + (1 + 2) + (1 + 10) + 3)
    assert (matrix[:, 0] == 1).all() and (matrix != 0).any(axis=0).all()
    np.testing.assert_allclose(matrix[:, [1, 4]].mean(axis=0), 0, atol=1e-12)
    np.testing.assert_allclose(matrix[:, [1, 4]].std(axis=0), 1)
    for indicators in other[:, 2:4], other[:, 5:15], other[:, 15:]:
        np.testing.assert_array_equal(indicators.sum(axis=1), 1)


def test_a_source_that_the_pilot_lacks_counts_as_equal_parts_of_all_others():
    design = Design.of({}, {"source": np.repeat(["news", "mail"], 20)})
    matrix = design.matrix({}, {"source": np.array(["forum", "newspaper", "news"])})
    np.testing.assert_array_equal(matrix, [[1, 0.5, 0.5], [1, 0.5, 0.5], [1, 0, 1]])


def test_rare_sources_have_no_indicator_of_their_own():
    counts = {"mail": 30, "news": 20, "forum": 19}
    design = Design.of({}, {"source": np.repeat([*counts], [*counts.values()])})
    matrix = design.matrix({}, {"source": np.array(["forum", "new", "mail", "news"])})
    np.testing.assert_array_equal(matrix, [[1, 0.5, 0.5], [1, 0.5, 0.5], [1, 1, 0], [1, 0, 1]])
    assert Design.of({}, {"source": np.repeat(["mail", "forum"], [30, 19])}).is_empty


def test_rare_sources_are_one_group_if_they_are_many_together(tmp_path):
    source = np.array(["mail"] * 30 + [f"https://{number}" for number in range(20)])
    design = Design.of({}, {"source": source})
    expected = [[1, 1, 0], [1, 0, 1], [1, 0, 1]]
    other = {"source": np.array(["mail", "https://3", "https://never"])}
    np.testing.assert_array_equal(design.matrix({}, other), expected)
    restored = Design.from_arrays(design.to_arrays())
    np.testing.assert_array_equal(restored.matrix({}, other), expected)
    assert Design.of({}, {"source": source[30:]}).is_empty


def test_a_source_per_prompt_leaves_the_pilot_its_residuals():
    """An indicator per prompt would reproduce the pilot: its residuals would all be 0."""
    values = np.random.default_rng(0).normal(5, 1, (400, 3))
    groups = {"source": np.array([f"https://{number}" for number in range(400)])}
    numbers = {"tokens": np.arange(400) % 7}
    matrix = Design.of(numbers, groups).matrix(numbers, groups)
    remaining = residuals(matrix, values, fit(matrix, values))
    np.testing.assert_allclose(remaining.std(axis=0), values.std(axis=0), rtol=0.03)


def test_residuals_of_other_sources_keep_their_place_among_the_bins():
    """A neuron with a large mean would otherwise lie beyond the last edge of the pilot."""
    rng = np.random.default_rng(0)
    topic, halves = rng.random(2000) < 0.3, np.arange(2000) % 2 == 0
    values = rng.normal(100, 1, (2000, 1)) + 1.5 * topic[:, None]
    groups = {"source": np.where(halves, rng.choice(["a", "b"], 2000), "c")}
    pilot, other = ({"source": groups["source"][half]} for half in (halves, ~halves))
    design = Design.of({}, pilot)
    coefficients = fit(design.matrix({}, pilot), values[halves])
    edges = edges_of(residuals(design.matrix({}, pilot), values[halves], coefficients))
    remaining = residuals(design.matrix({}, other), values[~halves], coefficients)
    bins = np.searchsorted(edges[0], remaining[:, 0])
    binned = auroc(bins[:, None], topic[~halves])
    np.testing.assert_allclose(binned, auroc(values[~halves], topic[~halves]), atol=0.01)


def test_covariates_that_do_not_vary_leave_the_intercept():
    numbers, groups = {"tokens": np.ones(4)}, {"source": np.array(["news"] * 4)}
    design = Design.of(numbers, groups)
    assert design.is_empty and not halves(*prompts(0)[:2])[0].is_empty
    np.testing.assert_array_equal(design.matrix(numbers, groups), np.ones((4, 1)))
    assert Design.of({"tokens": np.zeros(0)}, {}).is_empty
    with pytest.raises(ValueError, match="neuron 1"):
        fit(np.ones((2, 1)), np.array([[0, 1.0], [0, np.inf]]))
    with pytest.raises(ValueError, match="covariate"):
        design.matrix({}, {})
    with pytest.raises(ValueError, match="tokens"):
        Design.of({"tokens": np.array([1.0, np.nan])}, {})


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=40))
def test_no_bin_of_the_pilot_is_empty(values):
    numbers = {"value": np.array(values)}
    matrix = Design.of(numbers, {}).matrix(numbers, {})
    assert np.isfinite(matrix).all() and matrix.shape[1] <= 12
    assert matrix[:, 2:].any(axis=0).all()


def test_collinear_columns_change_no_residual():
    numbers, groups, _ = prompts(0)
    _, first, second = halves(numbers, groups)
    twice = {**numbers, "length": 3 * numbers["tokens"] + 1}
    _, first_twice, second_twice = halves(twice, {**groups, "origin": groups["source"]})
    values = np.random.default_rng(2).normal(size=(2000, 4)).astype(np.float32)
    coefficients = fit(first_twice, values[:1000])
    assert coefficients.shape == (first_twice.shape[1], 4) and np.abs(coefficients).max() < 5
    expected = residuals(second, values[1000:], fit(first, values[:1000]))
    result = residuals(second_twice, values[1000:], coefficients)
    np.testing.assert_allclose(result, expected, atol=1e-8)
    within = residuals(first, values[:1000], fit(first, values[:1000]))
    np.testing.assert_allclose(first.T @ within, 0, atol=1e-9)


def test_a_design_is_restored_from_its_arrays(tmp_path):
    numbers, groups, _ = prompts(0)
    design, _, expected = halves(numbers, groups)
    np.savez(tmp_path / "design.npz", **dict(reversed(design.to_arrays().items())))
    with np.load(tmp_path / "design.npz", allow_pickle=False) as arrays:
        restored = Design.from_arrays(arrays)
    matrix = restored.matrix(only(numbers, slice(1000, None)), only(groups, slice(1000, None)))
    np.testing.assert_array_equal(matrix, expected)
    assert Design.from_arrays(Design({}, {}).to_arrays()).is_empty


def test_covariate_auroc_equals_scikit_learn():
    numbers, _, topic = prompts(0)
    members = np.column_stack([topic, ~topic, np.zeros(2000, bool), np.ones(2000, bool)])
    areas = covariate_auroc(numbers["tokens"], members)
    expected = roc_auc_score(topic, numbers["tokens"])
    np.testing.assert_allclose(areas, [expected, 1 - expected, np.nan, np.nan])
    assert areas[0] > 0.9


def test_group_auroc_is_that_of_the_shares_learned_on_other_prompts():
    _, groups, topic = prompts(0)
    source = groups["source"].astype("U9")
    source[-10:] = "forum, new"
    members = np.column_stack([topic, ~topic, np.zeros(2000, bool)])
    areas = group_auroc(source[:1000], members[:1000], source[1000:], members[1000:])
    share = {name: topic[:1000][source[:1000] == name].mean() for name in ("mail", "news", "web")}
    scores = [share.get(name, topic[:1000].mean()) for name in source[1000:]]
    expected = roc_auc_score(topic[1000:], scores)
    np.testing.assert_allclose(areas, [expected, expected, np.nan])
    assert areas[0] > 0.7


def test_a_group_that_is_unrelated_to_topics_tells_nothing():
    rng = np.random.default_rng(0)
    source, members = rng.choice(["a", "b", "c"], 4000), rng.random((4000, 5)) < 0.2
    areas = group_auroc(source[:2000], members[:2000], source[2000:], members[2000:])
    np.testing.assert_allclose(areas, 0.5, atol=0.06)


def test_many_groups_need_little_memory():
    """A matrix of prompts by groups would take 400 MB."""
    rng = np.random.default_rng(0)
    source = np.concatenate([rng.integers(0, 9000, 20000), np.arange(20000)]).astype(np.str_)
    members = np.column_stack([source.astype(int) % 3 == 0, rng.random(40000) < 0.2])
    tracemalloc.start()
    areas = group_auroc(source[:20000], members[:20000], source[20000:], members[20000:])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 30e6
    share = {name: members[:20000][source[:20000] == name] for name in ("0", "4")}
    assert share["0"][:, 0].all() and not share["4"][:, 0].any()
    known = np.isin(source[20000:], source[:20000])
    inside = members[20000:, 0]
    p, q = known[inside].mean(), known[~inside].mean()
    # prompts of known groups are separated exactly; those of unknown ones rank in between
    assert areas[0] == pytest.approx(p + (1 - p) * q + (1 - p) * (1 - q) / 2)
    assert 0.45 < areas[1] < 0.55


def test_q_values_equal_scipy_and_keep_nan():
    p = np.random.default_rng(0).random((20, 3)) ** 3
    p[3, 1] = p[7] = np.nan
    q = q_values(p)
    computed = np.isfinite(p)
    np.testing.assert_array_equal(np.isfinite(q), computed)
    np.testing.assert_array_equal(q[computed], false_discovery_control(p[computed]))
    assert np.isnan(q_values(np.full((2, 2), np.nan))).all()
    with pytest.raises(ValueError):
        q_values(np.array([0.5, 2.0]))


def p_values_of(values, topic):
    """Return the p-value of each neuron, from its histogram."""
    rows = zip(edges_of(values[::4]), np.ascontiguousarray(values.T), strict=True)
    bins = np.array([np.searchsorted(edges, row) for edges, row in rows])
    cells = bins + BINS * np.arange(len(bins))[:, None]
    inside, outside = (
        np.bincount(cells[:, side].ravel(), minlength=BINS * len(bins)).reshape(-1, BINS)
        for side in (topic, ~topic)
    )
    return rank_p_value(inside, outside)


def test_planted_neurons_are_found_with_few_false_discoveries():
    topic, proportions = np.arange(1000) < 100, []
    for seed in range(12):
        values = np.random.default_rng(seed).standard_normal((1000, 4096), dtype=np.float32)
        values[:100, :60] += 1.5
        selected = q_values(p_values_of(values, topic)) <= 0.05
        assert selected[:60].all()
        proportions.append(selected[60:].sum() / selected.sum())
    assert np.mean(proportions) <= 0.05 + 3 * np.std(proportions, ddof=1) / np.sqrt(12)
