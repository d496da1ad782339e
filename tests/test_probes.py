"""Linear probes, compared with scikit-learn, planted labels and noise."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import scipy.stats
from sklearn.exceptions import ConvergenceWarning
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from threadpoolctl import threadpool_info, threadpool_limits

from neuroscope.stats import probes
from neuroscope.stats.probes import Probe, probe_activations, probe_tokens, readable_layers

TOPICS = np.array(["politics", "mathematics", "sport", "music", "law"])


def labelled(seed, prompts, topics=5):
    """Return labels, each equally often, and a generator of random numbers."""
    rng = np.random.default_rng(seed)
    return rng.permutation(np.resize(TOPICS[:topics], prompts)), rng


def planted(seed, prompts=400, neurons=30, strength=3.0, topics=5):
    """Return activations whose first five neurons encode the label unless `strength` is 0."""
    labels, rng = labelled(seed, prompts, topics)
    activations = rng.normal(size=(prompts, neurons))
    activations[:, :5] += strength * (labels[:, None] == TOPICS)
    return activations.astype(np.float32), labels


@pytest.mark.parametrize("seed", range(3))
def test_a_probe_equals_scikit_learn_by_hand(seed):
    activations, labels = planted(seed, strength=0.7)
    activations *= np.logspace(-3, 3, 30, dtype=np.float32)
    train, heldout = train_test_split(
        np.arange(400), test_size=0.25, stratify=labels, random_state=seed
    )
    mean, sd = activations[train].mean(axis=0, dtype=float), activations[train].std(0, dtype=float)
    z = (activations - mean) / sd
    model = LogisticRegression(max_iter=5000).fit(z[train], labels[train])
    result = probe_activations(activations, labels, seed=seed)
    assert 0.3 < result.accuracy < 0.95
    assert result.accuracy == model.score(z[heldout], labels[heldout])
    assert (result.train, result.heldout) == (300, 100)
    test = scipy.stats.binomtest(round(100 * result.accuracy), 100, 0.2, alternative="greater")
    assert result.chance == 0.2
    assert result.p_value == pytest.approx(test.pvalue, rel=1e-12)


def test_the_interval_is_the_wilson_interval():
    result = probe_activations(*planted(0, strength=0.7))
    n, p, z = result.heldout, result.accuracy, scipy.stats.norm.ppf(0.975)
    centre = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    assert (result.low, result.high) == pytest.approx((centre - half, centre + half), rel=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_a_separable_label_is_read_without_error(seed):
    result = probe_activations(*planted(seed, strength=20), seed=seed)
    assert result.accuracy == result.high == 1
    assert result.p_value < 1e-30
    assert result.selectivity > 0.6


def test_an_absent_label_is_read_at_chance():
    results = [probe_activations(*planted(s, 120, 10, 0), seed=s) for s in range(100)]
    covered = np.mean([result.low <= 0.2 <= result.high for result in results])
    assert covered > 0.88  # 0.95 less three standard errors
    assert np.mean([result.accuracy for result in results]) == pytest.approx(0.2, abs=0.03)


def test_the_control_task_is_at_chance():
    results = [probe_activations(*planted(s, 120, 10, 5), seed=s) for s in range(100)]
    assert np.mean([result.accuracy for result in results]) > 0.95
    assert np.mean([result.control_accuracy for result in results]) == pytest.approx(0.2, abs=0.03)
    for result in results:
        assert result.selectivity == result.accuracy - result.control_accuracy


def test_chance_is_the_share_of_the_most_frequent_label():
    activations = np.random.default_rng(0).normal(size=(400, 8))
    labels = ["politics"] * 300 + ["sport"] * 60 + ["law"] * 40
    result = probe_activations(activations, labels)
    assert result.chance == 0.75
    assert result.p_value > 0.05


def test_readability_of_noise_is_a_false_alarm_of_at_most_5_per_cent():
    alarms = 0
    for seed in range(300):
        layers = [planted(1000 * layer + seed, 60, 6, 0, 3)[0] for layer in range(4)]
        labels, _ = labelled(seed, 60, 3)
        results = [probe_activations(layer, labels, seed=seed) for layer in layers]
        alarms += bool(readable_layers(results).readable)
    assert alarms / 300 <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / 300)


def test_a_probe_of_2000_prompts_converges_despite_a_neuron_of_large_scale():
    rng = np.random.default_rng(0)
    labels = np.resize(TOPICS, 2000)
    shared = rng.normal(size=(2000, 40)) + 0.5 * (labels[:, None] == np.resize(TOPICS, 40))
    activations = shared @ rng.normal(size=(40, 384)) + 0.01 * rng.normal(size=(2000, 384))
    activations[:, 7] = 1000 + 50 * rng.normal(size=2000)
    assert probe_activations(activations, labels).accuracy > 0.5  # a warning would be an error


def test_equal_seeds_give_equal_results_and_other_seeds_other_splits():
    activations, labels = planted(0, strength=0.7)
    first = probe_activations(activations, labels, seed=3)
    assert probe_activations(activations, labels, seed=3) == first
    others = [probe_activations(activations, labels, seed=seed) for seed in range(4, 8)]
    assert len({result.accuracy for result in [first, *others]}) > 1


def test_probes_in_several_threads_give_the_same_results_and_leave_the_thread_limits():
    data = [planted(seed, strength=0.7) for seed in range(6)]
    expected = [probe_activations(*layer) for layer in data]
    with threadpool_limits(2), ThreadPoolExecutor(3) as pool:
        limits = [library["num_threads"] for library in threadpool_info()]
        assert list(pool.map(lambda layer: probe_activations(*layer), data)) == expected
        assert [library["num_threads"] for library in threadpool_info()] == limits


def token_ids(labels, rng, informative=None):
    """Return prompts of 3 to 12 tokens, each with token 9000 + topic if `informative`."""
    prompts = [rng.integers(100, 140, size=rng.integers(3, 13)) for _ in labels]
    if informative:
        numbers = [TOPICS.tolist().index(label) for label in labels]
        prompts = [np.append(ids, 9000 + n) for ids, n in zip(prompts, numbers, strict=True)]
    return prompts


def test_a_bag_of_tokens_reads_a_label_that_one_token_determines():
    labels, rng = labelled(0, 400)
    assert probe_tokens(token_ids(labels, rng, informative=True), labels).accuracy == 1
    absent = probe_tokens(token_ids(labels, rng), labels)
    assert absent.low < 0.2 < absent.high


def test_a_bag_of_tokens_equals_scikit_learn_by_hand():
    labels, rng = labelled(1, 200)
    tokens = token_ids(labels, rng)
    tokens = [np.append(ids, ids[0]) for ids in tokens]  # a repeated token counts twice
    tokens[5] = tokens[5][:0]
    counts = CountVectorizer(analyzer=lambda ids: ids.tolist()).fit_transform(tokens).toarray()
    train, heldout = train_test_split(
        np.arange(200), test_size=0.25, stratify=labels, random_state=2
    )
    model = LogisticRegression(max_iter=5000).fit(counts[train], labels[train])
    result = probe_tokens(tokens, labels, seed=2)
    assert result.accuracy == model.score(counts[heldout], labels[heldout])
    assert (result.train, result.heldout) == (150, 50)


def test_four_prompts_per_label_are_enough_for_training_and_test():
    labels = ["politics"] * 997 + ["sport"] * 4
    activations = np.random.default_rng(0).normal(size=(1001, 2)).astype(np.float32)
    activations[:, 0] = [label == "sport" for label in labels]
    result = probe_activations(activations, labels)
    assert result.accuracy == 1
    assert result.chance < 1


@pytest.mark.parametrize(
    ("labels", "data"),
    [
        (["politics"] * 5 + ["sport"] * 3, r"'sport'.*\b3\b"),
        (["politics"] * 8, r"\['politics'\]"),
        (["politics", "sport"] * 3, r"\b8\b.*\b6\b"),
    ],
)
def test_labels_that_cannot_be_probed_are_refused(labels, data):
    with pytest.raises(ValueError, match=data):
        probe_activations(np.ones((8, 2)), labels)
    with pytest.raises(ValueError, match=data):
        probe_tokens([np.array([1, 2])] * 8, labels)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_activations_that_are_not_finite_are_refused(value):
    activations, labels = planted(0)
    activations[17, 3] = value
    with pytest.raises(ValueError, match=r"\b17\b"):
        probe_activations(activations, labels)


@pytest.mark.parametrize("shape", [(400,), (400, 0), (20, 20, 5)])
def test_activations_of_another_shape_are_refused(shape):
    with pytest.raises(ValueError, match=str(shape[0])):
        probe_activations(np.ones(shape), planted(0)[1])


def test_prompts_without_tokens_are_refused():
    with pytest.raises(ValueError, match="token"):
        probe_tokens([np.array([], dtype=int)] * 8, ["politics", "sport"] * 4)


def test_a_classifier_that_does_not_converge_raises_an_error(monkeypatch):
    monkeypatch.setattr(probes, "_MAX_ITERATIONS", 2)
    shape = r"\b2\b.*\b300\b.*\b30\b"
    with pytest.warns(ConvergenceWarning), pytest.raises(RuntimeError, match=shape):
        probe_activations(*planted(0, strength=0.7))


READ = Probe(0.9, 0.8, 0.95, 0.2, 1e-9, 0.2, 300, 100, 5)
UNREAD = replace(READ, accuracy=0.2, p_value=0.5)


@pytest.mark.parametrize(
    ("layers", "readable", "readable_from"),
    [
        ([READ] * 3, (0, 1, 2), 0),
        ([UNREAD, READ, UNREAD, READ, READ], (1, 3, 4), 3),
        ([READ, UNREAD], (0,), None),
        ([UNREAD, UNREAD], (), None),
        ([UNREAD], (), None),
    ],
)
def test_a_label_is_readable_from_the_first_layer_of_an_unbroken_run(
    layers, readable, readable_from
):
    result = readable_layers(layers)
    assert (result.readable, result.readable_from) == (readable, readable_from)


def test_readability_is_decided_by_benjamini_and_hochberg():
    p_values = [0.04, 0.013, 0.2, 0.001]
    result = readable_layers([replace(READ, p_value=p) for p in p_values])
    assert result.q_values == pytest.approx([0.16 / 3, 0.026, 0.2, 0.004])
    assert result.readable == (1, 3)


def test_the_best_layer_is_the_first_of_the_highest_accuracy():
    layers = [replace(READ, accuracy=accuracy) for accuracy in (0.5, 0.9, 0.7, 0.9)]
    assert readable_layers(layers).best == 1


def test_an_empty_list_of_layers_is_refused():
    with pytest.raises(ValueError, match="layer"):
        readable_layers([])
