"""Activations equal the outputs of Hugging Face's models, for every family."""

import numpy as np
import pytest
import torch
from models import CAUSAL, FAMILIES, assert_equal, copy_with_config

from neuroscope.errors import ModelError
from neuroscope.extraction.extract import extract
from neuroscope.extraction.models import load_model
from neuroscope.sites import LAYER_COMPONENTS

PROMPTS = [
    "the black cat sits on the mat .",
    "a dog",
    "the engineer is a woman and not very old !",
    "the old king walks in the small green house , the young queen runs",
]
ALL = {"pool": "none", "token_rule": "all"}
CLOSE = {"atol": 5e-5, "rtol": 0}
SITES = [*LAYER_COMPONENTS, "final"]


@pytest.fixture(params=FAMILIES)
def model(request, family_folder):
    return load_model(str(family_folder(request.param)))


def hidden_states(model, text):
    """Return Hugging Face's hidden states of one prompt, (tokens, neurons) each."""
    inputs = model.tokenizer(text, return_tensors="pt", return_token_type_ids=False)
    with torch.inference_mode():
        states = model.module(**inputs, output_hidden_states=True).hidden_states
    return [state[0].numpy() for state in states]


def test_the_residual_stream_equals_the_hidden_states(model):
    acts = extract(model, PROMPTS, ["resid_pre", "resid_post"], **ALL)
    for index, text in enumerate(PROMPTS):
        states = hidden_states(model, text)
        for layer in range(model.layer_count):
            np.testing.assert_allclose(acts[f"resid_pre.{layer}"][index], states[layer], **CLOSE)
            if layer + 1 < model.layer_count or not model.architecture.causal:
                after = acts[f"resid_post.{layer}"][index]
                np.testing.assert_allclose(after, states[layer + 1], **CLOSE)


@pytest.mark.parametrize("family", CAUSAL)
def test_the_last_residual_of_a_decoder_precedes_the_final_norm(family, family_folder):
    model = load_model(str(family_folder(family)))
    acts = extract(model, PROMPTS, ["resid_post", "final"], **ALL)
    last = acts[f"resid_post.{model.layer_count - 1}"][0]
    norm = model.module.get_submodule(model.architecture.final_norm)
    with torch.inference_mode():
        normed = norm(torch.from_numpy(last)).numpy()
    np.testing.assert_allclose(normed, acts["final"][0], **CLOSE)
    assert np.abs(last - normed).max() > 0.1


def test_mlp_out_is_the_down_projection_of_mlp_act(model):
    acts = extract(model, PROMPTS, ["mlp_act", "mlp_out"], **ALL)
    for layer in range(model.layer_count):
        down = model.layer(layer).get_submodule(model.architecture.down)
        for neurons, out in zip(acts[f"mlp_act.{layer}"], acts[f"mlp_out.{layer}"], strict=True):
            assert neurons.shape[1] == 48
            with torch.inference_mode():
                expected = down(torch.from_numpy(neurons)).numpy()
            np.testing.assert_allclose(out, expected, **CLOSE)


def test_a_layer_adds_attention_and_mlp_to_the_residual_stream(model):
    acts = extract(model, PROMPTS, LAYER_COMPONENTS, **ALL)
    for layer in range(model.layer_count):
        parts = [acts[f"{name}.{layer}"][0] for name in ("resid_pre", "attn_out", "mlp_out")]
        difference = np.abs(sum(parts) - acts[f"resid_post.{layer}"][0]).max()
        if model.architecture.pre_norm:
            assert difference < 5e-5
        else:  # post-norm models rescale the sum
            assert difference > 0.1


def test_mlp_act_of_a_gated_model_is_gate_times_up(family_folder):
    model = load_model(str(family_folder("llama")))
    block = model.layer(0)
    acts = extract(model, PROMPTS[:1], ["resid_pre", "attn_out", "mlp_act"], 0, **ALL)
    entering = torch.from_numpy(acts["resid_pre.0"][0] + acts["attn_out.0"][0])
    with torch.inference_mode():
        normed = block.post_attention_layernorm(entering)
        expected = torch.nn.functional.silu(block.mlp.gate_proj(normed)) * block.mlp.up_proj(normed)
    np.testing.assert_allclose(acts["mlp_act.0"][0], expected.numpy(), **CLOSE)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("family", FAMILIES)
def test_left_padding_right_padding_and_no_padding_agree(family, attention, family_folder):
    folder = str(family_folder(family))
    right = extract(load_model(folder, attention=attention), PROMPTS, SITES, **ALL)
    left_model = load_model(folder, attention=attention, padding_side="left")
    left = extract(left_model, PROMPTS, SITES, **ALL)
    alone = [extract(left_model, [text], SITES, **ALL) for text in PROMPTS]
    for site in right:
        for index in range(len(PROMPTS)):
            np.testing.assert_allclose(right[site][index], left[site][index], **CLOSE)
            np.testing.assert_allclose(right[site][index], alone[index][site][0], **CLOSE)


def test_a_shared_prefix_has_equal_activations_only_in_causal_models(model):
    acts = extract(model, ["the engineer is a man .", "the engineer is a woman ."], **ALL)
    a, b = acts[f"resid_post.{model.layer_count - 1}"]
    shared = next(i for i in range(len(a)) if acts.tokens[0].ids[i] != acts.tokens[1].ids[i])
    difference = np.abs(a[:shared] - b[:shared]).max()
    assert difference < 1e-5 if model.architecture.causal else difference > 1e-3


def test_roberta_counts_positions_from_any_padding_id(family_folder, tmp_path):
    source, texts = family_folder("roberta"), ["a dog", "a small cat and a white dog"]
    the_id = load_model(str(source)).tokenizer.convert_tokens_to_ids("the")
    model = load_model(str(copy_with_config(source, tmp_path, pad_token_id=the_id)))
    assert model.checkpoint.token_limit == 66 - the_id - 1
    acts = extract(model, texts, **ALL)
    for index, text in enumerate(texts):
        for layer, state in enumerate(hidden_states(model, text)[1:]):
            np.testing.assert_allclose(acts[f"resid_post.{layer}"][index], state, **CLOSE)


def test_roberta_without_a_padding_token_raises_an_error(family_folder, tmp_path):
    folder = copy_with_config(family_folder("roberta"), tmp_path, pad_token_id=None)
    with pytest.raises(ModelError, match="pad_token_id"):
        extract(load_model(str(folder)), PROMPTS)


@pytest.mark.parametrize("memory", ["resident", "stream"])
@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert"])
def test_an_mlp_that_runs_in_chunks_gives_the_same_values(family_folder, tmp_path, family, memory):
    folder = copy_with_config(family_folder(family), tmp_path, chunk_size_feed_forward=1)
    expected = extract(load_model(str(family_folder(family))), PROMPTS, SITES)
    assert_equal(extract(load_model(str(folder), memory=memory), PROMPTS, SITES), expected)


@pytest.mark.parametrize("memory", ["resident", "stream"])
def test_optional_outputs_of_a_configuration_are_turned_off(family_folder, tmp_path, memory):
    expected = extract(load_model(str(family_folder("llama")), memory=memory), PROMPTS)
    outputs = {"output_attentions": True, "output_hidden_states": True}
    folder = copy_with_config(family_folder("llama"), tmp_path, **outputs)
    model = load_model(str(folder), memory=memory)
    assert not model.module.config.output_hidden_states
    assert_equal(extract(model, PROMPTS), expected)


def test_the_padding_token_needs_no_embedding(family_folder):
    model = load_model(str(family_folder("llama")))
    model.tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    assert model.tokenizer.pad_token_id >= model.checkpoint.config["vocab_size"]
    expected = extract(load_model(str(family_folder("llama"))), PROMPTS)
    assert_equal(extract(model, PROMPTS), expected)


def test_bfloat16_is_close_to_float32_and_is_returned_as_float32(family_folder):
    folder = str(family_folder("llama"))
    exact = extract(load_model(folder), PROMPTS)["resid_post.1"]
    rough = extract(load_model(folder, dtype="bfloat16"), PROMPTS)["resid_post.1"]
    assert rough.dtype == np.float32
    assert 0 < np.linalg.norm(rough - exact) / np.linalg.norm(exact) < 0.05
