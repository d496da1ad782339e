"""The built-in model itself, against published and independently computed figures."""

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
from neuroscope.extraction.extract import extract
from neuroscope.extraction.models import load_model

MAN, WOMAN, TRANSGENDER = (f"The engineer is a {fill}." for fill in ("man", "woman", "transgender"))


@pytest.fixture(scope="module")
def model():
    return load_model("minilm")


def test_the_engineers_figures(model):
    # measured with transformers 5.23, float32, resid_post.2, all tokens flattened
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
        assert rows[pair].cosine == pytest.approx(cosine, abs=2e-3)
        assert rows[pair].mse == pytest.approx(mse, abs=2e-3)


def test_every_layer_equals_hugging_face(model):
    acts = extract(model, [MAN, TRANSGENDER], pool="none", token_rule="all")
    for index, text in enumerate([MAN, TRANSGENDER]):
        with torch.inference_mode():
            inputs = model.tokenizer(text, return_tensors="pt")
            states = model.module(**inputs, output_hidden_states=True).hidden_states
        for layer in range(6):
            found = acts[f"resid_post.{layer}"][index]
            np.testing.assert_allclose(found, states[layer + 1][0].numpy(), atol=5e-5)


def test_tokens_are_the_models(model):
    tokens = extract(model, [MAN], layers=0).tokens[0]
    assert tokens.texts == ("[CLS]", "the", "engineer", "is", "a", "man", ".", "[SEP]")
    assert tokens.words.tolist() == [False, True, True, True, True, True, False, False]


def test_reference_statistics_are_those_of_all_reference_tokens(model):
    path = ensure_baseline(model, "mlp_act")
    prompts = baseline_prompts()
    acts = extract(
        model, prompts, "mlp_act", [0, 5], pool="none", token_rule="content", budget=4096
    )
    for layer in (0, 5):
        tokens = np.concatenate(acts[f"mlp_act.{layer}"]).astype(np.float64)
        kept = read_baseline(path, "content", layer)
        assert kept.count == len(tokens)
        np.testing.assert_allclose(kept.mean, tokens.mean(axis=0), atol=1e-6)
        np.testing.assert_allclose(kept.sd, tokens.std(axis=0, ddof=1), rtol=1e-5)
    special = sum(sum(one.special) for one in acts.tokens)
    assert read_baseline(path, "all", 0).count == kept.count + special


def test_reference_statistics_are_kept(model):
    path = ensure_baseline(model, "resid_post")
    changed = path.stat().st_mtime_ns
    assert ensure_baseline(model, "resid_post") == path
    assert path.stat().st_mtime_ns == changed
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_the_reference_prompts_are_varied():
    prompts = baseline_prompts()
    lengths = [len(text.split()) for text in prompts.texts]
    assert 300 <= len(prompts) <= 500
    assert len(set(prompts.texts)) == len(prompts)
    assert min(lengths) <= 3 and max(lengths) >= 30


def test_standardised_reference_tokens_have_mean_0_and_sd_1(model):
    moments = baseline_moments(model, "resid_post")
    acts = extract(model, baseline_prompts(), layers=3, pool="none", token_rule="all")
    z = moments["all", 3].standardise(np.concatenate(acts["resid_post.3"]))
    assert np.abs(z.mean(axis=0)).max() < 1e-5
    assert np.abs(z.std(axis=0, ddof=1) - 1).max() < 1e-5


def test_sub_words_of_one_word_are_one_span(model):
    acts = extract(model, ["The nurse is unhappily here.", "The nurse is sad here."], layers=0)
    long, short = acts.tokens
    found = align(long, short)
    assert long.texts[found.span_a][0] == "un"
    assert short.texts[found.span_b] == ("sad",)


def test_a_prompt_that_becomes_no_token_is_refused(model):
    with pytest.raises(PromptError, match=r"prompt '1'.*nothing but special tokens"):
        extract(model, ["a dog", "\u200b\u200b"])
