"""Selectivity of neurons for topics, against scikit-learn and on planted neurons."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from neuroscope.sites import Site
from neuroscope.stats.selectivity import auroc
from neuroscope.studies.drift.neurons import most_selective, moved_neurons

TOPICS = ["a"] * 20 + ["b"] * 20 + ["c"] * 20


def test_auroc_equals_scikit_learn_with_ties():
    rng = np.random.default_rng(0)
    values = rng.integers(0, 5, (40, 3)).astype(np.float32)
    inside = rng.random(40) < 0.3
    expected = [roc_auc_score(inside, column) for column in values.T]
    np.testing.assert_allclose(auroc(values, inside), expected)
    assert np.isnan(auroc(values, np.zeros(40, bool))).all()
    with pytest.raises(ValueError, match="shapes"):
        auroc(values, inside[1:])


def test_a_planted_neuron_has_moved_from_one_topic_to_another():
    rng = np.random.default_rng(0)
    base = rng.normal(size=(60, 8)).astype(np.float32)
    base[:20, 5] += 9
    candidate = base.copy()
    candidate[:, 5] = rng.normal(size=60)
    candidate[40:, 5] -= 9
    site = Site("mlp_act", 2)
    first, *_ = moved_neurons({site: base}, {site: candidate}, TOPICS)
    assert first.neuron == "mlp_act.2.5" and first.one_minus_r > 0.5
    assert (first.base_topic, first.base_auroc) == ("a", 1.0)
    assert (first.candidate_topic, first.candidate_auroc) == ("c", 0.0)
    without, *_ = moved_neurons({site: base}, {site: candidate})
    assert without.base_topic == "" and np.isnan(without.base_auroc)


def test_rare_topics_and_single_topics_have_no_selectivity():
    values = np.arange(60, dtype=np.float32)
    assert most_selective(values, ["rare", *TOPICS[1:]])[0] in "abc"
    assert most_selective(values, ["a"] * 60)[0] == ""
    assert most_selective(values, ["a"] * 30 + ["b"] * 30) == ("b", 1.0)  # not a with 0
