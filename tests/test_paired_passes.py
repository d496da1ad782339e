"""Two models over the same batches: outputs, values on the base's inputs, and patches."""

import numpy as np
import pytest
import torch
from models import FAMILIES, copy_with_weights, make_model

from neuroscope.extraction.batching import batches, tokenise
from neuroscope.extraction.budget import TokenBudget
from neuroscope.extraction.extract import extract
from neuroscope.extraction.models import load_model
from neuroscope.extraction.paired import output_budget, paired_passes, patched_outputs
from neuroscope.prompts import PromptSet
from neuroscope.sites import Site

PROMPTS = PromptSet.of(["the black cat sits on the mat .", "a dog", "the engineer is a woman"])
LOCAL = [Site(component, layer) for layer in range(3) for component in ("mlp_act", "resid_post")]
CHANGED = 1  # layer of the candidate whose weights are not those of the base


@pytest.fixture(params=FAMILIES)
def pair(request, tmp_path):
    """Return a model and a copy of it with other weights in one layer."""
    base = make_model(request.param, tmp_path / "base", layers=3, head=True)

    def change(weights):
        torch.manual_seed(1)
        changed = {name for name in weights if f".{CHANGED}." in name and "weight" in name}
        return {
            name: values + 0.1 * torch.randn_like(values) if name in changed else values
            for name, values in weights.items()
        }

    candidate = copy_with_weights(base, tmp_path / "candidate", change)
    return [load_model(str(folder), head=True) for folder in (base, candidate)]


def run(base, candidate, output="logits", local=LOCAL, tokens=18):
    block = tokenise(base, PROMPTS.prompts)
    budget = TokenBudget(tokens)
    groups = batches(base, block, token_rule="content", budget=budget)
    return list(paired_passes(base, candidate, groups, output, local, pool="mean", budget=budget))


def test_outputs_are_those_of_each_model_alone(pair):
    for output in ("logits", "final"):
        alone = [extract(model, PROMPTS, output, pool="none", token_rule="all") for model in pair]
        site = Site(output, 2)
        results = run(*pair, output, local=[])
        assert len(results) > 1
        for values in results:
            for row, member in enumerate(values.batch.members):
                mask = values.batch.mask[row].bool()
                for outputs, acts in zip((values.base, values.candidate), alone, strict=True):
                    np.testing.assert_allclose(outputs[row, mask], acts[site][member], atol=2e-5)


def test_only_the_changed_layer_differs_on_the_inputs_of_the_base(pair):
    acts = extract(pair[0], PROMPTS, ["mlp_act", "resid_post"])
    own = extract(pair[1], PROMPTS, "resid_post")
    for values in run(*pair):
        for site, pooled in values.local.items():
            change = np.abs(pooled.numpy() - acts[site][values.batch.members]).max()
            assert (change > 1e-3) == (site.layer == CHANGED)
    assert np.abs(own["resid_post.2"] - acts["resid_post.2"]).max() > 1e-3  # propagated


def test_patching_restores_the_output_from_the_changed_layer_on(pair):
    base, candidate = pair
    block = tokenise(base, PROMPTS.prompts)
    (batch,) = batches(base, block, token_rule="content", budget=TokenBudget(99))
    sites = [Site("resid_pre", 0), *(Site("resid_post", layer) for layer in range(3))]
    own, other, *patched = patched_outputs(base, candidate, batch, "logits", sites)
    kept = batch.kept
    distances = [(output[kept] - own[kept]).abs().max().item() for output in patched]
    unpatched = (other[kept] - own[kept]).abs().max().item()
    assert distances[0] == pytest.approx(unpatched, rel=1e-3)  # the embeddings are equal
    assert distances[1] == pytest.approx(unpatched, rel=1e-3)
    assert max(distances[2:]) < 1e-4 < unpatched


def test_a_batch_that_does_not_fit_is_divided(pair, monkeypatch):
    base, candidate = pair
    forward = candidate.module.forward

    def limited(*args, **kwargs):
        if kwargs["input_ids"].shape[0] > 1:
            raise RuntimeError("out of memory")
        return forward(*args, **kwargs)

    monkeypatch.setattr(candidate.module, "forward", limited)
    members = [values.batch.members.tolist() for values in run(base, candidate, tokens=99)]
    assert sorted(map(tuple, members)) == [(0,), (1,), (2,)]


def test_the_budget_limits_the_outputs(pair, monkeypatch):
    assert output_budget(pair, "logits")() == output_budget(pair, "final")() == 2048
    monkeypatch.setattr("neuroscope.extraction.paired._OUTPUT_BYTES", 4 * 10 * 1000)
    vocabulary = pair[0].checkpoint.neurons("logits")
    assert output_budget(pair, "logits")() == 10_000 // vocabulary
