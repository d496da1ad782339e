"""Hooks record only the chosen sites, stop the pass after them, and are always removed."""

import re

import pytest
import torch
from models import FAMILIES, hook_count

from neuroscope.errors import ModelError, SiteError
from neuroscope.extraction.batching import batches, tokenise
from neuroscope.extraction.budget import TokenBudget
from neuroscope.extraction.extract import extract
from neuroscope.extraction.models import load_model
from neuroscope.extraction.recorder import Recorder
from neuroscope.prompts import PromptSet
from neuroscope.sites import LAYER_COMPONENTS, Site

PROMPTS = ["the black cat sits on the mat .", "a dog"]


@pytest.fixture(params=FAMILIES)
def model(request, family_folder):
    return load_model(str(family_folder(request.param)))


@pytest.fixture
def inputs(model):
    block = tokenise(model, PromptSet.of(PROMPTS).prompts)
    batch = next(batches(model, block, token_rule="all", budget=TokenBudget(1000)))
    return batch.inputs(model)


def test_hooks_are_removed_after_an_exception(model):
    before = hook_count(model)
    sites = [Site(component, 0) for component in LAYER_COMPONENTS]
    with pytest.raises(ZeroDivisionError), Recorder(model, sites):
        assert hook_count(model) == before + len(sites)
        raise ZeroDivisionError
    assert hook_count(model) == before


def test_hooks_are_removed_if_one_cannot_be_attached(model):
    layers = model.module.get_submodule(model.architecture.layers)
    layers[1] = torch.nn.Identity()
    before = hook_count(model)
    with pytest.raises(AttributeError), Recorder(model, [Site("mlp_act", 0), Site("mlp_act", 1)]):
        pass
    assert hook_count(model) == before


@pytest.mark.parametrize("site", [Site("mlp_act", 2), Site("final", 0)])
def test_a_site_that_the_model_does_not_have_raises_an_error(model, site):
    with pytest.raises(SiteError):
        Recorder(model, [Site("mlp_act", 0), site])


def test_hooks_are_removed_if_a_reduction_raises(model, inputs):
    before = hook_count(model)
    with pytest.raises(ZeroDivisionError), Recorder(model, [Site("resid_post", 0)]) as recorder:
        recorder.run(inputs, keep=lambda site: lambda tensor: 1 / 0)
    assert hook_count(model) == before
    extract(model, PROMPTS)  # the model still works


def test_a_forward_pass_that_fails_is_a_fault_of_the_model(model, inputs):
    with (
        pytest.raises(ModelError, match=re.escape(f"'{model.name}'")),
        Recorder(model, [Site("resid_post", 1)]) as recorder,
    ):
        recorder.run(inputs | {"input_ids": inputs["input_ids"] + 10**6})


def test_a_reduction_is_chosen_per_site(model, inputs):
    sites = [Site("mlp_act", 0), Site("resid_post", 1)]
    with Recorder(model, sites) as recorder:
        shapes = recorder.run(inputs, keep=lambda site: lambda tensor: (site, tensor.shape[2]))
    assert shapes == {sites[0]: (sites[0], 48), sites[1]: (sites[1], 32)}


def test_only_the_chosen_sites_are_recorded(model, inputs):
    with Recorder(model, [Site("mlp_act", 1), Site("attn_out", 0)]) as recorder:
        kept = recorder.run(inputs)
    assert list(kept) == [Site("attn_out", 0), Site("mlp_act", 1)]
    assert kept[Site("mlp_act", 1)].shape[2] == 48


@pytest.mark.parametrize("component", LAYER_COMPONENTS)
def test_the_pass_stops_after_the_last_site(model, inputs, component):
    reached = []
    hook = model.layer(1).register_forward_hook(lambda *_: reached.append(1))
    with Recorder(model, [Site(component, 0)]) as recorder:
        recorder.run(inputs)
    assert reached == []
    model.module(**inputs)
    assert reached == [1]  # the hook itself works
    hook.remove()
