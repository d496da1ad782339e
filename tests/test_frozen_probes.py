"""Frozen probes, compared with scikit-learn, planted changes and the probes of layers."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from neuroscope.stats.alignment import MeanSd, Procrustes
from neuroscope.stats.frozen_probes import frozen_accuracies
from neuroscope.stats.probes import probe_activations, split_prompts

TOPICS = np.array(["politics", "mathematics", "sport", "music"])


def planted(seed, prompts=400, neurons=20, strength=2.0):
    """Return activations whose first four neurons encode the label, and the labels."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.resize(TOPICS, prompts))
    activations = rng.normal(size=(prompts, neurons))
    activations[:, :4] += strength * (labels[:, None] == TOPICS)
    return activations.astype(np.float32), labels.tolist()


@pytest.mark.parametrize("seed", range(3))
def test_the_base_has_the_accuracy_of_its_own_probe(seed):
    base, labels = planted(seed, strength=1)
    result = frozen_accuracies(base, {"base": base}, labels, seed=seed)["base"]
    assert result.accuracy == probe_activations(base, labels, seed=seed).accuracy
    assert len(result.correct) == 100


def test_a_frozen_probe_equals_scikit_learn_by_hand():
    base, labels = planted(0, strength=1)
    other, y = base + planted(1)[0], np.array(labels)
    train, heldout = split_prompts(labels, seed=5)
    mean, sd = base[train].mean(axis=0, dtype=float), base[train].std(axis=0, dtype=float)
    model = LogisticRegression(max_iter=5000).fit((base[train] - mean) / sd, y[train])
    expected = model.predict((other[heldout] - mean) / sd) == y[heldout]
    result = frozen_accuracies(base, {"other": other}, labels, seed=5)["other"]
    np.testing.assert_array_equal(result.correct, expected)
    p = expected.mean()
    assert 0.3 < result.accuracy == p < 0.9
    assert result.standard_error == pytest.approx(np.sqrt(p * (1 - p) / 100), rel=1e-12)


def test_the_split_holds_out_a_quarter_of_each_label():
    labels = ["politics"] * 80 + ["sport"] * 40
    train, heldout = split_prompts(labels, seed=1)
    assert sorted([*train, *heldout]) == list(range(120))
    assert sum(heldout < 80) == 20 and sum(heldout >= 80) == 10
    again, other = split_prompts(labels, seed=1), split_prompts(labels, seed=2)
    assert (again.heldout == heldout).all() and set(other.heldout) != set(heldout)


def test_a_realignment_without_labels_recovers_what_a_frozen_probe_loses():
    base, labels = planted(2, strength=4)
    rng = np.random.default_rng(3)
    rotation = np.linalg.qr(rng.normal(size=(20, 20)))[0]
    rescaled, rotated = (
        base * rng.choice([0.2, 5], size=20) + 4 * rng.normal(size=20),
        base @ rotation,
    )
    train, _ = split_prompts(labels)
    others = {
        "base": base,
        "rescaled": rescaled,
        "rotated": rotated,
        "realigned": MeanSd.fit(rescaled[train], base[train]).apply(rescaled),
        "rotated back": Procrustes.fit(rotated[train], base[train]).apply(rotated),
    }
    results = frozen_accuracies(base, others, labels)
    accuracy = {name: result.accuracy for name, result in results.items()}
    assert list(accuracy) == list(others)
    assert accuracy["base"] > 0.95 and max(accuracy["rescaled"], accuracy["rotated"]) < 0.85
    assert accuracy["realigned"] == accuracy["rotated back"] == accuracy["base"]


def test_activations_outside_the_held_out_prompts_of_the_others_are_not_used():
    base, labels = planted(4, strength=1)
    other = base.copy()
    other[split_prompts(labels).train] = 0
    results = frozen_accuracies(base, {"base": base, "other": other}, labels)
    np.testing.assert_array_equal(results["base"].correct, results["other"].correct)


def test_shapes_that_do_not_match_are_refused():
    base, labels = planted(0)
    for other in (base[1:], base[:, 1:]):
        with pytest.raises(ValueError, match=r"new.*\b(399|19)\b"):
            frozen_accuracies(base, {"new": other}, labels)
    with pytest.raises(ValueError, match=r"\b400\b.*\b399\b"):
        frozen_accuracies(base, {"new": base}, labels[1:])


def test_activations_that_are_not_finite_are_refused():
    base, labels = planted(0)
    other = base.copy()
    other[17, 3] = np.nan
    with pytest.raises(ValueError, match=r"\b3\b.*new"):
        frozen_accuracies(base, {"new": other}, labels)
    with pytest.raises(ValueError, match=r"\b3\b.*base"):
        frozen_accuracies(other, {"base": base}, labels)


def test_labels_that_cannot_be_probed_are_refused():
    with pytest.raises(ValueError, match=r"'sport'.*\b3\b"):
        split_prompts(["politics"] * 5 + ["sport"] * 3)
