"""Silencing a neuron equals editing its weights, and the change of outputs is exact."""

import numpy as np
import pytest
import torch
from models import CAUSAL, FAMILIES, hook_count, make_model

from neuroscope.errors import ModelError, PromptError, SiteError
from neuroscope.extraction.extract import extract
from neuroscope.extraction.models import load_model
from neuroscope.extraction.silenced_outputs import SilencedOutputs, token_moments
from neuroscope.extraction.silencing import Replacement, resumed, silenced
from neuroscope.prompts import PromptSet
from neuroscope.sites import Site

PROMPTS = PromptSet.of(
    ["the cat sits on the mat", "a dog", "the king is very old and the queen is young", "red"]
)
SITE = Site("mlp_act", 1)
UNITS = [3, 17]


@pytest.fixture(params=FAMILIES)
def model(request, tmp_path):
    """Return a model of each family, causal ones with their head."""
    causal = request.param in CAUSAL
    folder = make_model(request.param, tmp_path, layers=3, head=causal)
    return load_model(str(folder), head=causal)


@pytest.fixture
def llama(tmp_path):
    return load_model(str(make_model("llama", tmp_path, layers=3, head=True)), head=True)


def final(model):
    return extract(model, PROMPTS, "final")[Site("final", 2)]


def zero_columns(model, units):
    """Set the columns of the down-projection of `SITE` to 0."""
    down = model.layer(SITE.layer).get_submodule(model.architecture.down)
    with torch.no_grad():
        if type(down).__name__ == "Conv1D":  # GPT-2 has its transpose
            down.weight[units] = 0
        else:
            down.weight[:, units] = 0


def test_zeroing_neurons_equals_zeroing_their_columns(model):
    own = final(model)
    with silenced(model, {SITE: Replacement.of(UNITS, 0.0)}):
        without = final(model)
    zero_columns(model, UNITS)
    np.testing.assert_allclose(without, final(model), atol=1e-5)
    assert np.abs(without - own).max() > 1e-3


def test_constants_replace_values_at_every_token_or_only_within_a_range(llama):
    own = extract(llama, PROMPTS, str(SITE), pool="none")[SITE]
    bounds = {"low": [-0.1, -np.inf], "high": [0.2, 0.0]}
    for limits in ({}, bounds):
        with silenced(llama, {SITE: Replacement.of(UNITS, [0.5, -1], **limits)}):
            changed = extract(llama, PROMPTS, str(SITE), pool="none")[SITE]
        for before, after in zip(own, changed, strict=True):
            expected = before.copy()
            low, high = (np.float32(limits.get(name, edge)) for name, edge in EDGES.items())
            inside = (before[:, UNITS] >= low) & (before[:, UNITS] <= high)
            expected[:, UNITS] = np.where(inside, np.float32([0.5, -1]), before[:, UNITS])
            np.testing.assert_array_equal(after, expected)


EDGES = {"low": -np.inf, "high": np.inf}


@pytest.mark.parametrize("component", ["resid_pre", "attn_out", "mlp_out", "resid_post"])
def test_other_components_are_replaced(model, component):
    site = Site(component, 1)
    with silenced(model, {site: Replacement.of(UNITS, 2.0)}):
        values = extract(model, PROMPTS, component, "0-1", pool="none")
    own = extract(model, PROMPTS, component, "0-1", pool="none")
    assert all((rows[:, UNITS] == 2).all() for rows in values[site])
    assert not (own[site][0][:, UNITS] == 2).any()
    np.testing.assert_array_equal(values[Site(component, 0)][0], own[Site(component, 0)][0])


def test_everything_is_restored(llama):
    own, hooks = final(llama), hook_count(llama)
    states = torch.zeros(1, 2, 32)
    with (
        pytest.raises(RuntimeError),
        silenced(llama, {SITE: Replacement.of(UNITS, 0.0)}),
        resumed(llama, 2, states),
    ):
        raise RuntimeError
    assert hook_count(llama) == hooks
    assert not any("forward" in vars(llama.layer(index)) for index in range(3))
    np.testing.assert_array_equal(final(llama), own)


def test_what_cannot_be_silenced_is_refused(llama, tmp_path):
    one = Replacement.of([0], 0.0)
    for site in (Site("mlp_act", 3), Site("final", 2), Site("logits", 2)):
        with pytest.raises(SiteError), silenced(llama, {site: one}):
            pass
    for unit in (48, -1):
        with (
            pytest.raises(SiteError, match=rf"mlp_act\.1\.{unit} "),
            silenced(llama, {SITE: Replacement.of([unit], 0.0)}),
        ):
            pass
    with pytest.raises(ValueError, match="twice"):
        Replacement.of([1, 1], 0.0)
    streamed = load_model(str(make_model("bert", tmp_path / "bert")), memory="stream")
    with pytest.raises(ModelError, match="files"), silenced(streamed, {SITE: one}):
        pass
    with pytest.raises(ModelError, match="files"):
        SilencedOutputs(streamed, PROMPTS)


def losses(model):
    """Return the mean negative log likelihood of each prompt, computed prompt by prompt."""
    values = []
    for prompt in PROMPTS:
        ids = model.tokenizer(prompt.text, return_tensors="pt")["input_ids"]
        with torch.no_grad():
            logs = model.module(input_ids=ids).logits[0, :-1].double().log_softmax(dim=1)
        values.append(-logs.gather(1, ids[0, 1:, None]).mean().item() if ids.shape[1] > 1 else 0)
    return np.array(values)


@pytest.mark.parametrize("layer", [0, 2])
def test_the_change_is_that_of_loss_or_of_the_final_representation(model, layer):
    outputs = SilencedOutputs(model, PROMPTS)
    site = Site("mlp_act", layer)
    change = outputs.change({site: Replacement.of(UNITS, 1.5)})
    if outputs.measure == "loss":
        before = losses(model)
        with silenced(model, {site: Replacement.of(UNITS, 1.5)}):
            expected = losses(model) - before
        assert set(outputs.change({site: Replacement.of([0], 0.0, low=9, high=9)})) == {0}
    else:
        before = final(model)
        with silenced(model, {site: Replacement.of(UNITS, 1.5)}):
            moved = np.linalg.norm(final(model) - before, axis=1)
        centred = before - before.mean(axis=0)
        expected = moved / np.sqrt((centred**2).sum(axis=1).mean())
    assert outputs.measure == ("loss" if model.architecture.causal else "representation")
    np.testing.assert_allclose(change, expected, atol=2e-5)


def test_layers_before_the_first_silenced_one_run_once(llama):
    outputs = SilencedOutputs(llama, PROMPTS)
    passes = {layer: [] for layer in range(3)}
    for layer, counted in passes.items():
        mlp = llama.layer(layer).get_submodule("mlp")
        mlp.register_forward_hook(lambda *args, counted=counted: counted.append(1))
    late = {Site("mlp_act", 1): Replacement.of([0], 0.0)}
    both = late | {Site("resid_post", 2): Replacement.of([0], 0.0)}
    changes = [outputs.change(replacements) for replacements in (late, late, both)]
    assert [len(counted) for counted in passes.values()] == [1, 4, 4]
    np.testing.assert_array_equal(changes[0], changes[1])
    assert (changes[0] != changes[2]).any()


def test_a_causal_model_without_its_head_is_measured_by_its_representation(tmp_path):
    model = load_model(str(make_model("gpt2", tmp_path)))
    outputs = SilencedOutputs(model, PROMPTS)
    assert outputs.measure == "representation"
    assert (outputs.change({SITE: Replacement.of([0], 5.0)}) > 0).all()


def test_long_prompts_are_refused_or_cut(llama):
    long = PromptSet.of(["the " * 100])
    with pytest.raises(PromptError):
        SilencedOutputs(llama, long)
    assert SilencedOutputs(llama, long, truncate=True).change({SITE: Replacement.of([0], 1)}).shape


def test_moments_are_those_of_the_content_tokens(llama):
    moments = token_moments(llama, PROMPTS, {SITE: np.array(UNITS)})[SITE]
    tokens = np.concatenate(extract(llama, PROMPTS, str(SITE), pool="none")[SITE])[:, UNITS]
    np.testing.assert_allclose(moments.mean, tokens.mean(axis=0), atol=1e-6)
    np.testing.assert_allclose(moments.sd, tokens.std(axis=0, ddof=1), atol=1e-6)
