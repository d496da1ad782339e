"""Values of the study of layers, compared with independent computations and planted truth."""

import math

import numpy as np
import pytest
import torch
from layered import labelled_prompts, random_prompts
from models import WORDS, make_model
from scipy.spatial.distance import pdist, squareform
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler

import neuroscope as ns
from neuroscope.errors import ExperimentError, ModelError, SiteError
from neuroscope.prompts import Prompt, PromptSet
from neuroscope.stats.geometry import curvature, effective_rank
from neuroscope.studies.layers.geometry import GeometryStatistics
from neuroscope.studies.layers.measures import Extracted, measure_layers
from neuroscope.studies.store.division import PartLimits
from neuroscope.studies.store.spec import ExtractionSpec
from neuroscope.studies.store.store import store_activations

PROMPTS = labelled_prompts()
LABELS = [prompt.labels["topic"] for prompt in PROMPTS]
SAME = np.equal.outer(LABELS, LABELS)


@pytest.fixture(scope="module", params=["bert", "llama"])
def model(request, family_folder):
    return ns.load_model(str(family_folder(request.param)))


@pytest.fixture(scope="module")
def result(model):
    return ns.layers(model, PROMPTS)


@pytest.fixture(scope="module")
def tokens(model):
    """Return the content tokens of every prompt by layer, in float64."""
    acts = ns.extract(model, PROMPTS, pool="none")
    return {site.layer: [values.astype(float) for values in acts[site]] for site in acts}


@pytest.fixture(scope="module")
def means(model):
    """Return the means over the content tokens of every prompt by layer, in float64."""
    acts = ns.extract(model, PROMPTS)
    return {site.layer: acts[site].astype(float) for site in acts}


def standardised(values):
    sd = values.std(axis=0, ddof=1)
    return np.where(sd > 0, (values - values.mean(axis=0)) / np.where(sd > 0, sd, 1), 0)


def hsic(a, b):
    """Return the unbiased estimator of HSIC (Song et al. 2012), by its definition."""
    n, k, m = len(a), a @ a.T, b @ b.T
    np.fill_diagonal(k, 0)
    np.fill_diagonal(m, 0)
    ones = np.ones(n)
    middle = (ones @ k @ ones) * (ones @ m @ ones) / ((n - 1) * (n - 2))
    return (np.trace(k @ m) + middle - 2 / (n - 2) * (ones @ k @ m @ ones)) / (n * (n - 3))


def test_cka_is_the_debiased_cka_of_standardised_means(result, means):
    z = [standardised(means[layer]) for layer in result.layers]
    expected = [[hsic(a, b) / math.sqrt(hsic(a, a) * hsic(b, b)) for b in z] for a in z]
    np.testing.assert_allclose(result.cka, expected, atol=1e-5)
    assert result.rows[0].cka_next == result.rows[0].cka_last == result.cka[0, 1]
    assert math.isnan(result.rows[-1].cka_next) and result.rows[-1].cka_last == 1


def test_geometry_equals_that_of_the_content_tokens(result, tokens):
    for row in result.rows:
        prompts = tokens[row.layer]
        all_tokens = np.concatenate(prompts)
        prompt_of_token = np.repeat(range(len(prompts)), [len(values) for values in prompts])
        cosines = 1 - squareform(pdist(all_tokens, "cosine"))
        between = cosines[np.not_equal.outer(prompt_of_token, prompt_of_token)]
        assert row.anisotropy == pytest.approx(between.mean(), abs=1e-5)
        assert row.norm == pytest.approx(np.linalg.norm(all_tokens, axis=1).mean(), rel=1e-5)
        ranks = [effective_rank(values) for values in prompts]
        assert row.effective_rank == pytest.approx(np.mean(ranks), rel=1e-4)
        assert row.entropy == pytest.approx(np.mean(np.log(ranks)), rel=1e-4)
        angles = [curvature(values) for values in prompts]
        assert row.curvature == pytest.approx(np.nanmean(angles), abs=0.05)


def test_cosines_equal_those_of_all_pairs_of_prompts(result, means):
    other = np.triu(~SAME, 1)
    same = np.triu(SAME, 1)
    for row in result.rows:
        for suffix, values in (("", means[row.layer]), ("_z", standardised(means[row.layer]))):
            cosines = 1 - squareform(pdist(values, "cosine"))
            assert getattr(row, f"cosine{suffix}_same") == pytest.approx(
                cosines[same].mean(), abs=1e-5
            )
            assert getattr(row, f"cosine{suffix}_other") == pytest.approx(
                cosines[other].mean(), abs=1e-5
            )
            pairs = cosines[np.triu(np.ones_like(SAME), 1)]
            expected = math.sqrt(np.mean(pairs**2)) if suffix else pairs.mean()
            assert getattr(row, f"cosine{suffix}") == pytest.approx(expected, abs=1e-5)


def test_outliers_are_neurons_with_a_large_mean_square_over_tokens(result, tokens):
    for row in result.rows:
        root = np.sqrt(np.mean(np.concatenate(tokens[row.layer]) ** 2, axis=0))
        outliers = root > root.mean() + 3 * root.std(ddof=1)
        assert row.outlier_share == outliers.mean()
        energy = np.sum(root[outliers] ** 2) / np.sum(root**2)
        assert row.outlier_energy == pytest.approx(energy, rel=1e-4)


def test_the_probe_equals_scikit_learn_on_the_activations(result, means):
    classes = np.unique(LABELS, return_inverse=True)[1]
    train, test = train_test_split(
        np.arange(len(classes)), test_size=0.25, stratify=classes, random_state=0
    )
    for row in result.rows:
        scaler = StandardScaler().fit(means[row.layer][train])
        features = scaler.transform(means[row.layer])
        probe = LogisticRegression(max_iter=5000).fit(features[train], classes[train])
        assert row.label_accuracy == probe.score(features[test], classes[test])
        assert row.label_low < row.label_accuracy < row.label_high or row.label_accuracy == 1
    assert result.baselines.label_heldout == len(test) and result.baselines.label_values == 3


def test_a_label_planted_at_a_layer_is_readable_only_from_that_layer_on(tmp_path):
    """The parity of the sum of a prompt's token ids is not a linear function of its tokens."""
    model = ns.load_model(str(make_model("bert", tmp_path / "planted", layers=4)))
    texts = random_prompts(400, WORDS[:20])
    ids = [tokens.ids for tokens in ns.extract(model, texts).tokens]
    prompts = PromptSet(
        tuple(
            Prompt(str(n), text, {"parity": str(sum(ids[n]) % 2)}) for n, text in enumerate(texts)
        )
    )
    odd = []

    def remember(module, args, kwargs):
        mask = kwargs["attention_mask"]
        odd.append((kwargs["input_ids"] * mask).sum(dim=1) % 2 == 1)

    def plant(module, args, output):
        shift = torch.zeros(output.shape[2])
        shift[::2] = 3.0
        return output + odd[-1][:, None, None] * shift

    model.module.register_forward_pre_hook(remember, with_kwargs=True)
    model.layer(2).register_forward_hook(plant)
    result = ns.layers(model, prompts)
    accuracies = result.column("label_accuracy")
    assert all(row.label_low < result.baselines.label_chance for row in result.rows[:2])
    assert min(accuracies[2:]) > 0.95 and max(accuracies[:2]) < 0.7
    assert "parity is readable from layer 2 on" in result.headline
    assert result.baselines.label_tokens < 0.7


@pytest.mark.parametrize("budget", [40, 4096])
def test_neither_batches_nor_parts_change_the_measures(model, tmp_path, budget):
    sites = tuple(ns.Site("resid_post", layer) for layer in range(2))
    spec = ExtractionSpec(checkpoint=model.checkpoint, prompts=PROMPTS, sites=sites)
    measures = []
    for name, limits in (("one", PartLimits()), ("many", PartLimits(bytes=6000, full_batches=0))):
        stored = store_activations(
            spec,
            tmp_path / name,
            lambda: model,
            statistics=[GeometryStatistics()],
            budget=budget,
            limits=limits,
        )
        measures.append(measure_layers(Extracted(stored.folder, None), sites, "topic"))
        assert (len(stored.manifest.parts) > 1) == (name == "many")
    one_part, many_parts = measures
    np.testing.assert_allclose(one_part.cka, many_parts.cka, atol=1e-5)
    for a, b in zip(
        [*one_part.geometry, *one_part.similarity],
        [*many_parts.geometry, *many_parts.similarity],
        strict=True,
    ):
        np.testing.assert_allclose(list(vars(a).values()), list(vars(b).values()), rtol=1e-4)


def test_without_labels_only_tokens_are_probed(model):
    result = ns.layers(model, [prompt.text for prompt in PROMPTS])
    assert all(math.isnan(row.label_accuracy) for row in result.rows)
    assert not math.isnan(result.rows[0].token_accuracy)
    assert "token identity" in result.headline and "readable at" not in result.headline
    assert result.baselines.label == "" and result.baselines.label_heldout == 0


def test_prompts_without_the_label_are_not_probed(model):
    prompts = PromptSet((*PROMPTS.prompts, *(Prompt(f"x{n}", f"a cat {n}") for n in range(5))))
    result = ns.layers(model, prompts)
    assert result.baselines.label_heldout == math.ceil(len(PROMPTS) / 4)
    assert any(f"5 of {len(prompts)} prompts" in note for note in result.notes)


def test_the_same_seed_gives_the_same_result(model, result):
    again = ns.layers(model, PROMPTS)
    np.testing.assert_equal(again.to_dict(), result.to_dict())
    other = ns.layers(model, PROMPTS, seed=1)
    assert other.column("norm") == result.column("norm")


@pytest.mark.parametrize(
    ("prompts", "options", "data"),
    [
        (["a cat", "a dog", "a man"], {}, "4"),
        (labelled_prompts(other="x"), {}, "other, topic"),
        (labelled_prompts(), {"label": "subject"}, "'subject'"),
        (labelled_prompts(other="x"), {"label": "other"}, "'x'"),
        (PromptSet((*PROMPTS.prompts, Prompt("y", "a cat", {"topic": "rare"}))), {}, "'rare': 1"),
        (PROMPTS, {"probe_prompts": 7}, "7"),
        (ns.PromptSet.of(PROMPTS.texts), {"label": "topic"}, "'topic'"),
    ],
)
def test_invalid_prompts_and_labels_are_refused(model, prompts, options, data):
    with pytest.raises(ExperimentError) as raised:
        ns.layers(model, prompts, **options)
    assert data in str(raised.value)


def test_repeated_texts_are_noted(model):
    repeated = [Prompt(f"again {prompt.id}", prompt.text, prompt.labels) for prompt in PROMPTS][:5]
    result = ns.layers(model, PromptSet((*PROMPTS.prompts, *repeated)), layers=0)
    (note,) = result.notes
    assert note.startswith(f"5 of {len(PROMPTS) + 5} prompts")


def test_a_model_that_is_not_loaded_is_refused():
    for study in (ns.layers, ns.compare, ns.extract):
        with pytest.raises(ModelError, match=r"not 'minilm'; .*load_model"):
            study("minilm", ["a cat", "a dog", "a man", "a woman"])
    with pytest.raises(ModelError, match="not 'minilm'"):
        ns.extract_to("acts", "minilm", ["a cat"])


def test_a_label_that_cannot_be_probed_is_accepted_without_probes(model):
    result = ns.layers(model, labelled_prompts(other="x"), label="other", probes=False)
    assert not math.isnan(result.rows[0].cosine_same) and math.isnan(result.rows[0].label_accuracy)


def test_a_layer_that_does_not_exist_is_refused(model):
    with pytest.raises(SiteError, match="layer 7"):
        ns.layers(model, PROMPTS, layers=7)
