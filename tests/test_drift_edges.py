"""Checks of drift in unusual cases: constant layers, prompts of one token, NaN, little memory."""

import json

import numpy as np
import pytest
import torch
from drifting import QUICK, at, changed, drift
from models import copy_with_weights, make_model

from neuroscope.errors import NonfiniteError, ResourceError
from neuroscope.extraction.batching import tokenise
from neuroscope.extraction.behaviour import compare_predictions, token_divergence
from neuroscope.extraction.expected_tokens import expected_tokens
from neuroscope.extraction.models import load_model
from neuroscope.extraction.pair_changes import patching
from neuroscope.prompts import PromptSet
from neuroscope.sites import Site
from neuroscope.studies.drift.experiment import drift_experiment
from neuroscope.studies.drift.study import save_baseline


@pytest.fixture
def llama(tmp_path):
    """Return the folder of a causal model of three layers with its head."""
    return make_model("llama", tmp_path / "base", layers=3, head=True)


def replaced(folder, value, *names):
    """Copy a model and fill the weights whose names end with one of `names`."""

    def fill(weights):
        return {
            key: torch.full_like(values, value) if key.endswith(names) else values
            for key, values in weights.items()
        }

    return copy_with_weights(folder, folder.parent / "candidate", fill)


def test_a_layer_that_no_longer_varies_is_drift(llama, labelled):
    result = drift(llama, replaced(llama, 0.0, "2.mlp.up_proj.weight"), labelled)
    first, _, last = at(result)
    assert np.isnan([last.neighbours, last.cka]).all() and first.neighbours == 1
    assert result.decision.verdict == "drifted" and result.readers


def test_readers_of_a_last_layer_that_does_not_vary_are_left_out(llama, labelled):
    candidate = replaced(llama, 0.0, "embed_tokens.weight")
    result = drift(llama, candidate, labelled)
    assert result.readers == () and any("readers" in note for note in result.left_out)


def test_prompts_of_one_token_predict_nothing_in_a_causal_model(tmp_path):
    base = make_model("gpt2", tmp_path / "base", layers=2, head=True)
    words = ["cat", "man", "mat", "is"] * 6  # one token each
    prompts = tmp_path / "words.jsonl"
    prompts.write_text("".join(json.dumps({"text": word}) + "\n" for word in words))
    result = drift(base, changed(base, 0.5), prompts)
    assert result.behaviour is None and any(
        "no token is predicted" in note for note in result.left_out
    )


@pytest.mark.parametrize("logits", [True, False])
def test_no_position_has_no_divergence(logits):
    nothing = torch.empty(0, 7)
    assert token_divergence(nothing, nothing, logits=logits).shape == (0,)
    assert compare_predictions(nothing, nothing, torch.empty(0, dtype=torch.int64)).kl.shape == (0,)


def test_nan_behind_the_layers_is_named_against_a_baseline(llama, labelled, tmp_path):
    experiment = drift_experiment(str(llama), str(llama), {"file": str(labelled)}, **QUICK)
    experiment = experiment.model_copy(update={"candidate_dtype": "bfloat16"})
    save_baseline(experiment, tmp_path / "base.baseline")
    candidate = replaced(llama, np.nan, "model.norm.weight")
    with pytest.raises(NonfiniteError, match=r"candidate' computes NaN .* prompt '\d+'"):
        drift(tmp_path / "base.baseline", candidate, labelled)


def test_replicates_that_do_not_fit_with_their_head_need_none(llama, labelled, monkeypatch):
    refused = []

    def load(checkpoint, *, head=False, dtype="float32", **options):
        if head and dtype == "float32":
            refused.append(dtype)
            raise ResourceError("it does not fit")
        return load_model(checkpoint, head=head, dtype=dtype, **options)

    monkeypatch.setattr("neuroscope.studies.drift.subjects.load_model", load)
    result = drift(llama, changed(llama, 0.5), labelled, dtype="bfloat16", benign=["dtype"])
    assert refused and result.decision.replicates == QUICK["replicates"]
    assert result.explanation.tokens_up


def test_patching_divides_batches_that_do_not_fit(llama):
    base, candidate = (load_model(str(f), head=True) for f in (llama, changed(llama, 0.5)))
    texts = ["the cat sits on the mat", "the dog runs", "a boy", "the cat"]
    block = tokenise(base, PromptSet.of(texts).prompts)
    sites = [Site("resid_post", 0), Site("resid_post", 1)]
    expected = patching(base, candidate, block, sites)

    def run_out(module, args, inputs):
        if len(inputs["input_ids"]) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")

    candidate.module.register_forward_pre_hook(run_out, with_kwargs=True)
    for own, other in zip(patching(base, candidate, block, sites), expected, strict=True):
        np.testing.assert_allclose(own, other, rtol=1e-4)


def test_tokens_are_counted_for_the_rarest_topic(llama):
    model = load_model(str(llama), head=True)
    block = tokenise(
        model, PromptSet.of([f"the cat {'sits ' * (n % 3)}." for n in range(500)]).prompts
    )
    groups = np.where(np.arange(500) == 301, 1, 0)
    expected = expected_tokens(model, block, groups, count=2)
    tokens = block.kept_counts("content")
    assert expected[1].sum() == pytest.approx(tokens[301])
    assert 150 * tokens.mean() < expected[0].sum() < 250 * tokens.mean()
