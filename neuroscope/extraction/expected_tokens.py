"""Counts of the tokens that a model expects, over a sample of prompts."""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from neuroscope.extraction.batching import Batch
from neuroscope.extraction.behaviour import expected_counts
from neuroscope.extraction.extract import record
from neuroscope.extraction.models import Model
from neuroscope.extraction.paired import output_budget
from neuroscope.extraction.recorder import Keep
from neuroscope.sites import Site
from neuroscope.stats.moments import Doubles
from neuroscope.tokens import TokenBlock

if TYPE_CHECKING:
    import torch

_SAMPLED = 200  # prompts after whose tokens `expected_tokens` counts


def expected_tokens(
    model: Model,
    block: TokenBlock,
    groups: NDArray[np.int64],
    count: int,
    *,
    shuffle: int | None = None,
) -> Doubles:
    """Return how often a model expects each token after the content tokens of some prompts.

    Args:
        model: model with its language-model head.
        block: tokens of the prompts, of which about `_SAMPLED` are read, and one or more of each
            group.
        groups: (prompts,) number of the group of each prompt.
        count: number of groups.
        shuffle: seed of the grouping into batches.

    Returns:
        (groups, vocabulary) sums of the probabilities.
    """
    sampled = _sample(groups)
    expected = _ExpectedTokens(groups[sampled], count)
    passes = record(
        model,
        block.take(sampled),
        [Site("logits", model.layer_count - 1)],
        pool=None,
        token_rule="content",
        budget=output_budget([model], "logits"),
        riders=[expected],
        shuffle=shuffle,
    )
    for _ in passes:
        pass
    return expected.counts


def _sample(groups: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the numbers of about `_SAMPLED` prompts, spread over the groups by their sizes."""
    order = np.argsort(groups, kind="stable")
    first = np.unique(groups, return_index=True)[1]
    return np.union1d(order[spread_evenly(len(groups), _SAMPLED)], first)


def spread_evenly(prompts: int, most: int) -> NDArray[np.int64]:
    """Return the numbers of at most `most` of the prompts, spread evenly over all of them."""
    return np.unique(np.linspace(0, prompts - 1, min(most, prompts)).round().astype(np.int64))


class _ExpectedTokens:
    """Rider that adds up how often a model expects each token, (groups, vocabulary)."""

    def __init__(self, groups: NDArray[np.int64], count: int) -> None:
        self.groups = groups
        self.count = count
        self.counts: Doubles = np.zeros((count, 1))

    def reduce(self, site: Site, batch: Batch) -> Keep:
        """Return the function that counts the tokens that a batch expects."""
        owners = np.repeat(batch.members, batch.kept.sum(dim=1).cpu().numpy())

        def reduce(logits: "torch.Tensor") -> Doubles:
            kept = logits[batch.kept.to(logits.device)]
            return expected_counts(kept, self.groups[owners], self.count)

        return reduce

    def add(self, site: Site, batch: Batch, reduced: Doubles) -> None:
        """Add the counts of a batch."""
        self.counts = self.counts + reduced
