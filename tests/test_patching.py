"""Replacement of residual streams: what follows is computed from the replacement."""

import pytest
import torch
from models import FAMILIES, make_model

from neuroscope.errors import ModelError, SiteError
from neuroscope.extraction.batching import batches, tokenise
from neuroscope.extraction.budget import TokenBudget
from neuroscope.extraction.models import load_model
from neuroscope.extraction.patching import patched
from neuroscope.extraction.recorder import Recorder
from neuroscope.prompts import PromptSet
from neuroscope.sites import Site

PROMPTS = PromptSet.of(["the black cat sits on the mat .", "a dog", "the engineer is a woman"])
SITES = [Site(component, layer) for layer in range(3) for component in ("resid_pre", "resid_post")]


@pytest.fixture(params=FAMILIES)
def pair(request, tmp_path):
    """Return two models of one shape with different weights, and the inputs of a batch."""
    models = [
        load_model(str(make_model(request.param, tmp_path / str(seed), seed=seed, layers=3)))
        for seed in (0, 1)
    ]
    block = tokenise(models[0], PROMPTS.prompts)
    (batch,) = batches(models[0], block, token_rule="content", budget=TokenBudget(999))
    return *models, batch.inputs(models[0]), batch.mask.bool()


def record(model, inputs, values=None):
    with patched(model, values or {}), Recorder(model, SITES) as recorder:
        return recorder.run(inputs)


def test_layers_before_a_patch_are_unchanged_and_those_after_follow_it(pair):
    base, candidate, inputs, mask = pair
    own, other = record(candidate, inputs), record(base, inputs)
    site = Site("resid_pre", 1)
    mixed = record(candidate, inputs, {site: other[site]})
    assert torch.equal(mixed[Site("resid_post", 0)], own[Site("resid_post", 0)])
    assert torch.equal(mixed[site], other[site])
    assert not torch.allclose(mixed[Site("resid_post", 2)][mask], own[Site("resid_post", 2)][mask])


def test_a_patched_layer_computes_what_it_computes_in_its_own_model(pair):
    base, candidate, inputs, mask = pair
    other = record(base, inputs)
    own_again = record(base, inputs, {Site("resid_post", 0): record(candidate, inputs)[SITES[1]]})
    restored = record(base, inputs, {Site("resid_post", 1): other[Site("resid_post", 1)]})
    last = Site("resid_post", 2)
    assert not torch.allclose(own_again[last][mask], other[last][mask])
    torch.testing.assert_close(restored[last][mask], other[last][mask])


def test_hooks_are_removed(pair):
    base, candidate, inputs, _ = pair
    own = record(candidate, inputs)
    record(candidate, inputs, {site: record(base, inputs)[site] for site in SITES})
    again = record(candidate, inputs)
    assert all(torch.equal(own[site], again[site]) for site in SITES)


def test_what_cannot_be_replaced_is_refused(tmp_path):
    folder = str(make_model("llama", tmp_path))
    model, streamed = load_model(folder), load_model(folder, memory="stream")
    values = torch.zeros(1, 2, 32)
    with pytest.raises(SiteError), patched(model, {Site("resid_pre", 2): values}):
        pass
    with (
        pytest.raises(ValueError, match=r"mlp_act\.1"),
        patched(model, {Site("mlp_act", 1): values}),
    ):
        pass
    with pytest.raises(ModelError, match="files"), patched(streamed, {}):
        pass
    inputs = {"input_ids": torch.ones(1, 3, dtype=torch.long)}
    with patched(model, {Site("resid_pre", 0): values}), pytest.raises(ValueError, match="shape"):
        model.module(**inputs)
