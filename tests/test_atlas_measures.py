"""Measures of an atlas against scikit-learn, SciPy and NumPy on the same activations."""

from functools import partial

import numpy as np
import pytest
from atlased import AtlasSteps, query, topical_rows, write_rows
from scipy.stats import entropy, false_discovery_control, pointbiserialr
from sklearn.metrics import average_precision_score, roc_auc_score

from neuroscope.extraction.models import load_model
from neuroscope.stats.group_moments import entropy_selected

NEURONS, UNITS, TOPICS = 96, 48, 4


class Built:
    """Atlas of 600 prompts, of which one in ten has no topic, with their activations."""

    def __init__(self, model, folder, **settings):
        def topic(row, rng):
            return row["topic"] if rng.random() < 0.9 else ""

        rows = topical_rows(600, topic=topic, kind=lambda row, rng: str(rng.choice(["x", "y"])))
        rows = [row | {"text": row["text"] + " ?" * (row["kind"] == "x")} for row in rows]
        steps = AtlasSteps(model, write_rows(folder / "prompts.jsonl", rows), **settings)
        self.path, self.topics, self.steps = steps.build(), steps.topics, steps
        acts = steps.extract()
        self.tokens = acts.tokens
        self.values = np.concatenate([acts[site] for site in steps.spec.sites], axis=1)
        self.table = query(self.path, "SELECT * FROM selectivity ORDER BY neuron, topic")
        self.neurons = query(self.path, "SELECT * FROM neuron ORDER BY neuron")

    def __getitem__(self, column):
        """Return a column of the entries, (neurons, topics)."""
        return self.table[column].to_numpy().reshape(NEURONS, TOPICS)

    @property
    def heldout(self):
        """Values and memberships of the prompts of the reported half."""
        rows = self.topics.heldout
        return self.values[rows], self.topics.members[rows]

    @property
    def selection(self):
        """Values and memberships of the prompts on which neurons are selected."""
        rows = ~self.topics.heldout
        return self.values[rows], self.topics.members[rows]

    @property
    def bins(self):
        """(heldout prompts, neurons) bin of each value."""
        values, _ = self.heldout
        edges = np.stack(self.neurons["edges"])[:, 1:-1]
        columns = [np.searchsorted(own, row) for own, row in zip(edges, values.T, strict=True)]
        return np.stack(columns, axis=1)


@pytest.fixture(scope="module", params=["bert", "llama"])
def built(request, family_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("atlas")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NEUROSCOPE_HOME", str(folder / "home"))
        return Built(load_model(str(family_folder(request.param))), folder)


def areas_of(values, members):
    """Return the area under the ROC curve of each neuron for each topic."""
    return np.array([[roc_auc_score(own, column) for own in members.T] for column in values.T])


def test_auroc_is_within_its_bound_of_scikit_learn(built):
    errors = np.abs(built["auroc_heldout"] - areas_of(*built.heldout))
    assert (errors <= built["auroc_error"] + 1e-6).all() and built["auroc_error"].max() < 0.02
    expected = areas_of(*built.selection)
    np.testing.assert_allclose(built["auroc"], expected, atol=0.02)
    clear = np.abs(expected - 0.5) > 0.02
    np.testing.assert_array_equal((built["polarity"] > 0)[clear], (expected > 0.5)[clear])


def test_average_precision_is_within_its_bound_of_scikit_learn(built):
    values, members = built.heldout
    expected = np.array(
        [
            [
                average_precision_score(own, polarity * column)
                for own, polarity in zip(members.T, polarities, strict=True)
            ]
            for column, polarities in zip(values.T, built["polarity"], strict=True)
        ]
    )
    assert (np.abs(built["ap_heldout"] - expected) <= built["ap_error"] + 1e-6).all()
    assert built["ap_error"].max() < 0.15 and np.median(built["ap_error"]) < 0.05


def test_the_rival_is_the_topic_that_is_hardest_to_tell_apart(built):
    _, members = built.heldout
    one_vs_one = np.full((NEURONS, TOPICS, TOPICS), np.inf)
    for own, other in np.argwhere(~np.eye(TOPICS, dtype=bool)):
        rows = members[:, own] ^ members[:, other]
        areas = areas_of(built.bins[rows], members[rows][:, [own]])[:, 0]
        one_vs_one[:, own, other] = np.where(built["polarity"][:, own] > 0, areas, 1 - areas)
    smallest = one_vs_one.min(axis=2)
    np.testing.assert_allclose(built["one_vs_one"], smallest, atol=1e-6)
    at_rival = np.take_along_axis(one_vs_one, built["rival"][..., None].astype(int), axis=2)
    np.testing.assert_allclose(at_rival[..., 0], smallest, atol=1e-12)


def test_effect_sizes_are_those_of_the_reported_half(built):
    values, members = built.heldout
    for topic, own in enumerate(members.T):
        inside, outside = values[own].astype(float), values[~own].astype(float)
        squares = inside.var(axis=0) * len(inside) + outside.var(axis=0) * len(outside)
        pooled = np.sqrt(squares / (len(values) - 2))
        d = (inside.mean(axis=0) - outside.mean(axis=0)) / pooled
        np.testing.assert_allclose(built["d"][:, topic], d, rtol=1e-5)
        r = [pointbiserialr(own, column).statistic for column in values.T.astype(float)]
        np.testing.assert_allclose(built["r"][:, topic], r, rtol=1e-5)


def test_q_values_are_corrected_over_all_entries_of_all_layers(built):
    p, q = built["p"].astype(float), built["q"]
    np.testing.assert_allclose(q, false_discovery_control(p.ravel()).reshape(q.shape), rtol=1e-4)


def test_partial_auroc_is_that_of_the_residuals(built):
    pilot = built.steps.files.statistics(built.steps.experiment, 0).pilot
    design = pilot.design_matrix(built.topics, np.arange(600), built.tokens)
    coefficients = [pilot.sites[site].coefficients for site in built.steps.spec.sites]
    remaining = built.values - design @ np.concatenate(coefficients, axis=1)
    expected = areas_of(remaining[built.topics.heldout], built.heldout[1])
    np.testing.assert_allclose(built["partial_auroc"], expected, atol=0.02)


def test_entries_are_selective_by_all_thresholds_together(built):
    table, model = built.table, query(built.path, "SELECT * FROM model").iloc[0]
    topics = query(built.path, "SELECT * FROM topic ORDER BY topic")
    share = topics["share"].to_numpy()[table["topic"]]

    def strength(column):
        return np.where(table["polarity"] > 0, table[column], 1 - table[column])

    expected = (
        (strength("auroc") >= model["min_auroc"])
        & (strength("auroc_heldout") >= model["min_auroc"])
        & (table["ap_heldout"] >= np.minimum(model["min_lift"] * share, (1 + share) / 2))
        & (table["one_vs_one"] >= model["min_one_vs_one"])
        & (table["q"] < model["max_q"])
    )
    np.testing.assert_array_equal(table["selective"], expected)
    confounded = expected & (strength("partial_auroc") < model["min_auroc"])
    np.testing.assert_array_equal(table["confounded"], confounded)
    assert topics["separable"].all()
    assert expected.sum() > 10 and set(table["polarity"][expected]) == {-1, 1}
    counts = {
        "selective": topics["selective"] + topics["confounded"],
        "confounded": topics["confounded"],
    }
    for name, count in counts.items():
        assert count.tolist() == built[name].sum(axis=0).tolist()


def test_topics_and_covariates_are_described(built):
    _, members = built.heldout
    topics = query(built.path, "SELECT * FROM topic ORDER BY topic")
    assert topics["name"].tolist() == list(built.topics.names)
    assert topics["prompts"].tolist() == built.topics.members.sum(axis=0).tolist()
    assert topics["prompts_heldout"].tolist() == members.sum(axis=0).tolist()
    np.testing.assert_allclose(topics["share"], members.mean(axis=0))
    reached = query(built.path, "SELECT * FROM covariate ORDER BY topic")
    numbers = built.topics.numbers | {"tokens": built.tokens.kept_counts("content")}
    for name, column in numbers.items():
        areas = areas_of(column[built.topics.heldout][:, None], members)[0]
        np.testing.assert_allclose(reached["auroc"][reached["name"] == name], areas)


def test_neurons_are_described_over_all_prompts(built):
    neurons, values = built.neurons, built.values
    close = partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-7)
    close(neurons["mean"], values.mean(axis=0, dtype=float))
    close(neurons["sd"], values.std(axis=0, ddof=1, dtype=float))
    close(neurons["low"], values.min(axis=0))
    close(neurons["high"], values.max(axis=0))
    close(neurons["active"], (values > 0).mean(axis=0))
    for name, level in {"q01": 0.01, "q50": 0.5, "q99": 0.99}.items():
        np.testing.assert_allclose(
            (values <= neurons[name].to_numpy()).mean(axis=0), level, atol=0.01
        )
    assert (np.stack(neurons["counts"]).sum(axis=1) == 600).all()
    edges = np.stack(neurons["edges"])
    assert edges.shape == (NEURONS, 65) and (np.diff(edges, axis=1) >= 0).all()
    reported, members = built.heldout
    total = reported[members.any(axis=1)].astype(float)
    within = sum(reported[own].astype(float).var(axis=0) * own.sum() for own in members.T)
    close(neurons["eta_squared"], 1 - within / (total.var(axis=0) * len(total)))


def test_entropy_is_defined_for_gated_neurons_only(built):
    neurons = built.neurons
    if built.steps.model.architecture.family == "bert":
        assert neurons["entropy"].isna().all() and neurons["entropy_selected"].isna().all()
        return
    shares = np.array([(built.values[own] > 0).mean(axis=0) for own in built.topics.members.T])
    expected = entropy(shares, axis=0)
    np.testing.assert_allclose(neurons["entropy"], expected, rtol=1e-5)
    selected = entropy_selected(shares, expected)
    np.testing.assert_array_equal(neurons["entropy_selected"].astype(bool), selected)
    assert 0 < selected.sum() < 10


def test_directions_are_differences_of_the_means_in_the_selection_half(built):
    values, members = built.selection
    reported, reported_members = built.heldout
    rows = query(built.path, "SELECT * FROM direction ORDER BY layer, topic").itertuples()
    strengths = np.where(built["polarity"] > 0, built["auroc"], 1 - built["auroc"])
    for row in rows:
        own, layer = members[:, row.topic], slice(row.layer * UNITS, (row.layer + 1) * UNITS)
        direction = values[own, layer].mean(axis=0) - values[~own, layer].mean(axis=0)
        scores = reported[:, layer] @ direction
        area = roc_auc_score(reported_members[:, row.topic], scores)
        assert row.auroc_heldout == pytest.approx(area, abs=1e-3)
        assert row.best_neuron == layer.start + strengths[layer, row.topic].argmax()
        reached = built["auroc_heldout"][row.best_neuron, row.topic]
        assert row.best_auroc == pytest.approx(max(reached, 1 - reached), abs=1e-6)
