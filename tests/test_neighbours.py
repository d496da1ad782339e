"""Nearest neighbours, compared with plain sorting, copies and planted changes."""

import numpy as np
import pytest
import scipy.spatial.distance

from neuroscope.stats.neighbours import mutual_neighbours, recall


def normal(seed, prompts, neurons):
    return np.random.default_rng(seed).normal(size=(prompts, neurons)).astype(np.float32)


def rotated(values, seed):
    neurons = values.shape[1]
    return values @ np.linalg.qr(np.random.default_rng(seed).normal(size=(neurons, neurons)))[0]


def standardised(values, by):
    by = by.astype(float)
    return (values - by.mean(axis=0)) / by.std(axis=0, ddof=1)


def nearest(entries, queries, k):
    distances = scipy.spatial.distance.cdist(queries, entries, "cosine")
    return [set(np.argsort(row)[:k].tolist()) for row in distances]


def mean_share(a, b, k):
    return np.mean([len(row & other) / k for row, other in zip(a, b, strict=True)])


@pytest.mark.parametrize("k", [1, 7])
def test_mutual_neighbours_equal_their_definition(k):
    shared = normal(0, 90, 4)
    a = shared @ normal(1, 4, 12) * np.logspace(-2, 2, 12) + 3
    b = np.tanh(shared @ normal(2, 4, 7))
    own = []
    for values in (a, b):
        z = standardised(values, values)
        found = nearest(z, z, k + 1)
        own.append([row - {number} for number, row in enumerate(found)])
        assert all(len(row) == k for row in own[-1])
    expected = mean_share(*own, k)
    assert 0.1 < expected < 0.9
    assert mutual_neighbours(a, b, k) == pytest.approx(expected, abs=1e-12)
    assert mutual_neighbours(b, a, k) == mutual_neighbours(a, b, k)


def test_neighbours_do_not_depend_on_scale_shift_or_order_of_neurons():
    a = normal(0, 60, 9)
    order = np.random.default_rng(1).permutation(9)
    assert mutual_neighbours(a, a[:, order] * np.logspace(-3, 3, 9) + 5) == 1


def test_unrelated_models_share_as_many_neighbours_as_chance_gives():
    values = [mutual_neighbours(normal(s, 201, 30), normal(s + 100, 201, 20)) for s in range(20)]
    assert np.mean(values) == pytest.approx(10 / 200, abs=0.006)


def test_noise_lowers_the_share_step_by_step():
    a, noise = normal(0, 200, 20), normal(1, 200, 20)
    values = [mutual_neighbours(a, a + step * noise) for step in (0, 0.05, 0.2, 1)]
    assert values[0] == 1 and values == sorted(values, reverse=True) and values[-1] < 0.5


def test_equal_prompts_are_neighbours_of_each_other_and_never_of_themselves():
    a = np.repeat(normal(0, 20, 8), 4, axis=0)  # each prompt four times
    assert mutual_neighbours(a, a, 3) == 1
    assert mutual_neighbours(a, 5 * a[:, ::-1] - 1, 3) == 1  # the three copies are nearest
    other = np.arange(80).reshape(20, 4).T.ravel()  # copies in the other model are other prompts
    assert mutual_neighbours(a, a[np.argsort(other)], 3) < 0.2


def test_more_equal_prompts_than_neighbours_give_a_share():
    a = np.concatenate([np.repeat(normal(0, 1, 8), 30, axis=0), normal(1, 30, 8)])
    assert mutual_neighbours(a, a) == 1
    assert 0.5 < mutual_neighbours(a, 3 * a + 1) <= 1


def test_recall_equals_its_definition():
    index, queries = normal(0, 120, 10), normal(1, 40, 10)
    changed = queries + 0.3 * normal(2, 40, 10)
    z = [standardised(values, index) for values in (index, changed, queries)]
    expected = mean_share(nearest(z[0], z[1], 10), nearest(z[0], z[2], 10), 10)
    assert 0.3 < expected < 0.95
    assert recall(index, changed, queries) == pytest.approx(expected, abs=1e-12)


def test_recall_is_lost_by_a_rotation_and_kept_by_equal_queries():
    index, queries = normal(0, 400, 16), normal(1, 100, 16)
    assert recall(index, queries, queries) == 1
    assert recall(index, rotated(queries, 2), queries) == pytest.approx(10 / 400, abs=0.03)
    doubled = np.repeat(index, 2, axis=0)
    assert recall(doubled, queries, queries) == 1
    assert recall(index, queries[::-1], queries, k=400) == 1


@pytest.mark.parametrize("k", [0, 8])
def test_a_k_without_enough_neighbours_is_refused(k):
    with pytest.raises(ValueError, match=rf"\b7\b.*\b{k}$"):
        mutual_neighbours(normal(0, 8, 3), normal(1, 8, 3), k)
    with pytest.raises(ValueError, match=rf"\b7\b.*\b{k}$"):
        recall(normal(0, 7, 3), normal(1, 9, 3), normal(2, 9, 3), k)


def test_shapes_that_do_not_match_are_refused():
    a = normal(0, 20, 3)
    with pytest.raises(ValueError, match=r"\b20\b.*\b19\b"):
        mutual_neighbours(a, a[1:])
    for queries, reference in ((a[1:], a), (a[:, 1:], a[:, 1:]), (a[:, 1:], a)):
        with pytest.raises(ValueError, match=r"\(20, 3\)"):
            recall(a, queries, reference)
    with pytest.raises(ValueError, match=r"\(20,\)"):
        mutual_neighbours(a[:, 0], a)


def test_activations_without_neighbours_are_refused():
    a, constant, missing = normal(0, 20, 3), np.full((20, 3), 0.1), normal(0, 20, 3)
    missing[4, 1] = np.nan
    for wrong, data in ((constant, r"\bb\b"), (missing, r"\b1\b")):
        with pytest.raises(ValueError, match=data):
            mutual_neighbours(a, wrong)
    with pytest.raises(ValueError, match="index"):
        recall(constant, a, a)
