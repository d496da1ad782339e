"""The built-in model, compared with known figures and independent computations."""

import numpy as np
import pytest
import torch

from neuroscope import compare
from neuroscope.align import align
from neuroscope.errors import PromptError
from neuroscope.extraction.baseline import (
    baseline_moments,
    baseline_prompts,
    ensure_baseline,
    read_baseline,
)
from neuroscope.extraction.budget import FIXED_BUDGET
from neuroscope.extraction.extract import extract
from neuroscope.extraction.models import load_model

MAN, WOMAN, TRANSGENDER = (f"The engineer is a {fill}." for fill in ("man", "woman", "transgender"))


@pytest.fixture(scope="module")
def model():
    return load_model("minilm")


def test_the_engineer_prompts_have_the_known_figures(model):
    # computed with transformers 5.23, float32, resid_post.2, all tokens in one vector
    rows = {
        (row.a, row.b): row
        for row in compare(model, [MAN, WOMAN, TRANSGENDER], layers=2).rows
        if row.view == "aligned"
    }
    expected = {
        (MAN, WOMAN): (0.9435, 0.0354),
        (MAN, TRANSGENDER): (0.8542, 0.0896),
        (WOMAN, TRANSGENDER): (0.8693, 0.0804),
    }
    for pair, (cosine, mse) in expected.items():
        assert rows[pair].cosine == pytest.approx(cosine, abs=1e-4)
        assert rows[pair].mse == pytest.approx(mse, abs=1e-4)


def test_every_layer_equals_hugging_face(model):
    texts, sites = [MAN, TRANSGENDER], ["resid_post", "final"]
    acts = extract(model, texts, sites, pool="none", token_rule="all")
    for index, text in enumerate(texts):
        with torch.inference_mode():
            inputs = model.tokenizer(text, return_tensors="pt")
            output = model.module(**inputs, output_hidden_states=True)
        for layer, state in enumerate(output.hidden_states[1:]):
            values = acts[f"resid_post.{layer}"][index]
            np.testing.assert_allclose(values, state[0].numpy(), atol=5e-5)
        final = output.last_hidden_state[0].numpy()
        np.testing.assert_allclose(acts["final"][index], final, atol=5e-5)


def test_tokens_are_those_of_the_model(model):
    tokens = extract(model, [MAN], layers=0).tokens[0]
    assert tokens.texts == ("[CLS]", "the", "engineer", "is", "a", "man", ".", "[SEP]")
    assert tokens.words.tolist() == [False, True, True, True, True, True, False, False]


@pytest.mark.parametrize("component", ["mlp_act", "final"])
def test_the_baseline_covers_all_tokens_of_its_prompts(model, component):
    path = ensure_baseline(model, component)
    layers = (0, 5) if component == "mlp_act" else (5,)
    sites = [f"{component}.{layer}" for layer in layers]
    acts = extract(model, baseline_prompts(), sites, pool="none", budget=FIXED_BUDGET)
    special = sum(sum(tokens.special) for tokens in acts.tokens)
    for layer in layers:
        tokens = np.concatenate(acts[f"{component}.{layer}"]).astype(np.float64)
        baseline = read_baseline(path, "content", layer)
        assert baseline.count == len(tokens)
        np.testing.assert_allclose(baseline.mean, tokens.mean(axis=0), atol=1e-6)
        np.testing.assert_allclose(baseline.sd, tokens.std(axis=0, ddof=1), rtol=1e-5)
        assert read_baseline(path, "all", layer).count == len(tokens) + special


def test_the_baseline_is_computed_once(model):
    path = ensure_baseline(model, "resid_post")
    modified = path.stat().st_mtime_ns
    assert ensure_baseline(model, "resid_post") == path
    assert path.stat().st_mtime_ns == modified
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_the_baseline_prompts_are_varied():
    prompts = baseline_prompts()
    lengths = [len(text.split()) for text in prompts.texts]
    assert 300 <= len(prompts) <= 500
    assert len(set(prompts.texts)) == len(prompts)
    assert min(lengths) <= 3 and max(lengths) >= 30


def test_standardised_baseline_tokens_have_mean_0_and_sd_1(model):
    moments = baseline_moments(model, "resid_post")
    acts = extract(model, baseline_prompts(), layers=3, pool="none", token_rule="all")
    z = moments["all", 3].standardise(np.concatenate(acts["resid_post.3"]))
    assert np.abs(z.mean(axis=0)).max() < 1e-5
    assert np.abs(z.std(axis=0, ddof=1) - 1).max() < 1e-5


def test_sub_words_of_one_word_are_one_span(model):
    acts = extract(model, ["The nurse is unhappily here.", "The nurse is sad here."], layers=0)
    long, short = acts.tokens
    alignment = align(long, short)
    assert long.texts[alignment.span_a][0] == "un"
    assert short.texts[alignment.span_b] == ("sad",)


def test_a_prompt_without_content_tokens_is_refused(model):
    with pytest.raises(PromptError, match="number 2"):
        extract(model, ["a dog", "\u200b\u200b"])
