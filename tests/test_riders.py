"""Riders: statistics computed during the passes equal those of extracted activations."""

import numpy as np
import pytest
import torch
from models import FAMILIES, hook_count

from neuroscope.extraction.batching import tokenise
from neuroscope.extraction.budget import TokenBudget
from neuroscope.extraction.extract import extract, record
from neuroscope.extraction.models import load_model
from neuroscope.extraction.riders import Rider
from neuroscope.prompts import PromptSet
from neuroscope.sites import LAYER_COMPONENTS, Site, resolve_sites

PROMPTS = [
    "the black cat sits on the mat .",
    "a dog",
    "the engineer is a woman and not very old !",
    "the old king walks in the small green house , the young queen runs",
] * 3
SITES = [*LAYER_COMPONENTS, "final"]


class Norms:
    """Rider that counts tokens and sums the norms of their activations, per site."""

    def __init__(self):
        self.counts, self.sums, self.members = {}, {}, {}

    def reduce(self, site, batch):
        def norms(values):
            return values[batch.kept].double().norm(dim=1)

        return norms

    def add(self, site, batch, reduced):
        self.counts[site] = self.counts.get(site, 0) + len(reduced)
        self.sums[site] = self.sums.get(site, 0.0) + reduced.sum().item()
        self.members.setdefault(site, []).extend(batch.members.tolist())


def record_with(model, riders, *, pool=None, token_rule="content", **options):
    """Record all sites with riders; return the recorded values by site."""
    block = tokenise(model, PromptSet.of(PROMPTS).prompts)
    sites = resolve_sites(SITES, "all", model.layer_count)
    options = {"budget": TokenBudget(60)} | options
    recording = record(
        model, block, sites, pool=pool, token_rule=token_rule, riders=riders, **options
    )
    return dict(recording)


def assert_correct(rider, model, token_rule="content"):
    """Fail unless the sums equal those over extracted activations, every prompt counted once."""
    acts = extract(model, PROMPTS, SITES, pool="none", token_rule=token_rule)
    assert set(rider.counts) == set(acts.sites)
    for site in acts:
        tokens = np.concatenate(acts[site]).astype(np.float64)
        assert rider.counts[site] == len(tokens)
        assert rider.sums[site] == pytest.approx(np.linalg.norm(tokens, axis=1).sum(), rel=1e-6)
        assert sorted(rider.members[site]) == list(range(len(PROMPTS)))


@pytest.mark.parametrize("memory", ["resident", "stream"])
@pytest.mark.parametrize("token_rule", ["content", "all"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_rider_without_pooling_sees_every_token_once(family, token_rule, memory, family_folder):
    model = load_model(str(family_folder(family)), memory=memory)
    rider: Rider = Norms()
    assert record_with(model, [rider], token_rule=token_rule) == {}
    assert_correct(rider, model, token_rule)


@pytest.fixture(params=["resident", "stream"])
def model(request, family_folder):
    return load_model(str(family_folder("llama")), memory=request.param)


@pytest.mark.parametrize("pool", ["mean", "max", "first", "last", "none"])
def test_riders_do_not_change_the_values(model, pool):
    riders = [Norms(), Norms()]
    expected = record_with(model, [], pool=pool)
    values = record_with(model, riders, pool=pool)
    assert list(values) == list(expected)
    for site in expected:
        np.testing.assert_array_equal(values[site], expected[site])
    for rider in riders:
        assert_correct(rider, model)


def test_a_rider_sees_shuffled_batches(model):
    rider = Norms()
    record_with(model, [rider], shuffle=5)
    members = rider.members[Site("final", 1)]
    assert sorted(members) == list(range(len(PROMPTS))) != members
    assert_correct(rider, model)


def test_halves_of_a_divided_batch_are_added_once(family_folder):
    model = load_model(str(family_folder("llama")))
    rider, failed_batches = Norms(), []

    def fail_in_the_middle(module, args):
        if len(args[0]) > 1:
            failed_batches.append(len(args[0]))
            raise torch.OutOfMemoryError("CUDA out of memory")

    hook = model.layer(1).register_forward_pre_hook(fail_in_the_middle)
    record_with(model, [rider])
    hook.remove()
    assert max(failed_batches) >= 4  # at least four prompts, so it was divided twice
    assert_correct(rider, model)


@pytest.mark.parametrize("method", ["reduce", "add"])
def test_an_error_in_a_rider_leaves_no_hook(model, method):
    class Failing(Norms):
        pass

    setattr(Failing, method, lambda *_: 1 / 0)
    before = hook_count(model)
    with pytest.raises(ZeroDivisionError):
        record_with(model, [Failing()])
    assert hook_count(model) == before
    assert not torch.is_inference_mode_enabled()


def test_progress_is_reported_without_pooling(model):
    reports = []
    record_with(model, [Norms()], progress=lambda *report: reports.append(report))
    assert reports[0] == ("extract", 0, len(PROMPTS))
    assert reports[-1] == ("extract", len(PROMPTS), len(PROMPTS))
