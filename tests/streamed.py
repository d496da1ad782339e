"""Helpers for tests of streamed models: prompts, batches, and values at every site."""

import torch
from models import WORDS

from neuroscope.extraction.batching import batches, tokenise
from neuroscope.extraction.budget import TokenBudget
from neuroscope.extraction.reading import read_sites
from neuroscope.prompts import PromptSet
from neuroscope.sites import LAYER_COMPONENTS, resolve_sites

PROMPTS = PromptSet.of([" ".join(WORDS[start : start + start % 7 + 1]) for start in range(12)])
LAYERS = 4


def batches_of(model):
    """Return several batches of different widths."""
    block = tokenise(model, PROMPTS.prompts)
    return list(batches(model, block, token_rule="all", budget=TokenBudget(24)))


def every_site(model):
    return resolve_sites([*LAYER_COMPONENTS, "final"], "all", model.layer_count)


def clone(site, batch):
    return lambda values: values.clone()


def stream_values(model, sites=None, keep=clone):
    return read_sites(model, batches_of(model), sites or every_site(model), keep, TokenBudget(24))


def read(model, sites=None, keep=clone):
    """Return, by site, what is kept of each batch."""
    kept = {}
    for _, site, values in stream_values(model, sites, keep):
        kept.setdefault(site, []).append(values)
    return kept


def assert_close(values, expected, atol=1e-5):
    assert values.keys() == expected.keys()
    for site in expected:
        for tensor, reference in zip(values[site], expected[site], strict=True):
            torch.testing.assert_close(tensor, reference, rtol=0, atol=atol)


def is_empty(layer):
    """Return whether a layer holds no weights."""
    return all(weight.is_meta for weight in layer.parameters())
