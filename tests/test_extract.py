"""Pooling, token rules, provenance and checks of an extraction."""

import numpy as np
import pytest
import torch
from models import FAMILIES

from neuroscope.activations import Activations
from neuroscope.errors import NeuroscopeError, NonfiniteError, ResourceError, SiteError
from neuroscope.extraction.extract import extract
from neuroscope.extraction.models import load_model
from neuroscope.prompts import PromptSet

PROMPTS = [
    "the black cat sits on the mat .",
    "a dog",
    "the engineer is a woman and not very old !",
]
ALL = {"pool": "none", "token_rule": "all"}


@pytest.fixture(params=FAMILIES)
def model(request, family_folder):
    return load_model(str(family_folder(request.param)))


@pytest.fixture
def llama(family_folder):
    return load_model(str(family_folder("llama")))


@pytest.mark.parametrize("pool", ["mean", "max", "last", "first"])
@pytest.mark.parametrize("rule", ["content", "all"])
def test_pooling_reduces_the_kept_tokens(model, pool, rule):
    tokens = extract(model, PROMPTS, "mlp_act", pool="none", token_rule=rule)
    pooled = extract(model, PROMPTS, "mlp_act", pool=pool, token_rule=rule)
    reduce = {
        "mean": lambda x: x.mean(axis=0),
        "max": lambda x: x.max(axis=0),
        "last": lambda x: x[-1],
        "first": lambda x: x[0],
    }[pool]
    for site in tokens:
        expected = np.stack([reduce(values) for values in tokens[site]])
        np.testing.assert_allclose(pooled[site], expected, atol=1e-5)
        assert pooled[site].dtype == np.float32


def test_the_content_rule_leaves_special_tokens_out(model):
    every = extract(model, PROMPTS, "resid_post", 0, **ALL)
    content = extract(model, PROMPTS, "resid_post", 0, pool="none", token_rule="content")
    for index, tokens in enumerate(every.tokens):
        kept = every["resid_post.0"][index][tokens.content]
        np.testing.assert_array_equal(content["resid_post.0"][index], kept)
        frame = {"[CLS]", "[SEP]", "<s>", "</s>"}
        assert [text in frame for text in tokens.texts] == list(tokens.special)


@pytest.mark.parametrize(("component", "value"), [("mlp_out", float("nan")), ("final", torch.inf)])
def test_values_that_are_not_finite_raise_an_error(family_folder, component, value):
    model = load_model(str(family_folder("bert")))
    with torch.no_grad():
        module = "output.dense" if component == "mlp_out" else "output.LayerNorm"
        model.layer(1).get_submodule(module).bias[3] = value
    with pytest.raises(NonfiniteError, match=rf"{component}\.1 .*'\d'") as raised:
        extract(model, PROMPTS, component)
    assert [option.name for option in raised.value.options] == ["attention", "allow_nonfinite"]
    assert "check its weights" in raised.value.remedy
    kept = extract(model, PROMPTS, component, allow_nonfinite=True)[f"{component}.1"]
    assert not np.isfinite(kept[:, 3]).any()
    assert np.isfinite(extract(model, PROMPTS, "mlp_out", 0)["mlp_out.0"]).all()


def test_provenance_has_everything_needed_to_repeat_the_extraction(model):
    provenance = extract(model, PROMPTS, pool="max", token_rule="all", budget=77).provenance
    assert provenance.architecture == model.architecture.family
    assert (provenance.pool, provenance.token_rule) == ("max", "all")
    computed = (provenance.dtype, provenance.attention, provenance.padding_side)
    assert computed == ("float32", "sdpa", "right")
    assert provenance.batch_tokens == 77
    assert provenance.fingerprint == model.checkpoint.fingerprint
    assert provenance.versions["torch"] == torch.__version__
    assert provenance.prompts_digest == PromptSet.of(PROMPTS).digest


@pytest.mark.parametrize("option", ["pool", "token_rule"])
def test_an_unknown_option_of_an_extraction_raises_an_error(llama, option):
    with pytest.raises(NeuroscopeError, match=f"{option} 'odd'"):
        extract(llama, PROMPTS, **{option: "odd"})


@pytest.mark.parametrize("option", ["dtype", "attention", "padding_side", "memory", "device"])
def test_an_unknown_option_of_a_model_raises_an_error(option, family_folder):
    with pytest.raises(NeuroscopeError, match=f"{option} 'odd'"):
        load_model(str(family_folder("bert")), **{option: "odd"})


def test_activations_are_indexed_by_name(llama):
    acts = extract(llama, PROMPTS, ["mlp_act", "final"])
    assert isinstance(acts, Activations)
    assert acts["mlp_act.0"] is acts[acts.sites[0]]
    assert list(map(str, acts)) == ["mlp_act.0", "mlp_act.1", "final.1"]
    for name in ("mlp_out.0", "mlp_act.2", "logits", "mlp_act"):
        with pytest.raises(SiteError, match=name):
            acts[name]
    assert repr(acts).startswith("Activations(3 prompts, 3 sites, ")


def test_arrays_that_cannot_be_allocated_raise_an_error(llama, monkeypatch):
    def refuse(*_):
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr("neuroscope.extraction.extract.mmap.mmap", refuse)
    with pytest.raises(ResourceError, match=r"0\.4 kB"):
        extract(llama, PROMPTS, "resid_post.0")
