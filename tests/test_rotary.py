"""Rotary embeddings: a prompt's values are those of Hugging Face's pass over that prompt alone."""

import numpy as np
import pytest
import torch
from models import assert_equal, hook_count, make_model
from transformers import AutoModel

from neuroscope.errors import PromptError
from neuroscope.extraction import models
from neuroscope.extraction.architectures import ARCHITECTURES
from neuroscope.extraction.extract import extract
from neuroscope.extraction.models import load_model
from neuroscope.studies.compare.study import compare

ROTARY = ("llama", "mistral", "qwen2")
SCALING = {
    "default": {},
    "linear": {"factor": 4.0},
    "dynamic": {"factor": 4.0},
    "yarn": {"factor": 4.0, "original_max_position_embeddings": 16},
    "llama3": {
        "factor": 4.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 16,
    },
    "longrope": {
        "factor": 4.0,
        "short_factor": [1.0, 1.5, 2.0, 3.0],
        "long_factor": [2.0, 4.0, 6.0, 8.0],
        "original_max_position_embeddings": 16,
    },
}
SHORT, MIDDLE, LONG, LONGEST = ("the old cat sits " * count for count in (2, 5, 8, 10))
PROMPTS = [LONG, SHORT, MIDDLE, SHORT + "!", LONGEST, LONG + "."]
SITES = ["attn_out", "resid_post"]


def parameters(rope_type):
    scaling = {"rope_type": rope_type, "rope_theta": 10_000.0, **SCALING[rope_type]}
    # these two scale `max_position_embeddings`, the others contain the original limit
    limit = 16 if rope_type in ("linear", "dynamic") else 64
    return {"rope_parameters": scaling, "max_position_embeddings": limit}


@pytest.fixture(
    params=[(family, rope_type) for family in ROTARY for rope_type in SCALING], ids="-".join
)
def folder(request, tmp_path):
    family, rope_type = request.param
    return make_model(family, tmp_path / "model", **parameters(rope_type))


def alone(folder, tokenizer, text):
    """Return the hidden states after the first layer, (tokens, neurons), from a new model."""
    module = AutoModel.from_pretrained(folder).eval()
    inputs = tokenizer(text, return_tensors="pt", return_token_type_ids=False)
    with torch.inference_mode():
        return module(**inputs, output_hidden_states=True).hidden_states[1][0].numpy()


@pytest.mark.parametrize("memory", ["resident", "stream"])
@pytest.mark.parametrize("padding_side", ["right", "left"])
def test_values_are_those_of_the_prompt_alone(folder, memory, padding_side):
    model = load_model(str(folder), memory=memory, padding_side=padding_side)
    acts = extract(model, PROMPTS, SITES, 0, pool="none", token_rule="all", budget=1000)
    for text, values in zip(PROMPTS, acts["resid_post.0"], strict=True):
        expected = alone(folder, model.tokenizer, text)
        np.testing.assert_allclose(values, expected, atol=5e-5, rtol=0)


def test_earlier_prompts_and_smaller_batches_change_nothing(folder):
    model = load_model(str(folder))
    short = extract(model, [SHORT, MIDDLE], SITES)
    extract(model, [LONGEST], SITES)
    assert_equal(extract(model, [SHORT, MIDDLE], SITES), short)
    mixed = extract(model, PROMPTS, SITES)
    for budget in (1, 60):
        assert_equal(extract(model, PROMPTS, SITES, budget=budget), mixed, atol=5e-5)
    assert hook_count(model) == 0


@pytest.mark.parametrize("rope_type", ["dynamic", "longrope"])
def test_layers_that_are_placed_by_accelerate_give_the_same_values(
    rope_type, tmp_path, monkeypatch
):
    folder = make_model("llama", tmp_path, head=True, **parameters(rope_type))
    expected = extract(load_model(str(folder), device="cpu", head=True), PROMPTS, "logits")
    monkeypatch.setattr(models, "resolve_device", lambda device: device)
    placed = load_model(str(folder), device="all", head=True)  # without a GPU that is the CPU
    assert_equal(extract(placed, PROMPTS, "logits"), expected)


@pytest.mark.parametrize("key", ["rope_parameters", "rope_scaling"])
@pytest.mark.parametrize(
    ("scaling", "limit"),
    [
        ({"rope_type": "default"}, 64),
        ({"rope_type": "linear", "factor": 2.5}, 160),
        ({"type": "dynamic", "factor": 2}, 128),
        ({"rope_type": "dynamic", "factor": "many"}, 64),
        ({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}, 64),
        ({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}, 256),
        ({"rope_type": "yarn", "factor": 4.0}, 256),
        ({"rope_type": "llama3", "factor": 8.0, "original_max_position_embeddings": 16}, 64),
        ({"rope_type": "longrope", "factor": 4.0, "original_max_position_embeddings": 16}, 64),
        (None, 64),
    ],
)
def test_the_token_limit_includes_the_scaling(key, scaling, limit):
    config = {"max_position_embeddings": 64, key: scaling}
    assert {ARCHITECTURES[family].token_limit(config) for family in ROTARY} == {limit}
    assert ARCHITECTURES["bert"].token_limit(config) == 64


def test_a_prompt_over_the_scaled_limit_is_refused(tmp_path):
    model = load_model(str(make_model("llama", tmp_path, **parameters("dynamic"))))
    exact = " ".join(["cat"] * 63)
    assert len(extract(model, [exact], "resid_post", 0).tokens[0]) == 64
    with pytest.raises(PromptError, match=r"\b65 tokens.*\b64\b"):
        extract(model, [exact + " cat"])


@pytest.mark.parametrize("family", ROTARY)
def test_the_figures_of_a_pair_do_not_depend_on_other_prompts(family, tmp_path):
    model = load_model(str(make_model(family, tmp_path, **parameters("longrope"))))
    texts = ["the old cat sits", "the old dog sits"]
    pair, three = (compare(model, [*texts, *others]).to_frame() for others in ([], [LONG]))
    three = three[three["b"] != three["b"].iloc[-1]].reset_index(drop=True)
    measures = ["cosine", "mse", "cosine_z", "rms_z"]
    np.testing.assert_allclose(pair[measures], three[measures], atol=1e-4)
