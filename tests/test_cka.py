"""Debiased CKA: its definition, its invariances, and its computation in blocks."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neuroscope.stats.cka import (
    _cheaper,
    _cka,
    _Features,
    _moments,
    _NeuronProducts,
    _PromptProducts,
    _standardised,
    debiased_cka,
)
from neuroscope.stats.moments import Moments


def normal(seed, prompts, neurons):
    return np.random.default_rng(seed).normal(size=(prompts, neurons)).astype(np.float32)


def correlated(seed, prompts=53, widths=(7, 11, 30)):
    """Return layers that share a few dimensions, with neurons of different mean and scale."""
    rng = np.random.default_rng(seed)
    shared = rng.normal(size=(prompts, 4))
    layers = []
    for width in widths:
        values = shared @ rng.normal(size=(4, width)) + rng.normal(size=(prompts, width))
        scale, offset = 10.0 ** rng.uniform(-2, 2, size=width), rng.normal(size=width)
        layers.append((scale * (values + 3 * offset)).astype(np.float32))
    return layers


def in_blocks(layers, *sizes):
    """Return a function that yields blocks of these numbers of prompts, and one of the rest."""
    cuts = np.cumsum(sizes)
    return lambda: list(zip(*(np.split(layer, cuts) for layer in layers), strict=True))


def cka(*layers, memory=1e9):
    return debiased_cka(in_blocks(layers), memory=memory)


def features_of(blocks):
    return _standardised(blocks, _moments(blocks, 1e9))


def raw_cka(*layers):
    """Return the CKA of neurons that are centred but not standardised."""
    mean = np.concatenate([layer.mean(axis=0, dtype=float) for layer in layers])
    widths = tuple(layer.shape[1] for layer in layers)
    blocks = in_blocks(layers)
    return _cka(_Features(blocks, len(layers[0]), widths, mean, np.ones_like(mean)), 1e9)


def unbiased_hsic(x, y):
    """Return HSIC1 (Song et al. 2012, eq. 5) from Gram matrices of standardised neurons."""
    n, ones = len(x), np.ones(len(x))
    centre = np.eye(n) - 1 / n
    grams = []
    for values in (x.astype(float), y.astype(float)):
        sd = values.std(axis=0, ddof=1)
        z = centre @ values[:, sd > 0] / sd[sd > 0]
        gram = centre @ (z @ z.T) @ centre
        np.fill_diagonal(gram, 0)
        grams.append(gram)
    k, m = grams
    total = np.trace(k @ m) + (ones @ k @ ones) * (ones @ m @ ones) / ((n - 1) * (n - 2))
    return (total - 2 / (n - 2) * (ones @ k @ m @ ones)) / (n * (n - 3))


def reference_cka(layers):
    hsic = np.array([[unbiased_hsic(x, y) for y in layers] for x in layers])
    return hsic / np.sqrt(np.outer(np.diag(hsic), np.diag(hsic)))


@pytest.mark.parametrize("prompts", [4, 5, 53, 200])
def test_cka_equals_its_definition_by_gram_matrices(prompts):
    layers = correlated(prompts, prompts)
    np.testing.assert_allclose(cka(*layers), reference_cka(layers), rtol=0, atol=1e-10)


@pytest.mark.parametrize("memory", [64 * 48, 20_000, 1e9])
@pytest.mark.parametrize("sizes", [(), (53,), (1,) * 52, (20, 0, 13), (50, 2)])
def test_blocks_and_memory_do_not_change_the_result(sizes, memory):
    layers = correlated(1)
    divided = debiased_cka(in_blocks(layers, *sizes), memory=memory)
    np.testing.assert_allclose(divided, cka(*layers), rtol=0, atol=1e-10)


def test_known_moments_save_a_pass():
    layers, passes = correlated(2), []

    def blocks():
        passes.append(1)
        return in_blocks(layers, 20)()

    moments = [Moments.of(layer) for layer in layers]
    values = debiased_cka(blocks, moments=moments)
    assert len(passes) == 1
    np.testing.assert_allclose(values, cka(*layers), rtol=0, atol=1e-10)


@given(st.integers(0, 2**32 - 1), st.lists(st.integers(0, 20), max_size=6), st.integers(1, 40))
@settings(max_examples=50)
def test_both_forms_agree_in_chunks_of_any_size(seed, sizes, size):
    layers = correlated(seed, 31, (3, 1, 8))
    features = features_of(in_blocks(layers, *sizes))
    for memory in (500, 3000, 1e6):
        by_prompts = _PromptProducts.plan(features, size, memory).sums().cka(31)
        by_neurons = _NeuronProducts.plan(features, size, memory).sums().cka(31)
        np.testing.assert_allclose(by_prompts, by_neurons, rtol=0, atol=1e-10)
        np.testing.assert_allclose(by_neurons, reference_cka(layers), rtol=0, atol=1e-10)


@given(st.integers(0, 2**32 - 1), st.integers(4, 12))
@settings(max_examples=50)
def test_cka_is_symmetric_with_ones_on_the_diagonal_and_at_most_1(seed, prompts):
    values = cka(*correlated(seed, prompts))
    np.testing.assert_array_equal(values, values.T)
    np.testing.assert_array_equal(np.diag(values), 1)
    assert (np.abs(values) <= 1 + 1e-12).all()


@pytest.mark.parametrize("seed", range(5))
def test_independent_layers_are_near_0_at_any_width(seed):
    values = cka(*(normal(10 * seed + layer, 100, 4096) for layer in range(2)))
    assert abs(values[0, 1]) < 0.05


def test_a_shared_rogue_neuron_does_not_dominate_the_cka():
    x, y = normal(0, 200, 300), normal(1, 200, 300)
    x[:, 7] = y[:, 100] = 1000 * normal(2, 200, 1)[:, 0]
    assert raw_cka(x, y)[0, 1] > 0.9
    assert abs(cka(x, y)[0, 1]) < 0.02


def test_a_rotation_does_not_change_the_cka_without_standardisation():
    x, y = (scaled(layer) for layer in correlated(3, 80, (20, 30)))
    rotation = np.linalg.qr(np.random.default_rng(0).normal(size=(20, 20)))[0]
    expected = cka(x, y)[0, 1]
    assert raw_cka(x, y)[0, 1] == pytest.approx(expected, abs=1e-10)
    assert raw_cka(x @ rotation, y)[0, 1] == pytest.approx(expected, abs=1e-10)
    assert raw_cka(x @ rotation, x)[0, 1] == pytest.approx(1, abs=1e-10)


def scaled(layer):
    z = layer - layer.mean(axis=0, dtype=float)
    return z / z.std(axis=0, ddof=1)


def test_a_rotation_of_correlated_neurons_changes_the_standardised_cka():
    x = normal(0, 300, 20) * np.linspace(0.1, 10, 20)
    rotation = np.linalg.qr(np.random.default_rng(1).normal(size=(20, 20)))[0]
    assert cka(x, x @ rotation)[0, 1] < 0.9
    white = np.linalg.qr(scaled(x))[0]  # all directions vary alike, in every basis
    assert cka(white, white @ rotation)[0, 1] == pytest.approx(1, abs=1e-10)


def test_permuting_and_rescaling_neurons_do_not_change_the_cka():
    x, y = correlated(4, 60, (12, 9))
    rng = np.random.default_rng(5)
    changed = x[:, rng.permutation(12)] * rng.choice([-8.0, 0.5, 64.0], size=12) + 16
    np.testing.assert_allclose(cka(changed, y), cka(x, y), rtol=0, atol=1e-10)


def test_a_neuron_that_never_varies_counts_as_0():
    x, y = correlated(6, 40, (5, 6))
    constant = np.full((40, 3), 0.1, dtype=np.float32)
    np.testing.assert_allclose(cka(np.hstack([x, constant]), y), cka(x, y), rtol=0, atol=1e-12)


@pytest.mark.parametrize("size", [1, 7, 40])
def test_a_layer_whose_prompts_are_equally_similar_has_no_cka(size):
    x = normal(0, 40, 40)
    constant = np.full((40, 3), 0.1, dtype=np.float32)
    equally_similar = 3.7 * np.eye(40, dtype=np.float32)
    features = features_of(in_blocks([x, constant, equally_similar]))
    for form in (_PromptProducts, _NeuronProducts):
        values = form.plan(features, size, 1e9).sums().cka(40)
        assert values[0, 0] == 1
        assert np.isnan(values[:, 1:]).all() and np.isnan(values[1:]).all()


def test_the_cheaper_form_is_chosen():
    few_prompts, many_prompts = (
        features_of(in_blocks([normal(0, *shape)])) for shape in ((20, 800), (3000, 8))
    )
    assert isinstance(_cheaper(few_prompts, 1e9), _PromptProducts)
    assert isinstance(_cheaper(many_prompts, 1e9), _NeuronProducts)


@pytest.mark.parametrize(("prompts", "neurons"), [(120, 400), (3000, 40)])
def test_the_memory_limit_is_respected_by_more_passes_over_the_data(prompts, neurons):
    layers, passes = [normal(layer, prompts, neurons) for layer in range(3)], []

    def blocks():
        passes.append(None)
        yield from in_blocks(layers, 70, 0, 30)()

    expected = debiased_cka(blocks)
    assert len(passes) == 2  # moments, products
    passes.clear()
    memory = 250_000
    tracemalloc.start()
    values = debiased_cka(blocks, memory=memory)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(passes) > 2
    assert peak < memory
    np.testing.assert_allclose(values, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("prompts", range(4))
def test_fewer_than_four_prompts_are_refused(prompts):
    with pytest.raises(ValueError, match=rf"\b4\b.*\b{prompts}$"):
        cka(normal(0, prompts, 5))
    with pytest.raises(ValueError, match=r"\b4\b.*\b0$"):
        debiased_cka(lambda: [])


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite_are_refused(value):
    layers = correlated(0)
    layers[2][17, 3] = value
    with pytest.raises(ValueError, match=r"\b2\b"):
        cka(*layers)


@pytest.mark.parametrize(
    "shapes",
    [[(8,)], [(8, 3), (7, 3)], [(8, 0)], [(2, 4, 3)], []],
    ids=["flat", "different prompts", "no neuron", "tokens", "no layer"],
)
def test_shapes_that_do_not_match_are_refused(shapes):
    with pytest.raises(ValueError, match=r"shape"):
        debiased_cka(lambda: [[np.ones(shape, dtype=np.float32) for shape in shapes]])


def test_blocks_that_differ_in_neurons_are_refused():
    with pytest.raises(ValueError, match=r"\[4\]"):
        debiased_cka(lambda: [[normal(0, 5, 3)], [normal(0, 5, 4)]])


def test_passes_of_different_lengths_are_refused():
    single_pass = iter([[normal(0, 20, 3)]])
    with pytest.raises(ValueError, match=r"\b0\b.*\b20$"):
        debiased_cka(lambda: single_pass)


def test_a_memory_without_room_for_a_prompt_is_refused():
    with pytest.raises(ValueError, match=rf"\b{64 * 48}\b"):
        cka(*correlated(0), memory=64 * 48 - 1)
