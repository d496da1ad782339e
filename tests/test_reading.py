"""Activations are the model's own: checked against Hugging Face's outputs for every family."""

import json
import shutil
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from conftest import FAMILIES

from neuroscope.errors import ModelError, NonfiniteError, PromptError, ResourceError
from neuroscope.extraction.batching import batches, tokenise
from neuroscope.extraction.budget import TokenBudget
from neuroscope.extraction.extract import extract
from neuroscope.extraction.models import load_model
from neuroscope.extraction.recorder import Recorder
from neuroscope.prompts import PromptSet
from neuroscope.sites import COMPONENTS, Site

PROMPTS = [
    "the black cat sits on the mat .",
    "a dog",
    "the engineer is a woman and not very old !",
    "the old king walks in the small green house , the young queen runs",
]
ALL = {"pool": "none", "token_rule": "all"}
CLOSE = {"atol": 5e-5, "rtol": 0}


@pytest.fixture(params=FAMILIES)
def model(request, family_folder):
    return load_model(str(family_folder(request.param)))


def hidden_states(model, text):
    """What Hugging Face gives for one prompt: (tokens, neurons) for each of layers + 1."""
    inputs = model.tokenizer(text, return_tensors="pt", return_token_type_ids=False)
    with torch.inference_mode():
        states = model.module(**inputs, output_hidden_states=True).hidden_states
    return [state[0].numpy() for state in states]


def test_residual_stream_is_hugging_faces_hidden_states(model):
    acts = extract(model, PROMPTS, ["resid_pre", "resid_post"], **ALL)
    for index, text in enumerate(PROMPTS):
        states = hidden_states(model, text)
        for layer in range(model.layer_count):
            np.testing.assert_allclose(acts[f"resid_pre.{layer}"][index], states[layer], **CLOSE)
            if layer + 1 < model.layer_count or not model.architecture.causal:
                after = acts[f"resid_post.{layer}"][index]
                np.testing.assert_allclose(after, states[layer + 1], **CLOSE)


@pytest.mark.parametrize("family", ["gpt2", "llama", "mistral", "qwen2"])
def test_last_residual_of_a_decoder_comes_before_the_final_norm(family, family_folder):
    model = load_model(str(family_folder(family)))
    last = model.layer_count - 1
    after = extract(model, PROMPTS, "resid_post", last, **ALL)[f"resid_post.{last}"][0]
    norm = model.module.ln_f if model.architecture.family == "gpt2" else model.module.norm
    with torch.inference_mode():
        normed = norm(torch.from_numpy(after)).numpy()
    expected = hidden_states(model, PROMPTS[0])[-1]
    np.testing.assert_allclose(normed, expected, **CLOSE)
    assert np.abs(after - expected).max() > 0.1


def test_mlp_out_is_the_down_projection_of_mlp_act(model):
    acts = extract(model, PROMPTS, ["mlp_act", "mlp_out"], **ALL)
    for layer in range(model.layer_count):
        down = model.layer(layer).get_submodule(model.architecture.down)
        for neurons, out in zip(acts[f"mlp_act.{layer}"], acts[f"mlp_out.{layer}"], strict=True):
            assert neurons.shape[1] == 48
            with torch.inference_mode():
                expected = down(torch.from_numpy(neurons)).numpy()
            np.testing.assert_allclose(out, expected, **CLOSE)


def test_residual_identity(model):
    acts = extract(model, PROMPTS, list(COMPONENTS), **ALL)
    for layer in range(model.layer_count):
        parts = [acts[f"{one}.{layer}"][0] for one in ("resid_pre", "attn_out", "mlp_out")]
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
def test_left_padding_right_padding_and_alone_agree(family, attention, family_folder):
    folder = str(family_folder(family))
    right = extract(load_model(folder, attention=attention), PROMPTS, list(COMPONENTS), **ALL)
    left_model = load_model(folder, attention=attention, padding_side="left")
    left = extract(left_model, PROMPTS, list(COMPONENTS), **ALL)
    alone = [extract(left_model, [text], list(COMPONENTS), **ALL) for text in PROMPTS]
    for site in right:
        for index in range(len(PROMPTS)):
            np.testing.assert_allclose(right[site][index], left[site][index], **CLOSE)
            np.testing.assert_allclose(right[site][index], alone[index][site][0], **CLOSE)


@pytest.mark.parametrize("pool", ["mean", "max", "last", "first"])
@pytest.mark.parametrize("rule", ["content", "all"])
def test_pooling_is_that_of_the_kept_tokens(model, pool, rule):
    whole = extract(model, PROMPTS, "mlp_act", pool="none", token_rule=rule)
    pooled = extract(model, PROMPTS, "mlp_act", pool=pool, token_rule=rule)
    reduce = {
        "mean": lambda x: x.mean(axis=0),
        "max": lambda x: x.max(axis=0),
        "last": lambda x: x[-1],
        "first": lambda x: x[0],
    }[pool]
    for site in whole:
        expected = np.stack([reduce(tokens) for tokens in whole[site]])
        np.testing.assert_allclose(pooled[site], expected, atol=1e-5)
        assert pooled[site].dtype == np.float32


def test_content_leaves_special_tokens_out(model):
    every = extract(model, PROMPTS, "resid_post", 0, **ALL)
    content = extract(model, PROMPTS, "resid_post", 0, pool="none", token_rule="content")
    for index, tokens in enumerate(every.tokens):
        kept = every["resid_post.0"][index][tokens.content]
        np.testing.assert_array_equal(content["resid_post.0"][index], kept)
        frame = {"[CLS]", "[SEP]", "<s>", "</s>"}
        assert [text in frame for text in tokens.texts] == list(tokens.special)


def test_order_of_results_is_the_order_of_prompts(model):
    forward = extract(model, PROMPTS, budget=16)
    backward = extract(model, PROMPTS[::-1], budget=16)
    for site in forward:
        np.testing.assert_allclose(forward[site], backward[site][::-1], **CLOSE)
    assert forward.prompts.texts == PROMPTS


def test_batch_of_one_equals_batch_of_many(model):
    many = extract(model, PROMPTS, list(COMPONENTS))
    one = extract(model, PROMPTS, list(COMPONENTS), budget=1)
    for site in many:
        np.testing.assert_allclose(one[site], many[site], **CLOSE)


def test_batches_hold_every_prompt_once_within_the_budget(model):
    block = tokenise(model, PromptSet.of(PROMPTS * 5).prompts)
    found = list(batches(model, block, token_rule="all", budget=TokenBudget(40)))
    assert sorted(member for batch in found for member in batch.members) == list(range(20))
    assert all(batch.ids.numel() <= 40 for batch in found)


@pytest.mark.parametrize("pool", ["mean", "none"])
def test_a_batch_that_is_too_large_for_the_device_is_divided(model, pool):
    options = {"sites": list(COMPONENTS), "pool": pool, "budget": 200}
    expected = extract(model, PROMPTS * 20, **options)
    with memory_for(model, tokens=60) as sizes:
        found = extract(model, PROMPTS * 20, **options)
    assert sizes[0] > 120
    assert sum(size <= 60 for size in sizes) < 40  # prompts go alone only where they must
    assert max(sizes[5:]) <= 60  # that the first ones failed is heeded
    for site in expected:
        for one, other in zip(found[site], expected[site], strict=True):
            np.testing.assert_allclose(one, other, **CLOSE)


def test_one_prompt_that_is_too_large_for_the_device_is_refused(model):
    before = hook_count(model)
    with (
        memory_for(model, tokens=3),
        pytest.raises(ResourceError, match=r"not the memory for one prompt of \d+ tokens"),
    ):
        extract(model, PROMPTS)
    assert hook_count(model) == before


@contextmanager
def memory_for(model, tokens):
    """The device's memory ends at batches of more tokens; gives the sizes of those that came."""
    sizes = []

    def count(module, inputs):
        sizes.append(inputs["input_ids"].numel())
        if sizes[-1] > tokens:
            raise torch.OutOfMemoryError("CUDA out of memory")

    watch = model.module.register_forward_pre_hook(
        lambda module, args, inputs: count(module, inputs), with_kwargs=True
    )
    try:
        yield sizes
    finally:
        watch.remove()


def hook_count(model):
    return sum(
        len(module._forward_hooks) + len(module._forward_pre_hooks)
        for module in model.module.modules()
    )


def test_hooks_are_gone_after_an_exception(model):
    before = hook_count(model)
    sites = [Site(component, 0) for component in COMPONENTS]
    with pytest.raises(ZeroDivisionError), Recorder(model, sites):
        assert hook_count(model) == before + len(sites)
        raise ZeroDivisionError
    assert hook_count(model) == before


def test_hooks_are_gone_when_one_cannot_be_attached(model):
    before = hook_count(model)
    with pytest.raises(IndexError), Recorder(model, [Site("mlp_act", 0), Site("mlp_act", 99)]):
        pass
    assert hook_count(model) == before


def test_hooks_are_gone_when_what_is_kept_raises(model):
    before, batch = hook_count(model), first_batch(model)
    with pytest.raises(ZeroDivisionError), Recorder(model, [Site("resid_post", 0)]) as recorder:
        recorder.run(batch.inputs(model), keep=lambda tensor: 1 / 0)
    assert hook_count(model) == before
    extract(model, PROMPTS)  # and the model still works


def first_batch(model):
    block = tokenise(model, PromptSet.of(PROMPTS).prompts)
    return next(batches(model, block, token_rule="all", budget=TokenBudget(1000)))


def test_nothing_is_recorded_that_was_not_asked_for(model):
    with Recorder(model, [Site("mlp_act", 1), Site("attn_out", 0)]) as recorder:
        kept = recorder.run(first_batch(model).inputs(model))
    assert list(kept) == [Site("attn_out", 0), Site("mlp_act", 1)]
    assert kept[Site("mlp_act", 1)].shape[2] == 48


@pytest.mark.parametrize("component", COMPONENTS)
def test_the_pass_stops_after_the_last_wanted_layer(model, component):
    reached = []
    watch = model.layer(1).register_forward_hook(lambda *_: reached.append(1))
    with Recorder(model, [Site(component, 0)]) as recorder:
        recorder.run(first_batch(model).inputs(model))
    assert reached == []
    model.module(**first_batch(model).inputs(model))
    assert reached == [1]  # the watch itself works
    watch.remove()


def test_causal_models_give_the_shared_beginning_equal_activations(model):
    acts = extract(model, ["the engineer is a man .", "the engineer is a woman ."], **ALL)
    a, b = acts[f"resid_post.{model.layer_count - 1}"]
    shared = next(i for i in range(len(a)) if acts.tokens[0].ids[i] != acts.tokens[1].ids[i])
    difference = np.abs(a[:shared] - b[:shared]).max()
    assert difference < 1e-5 if model.architecture.causal else difference > 1e-3


def test_roberta_counts_positions_from_its_padding_wherever_that_is(family_folder, tmp_path):
    folder = shutil.copytree(family_folder("roberta"), tmp_path / "roberta")
    config = json.loads((folder / "config.json").read_text())
    the = load_model(str(folder)).tokenizer.convert_tokens_to_ids("the")
    (folder / "config.json").write_text(json.dumps(config | {"pad_token_id": the}))
    model, texts = load_model(str(folder)), ["a dog", "a small cat and a white dog"]
    assert model.checkpoint.token_limit == 66 - the - 1
    found = extract(model, texts, **ALL)
    for index, text in enumerate(texts):
        for layer, state in enumerate(hidden_states(model, text)[1:]):
            np.testing.assert_allclose(found[f"resid_post.{layer}"][index], state, **CLOSE)


def test_roberta_without_a_padding_token_is_refused(family_folder, tmp_path):
    folder = shutil.copytree(family_folder("roberta"), tmp_path / "roberta")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"pad_token_id": None}))
    with pytest.raises(ModelError, match=r"counts positions from its pad_token_id.*give it the"):
        extract(load_model(str(folder)), PROMPTS)


@pytest.mark.parametrize("memory", ["resident", "stream"])
@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert"])
def test_an_mlp_that_is_run_in_pieces_gives_the_same(family_folder, tmp_path, family, memory):
    folder = shutil.copytree(family_folder(family), tmp_path / family)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"chunk_size_feed_forward": 1}))
    expected = extract(load_model(str(family_folder(family))), PROMPTS, COMPONENTS)
    assert_equal(extract(load_model(str(folder), memory=memory), PROMPTS, COMPONENTS), expected)


def test_a_padding_token_that_the_model_has_not_is_no_fault(family_folder):
    model = load_model(str(family_folder("llama")))
    model.tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    assert model.tokenizer.pad_token_id >= model.checkpoint.config["vocab_size"]
    expected = extract(load_model(str(family_folder("llama"))), PROMPTS)
    assert_equal(extract(model, PROMPTS), expected)


def assert_equal(found, expected):
    for site in expected:
        np.testing.assert_array_equal(found[site], expected[site])


@pytest.mark.parametrize("memory", ["resident", "stream"])
def test_what_a_configuration_asks_to_keep_is_not_kept(family_folder, tmp_path, memory):
    expected = extract(load_model(str(family_folder("llama")), memory=memory), PROMPTS)
    folder = shutil.copytree(family_folder("llama"), tmp_path / "llama")
    config = json.loads((folder / "config.json").read_text())
    config |= {"output_attentions": True, "output_hidden_states": True}
    (folder / "config.json").write_text(json.dumps(config))
    model = load_model(str(folder), memory=memory)
    assert not model.module.config.output_hidden_states
    assert_equal(extract(model, PROMPTS), expected)


def test_a_configuration_that_contradicts_itself_is_refused(family_folder, tmp_path):
    folder = shutil.copytree(family_folder("llama"), tmp_path / "llama")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_attention_heads": 5}))
    with pytest.raises(ModelError, match="cannot be loaded"):
        load_model(str(folder))


def test_a_prompt_over_the_limit_is_refused_or_cut(model):
    long = " ".join(["cat"] * 80)
    with pytest.raises(
        PromptError, match=r"prompt '1' is \d\d tokens long.*at most 64.*--truncate"
    ):
        extract(model, ["a dog", long])
    assert len(extract(model, ["a dog", long], truncate=True).tokens[1]) == 64
    framing = tokenise(model, PromptSet.of(["cat"]).prompts).lengths[0] - 1
    exact = " ".join(["cat"] * (64 - framing))
    assert extract(model, [exact], "resid_post", 0, **ALL)["resid_post.0"][0].shape == (64, 32)


def test_values_that_are_not_finite_are_refused(family_folder):
    model = load_model(str(family_folder("bert")))
    with torch.no_grad():
        model.layer(1).get_submodule("output.dense").bias[3] = float("nan")
    with pytest.raises(NonfiniteError, match=r"mlp_out.1 for prompt '\d'.*float32"):
        extract(model, PROMPTS, "mlp_out")
    assert np.isfinite(extract(model, PROMPTS, "mlp_out", 0)["mlp_out.0"]).all()


def test_provenance_says_how_to_get_the_values_again(model):
    found = extract(model, PROMPTS, pool="max", token_rule="all").provenance
    assert found.architecture == model.architecture.family
    assert (found.pool, found.token_rule) == ("max", "all")
    assert (found.dtype, found.attention, found.padding_side) == ("float32", "sdpa", "right")
    assert found.fingerprint == model.checkpoint.fingerprint
    assert found.versions["torch"] == torch.__version__
    assert found.prompts_digest == PromptSet.of(PROMPTS).digest


def test_bfloat16_is_near_float32_and_kept_as_float32(family_folder):
    folder = str(family_folder("llama"))
    exact = extract(load_model(folder), PROMPTS)["resid_post.1"]
    rough = extract(load_model(folder, dtype="bfloat16"), PROMPTS)["resid_post.1"]
    assert rough.dtype == np.float32
    assert 0 < np.linalg.norm(rough - exact) / np.linalg.norm(exact) < 0.05


@pytest.mark.parametrize("option", ["dtype", "attention", "padding_side"])
def test_unknown_options_are_refused(option, family_folder):
    with pytest.raises(ModelError, match=f"unknown {option} 'odd': it is one of"):
        load_model(str(family_folder("bert")), **{option: "odd"})
