"""Change of the residual stream by position and group, against a direct computation."""

import numpy as np
import pytest
import torch
from models import copy_with_weights, make_model

from neuroscope.extraction.batching import tokenise
from neuroscope.extraction.extract import extract
from neuroscope.extraction.models import load_model
from neuroscope.extraction.pair_changes import run_pair
from neuroscope.extraction.stream_changes import bucket_name, position_buckets
from neuroscope.prompts import PromptSet
from neuroscope.sites import Site

PROMPTS = PromptSet.of(["the black cat sits on the mat .", "a dog", "the engineer is a woman"])
GROUPS = np.array([0, 2, 0])
SITES = [Site("resid_post", layer) for layer in range(2)]


def test_buckets_double_after_the_first_positions():
    buckets = position_buckets(np.array([0, 1, 2, 3, 4, 7, 8, 15, 16, 1000]))
    assert buckets.tolist() == [0, 1, 2, 3, 4, 4, 5, 5, 6, 11]
    names = [bucket_name(bucket) for bucket in (0, 3, 4, 5, 11)]
    assert names == ["0", "3", "4-7", "8-15", "512-1023"]


@pytest.fixture(params=["bert", "llama", "gpt2"])
def pair(request, tmp_path):
    base = make_model(request.param, tmp_path / "base")

    def change(weights):
        torch.manual_seed(1)
        return {key: values + 0.05 * torch.randn_like(values) for key, values in weights.items()}

    candidate = copy_with_weights(base, tmp_path / "candidate", change)
    return [load_model(str(folder)) for folder in (base, candidate)]


def stream_of(pair, local=()):
    block = tokenise(pair[0], PROMPTS.prompts)
    return run_pair(*pair, block, PROMPTS, local, pool="mean", groups=GROUPS, stream=SITES).stream


def test_the_change_is_that_of_the_tokens(pair):
    base, candidate = (extract(model, PROMPTS, "resid_post", pool="none") for model in pair)
    stream = stream_of(pair)
    positions = [np.flatnonzero(tokens.content) for tokens in tokenise(pair[0], PROMPTS.prompts)]
    buckets = position_buckets(np.concatenate(positions))
    groups = np.repeat(GROUPS, [len(own) for own in positions])
    changes = stream.relative()
    assert changes.shape == (2, 4, len(stream.buckets))
    for number, site in enumerate(SITES):
        x, y = (np.concatenate([*acts[site]]).astype(float) for acts in (base, candidate))
        spread, square = ((x - x.mean(axis=0)) ** 2).sum(axis=1), ((y - x) ** 2).sum(axis=1)
        for bucket in np.unique(buckets):
            inside = buckets == bucket
            for row, members in enumerate([*(groups == group for group in range(3)), inside]):
                cell = members & inside
                assert stream.tokens[row, bucket] == cell.sum()
                if cell.any():
                    expected = np.sqrt(square[cell].mean() / spread[inside].mean())
                    assert changes[number, row, bucket] == pytest.approx(expected, rel=1e-3)
                else:
                    assert np.isnan(changes[number, row, bucket])


def test_it_is_the_same_where_the_base_s_inputs_are_kept(pair):
    alone, together = stream_of(pair), stream_of(pair, [*SITES, Site("mlp_act", 1)])
    np.testing.assert_allclose(alone.relative(), together.relative(), rtol=1e-5)


def test_equal_models_have_no_change(pair):
    changes = stream_of([pair[0], pair[0]]).relative()
    assert np.nanmax(changes) == 0.0
