"""Turns prompts into token ids, and token ids into padded batches of like length."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from neuroscope.errors import PromptError
from neuroscope.extraction.budget import TokenBudget
from neuroscope.extraction.models import Model
from neuroscope.prompts import Prompt
from neuroscope.tokens import TokenBlock

if TYPE_CHECKING:
    import torch


def tokenise(model: Model, prompts: Sequence[Prompt], *, truncate: bool = False) -> TokenBlock:
    """The prompts as their model reads them, special tokens included; all cores take part.

    Args:
        truncate: cut prompts at the model's limit instead of refusing them.

    Raises:
        PromptError: a prompt is longer than the model can read, or has no token but special ones.
    """
    limit = model.checkpoint.token_limit
    backend = model.tokenizer.backend_tokenizer
    backend.no_padding()
    if truncate:
        backend.enable_truncation(limit)
    else:
        backend.no_truncation()
    found = backend.encode_batch_fast([prompt.text for prompt in prompts])
    lengths = np.array([len(one) for one in found], dtype=np.int64)
    ids = np.concatenate([np.array(one.ids, dtype=np.int32) for one in found])
    block = TokenBlock(ids, np.cumsum(lengths), model.vocabulary)
    for index in np.flatnonzero(lengths > limit).tolist():
        raise PromptError(
            f"prompt '{prompts[index].id}' is {lengths[index]} tokens long and '{model.name}' reads"
            f" at most {limit}: shorten it, or ask for truncation (--truncate)"
        )
    for index in np.flatnonzero(block.kept_counts("content") == 0).tolist():
        raise PromptError(
            f"prompt '{prompts[index].id}' ({prompts[index].text!r}) holds nothing but special"
            f" tokens, or nothing that the tokenizer of '{model.name}' knows: give it other text"
        )
    return block


@dataclass(frozen=True, eq=False)
class Batch:
    """Prompts that go through the model together.

    `members` (batch,) are their places in the block, one a row of `ids`, `mask` and `kept`, all
    (batch, tokens). `kept` is true at the tokens that the token rule counts; of these, `token_rows`
    are the places among all that it counts in the block, and `token_owners` the places of their
    prompts.
    """

    members: NDArray[np.int64]
    token_rows: NDArray[np.int64]
    token_owners: NDArray[np.int64]
    ids: "torch.Tensor"
    mask: "torch.Tensor"
    kept: "torch.Tensor"

    def inputs(self, model: Model) -> "dict[str, torch.Tensor | bool]":
        """What the model's forward takes; positions count from each prompt's first token."""
        architecture, config = model.architecture, model.checkpoint.config
        places = (self.mask.cumsum(dim=1) - 1).clamp(min=0)
        inputs: dict[str, torch.Tensor | bool] = {
            "input_ids": self.ids,
            "attention_mask": self.mask,
            "position_ids": places + architecture.first_position(config),
        }
        if architecture.causal:
            inputs["use_cache"] = False
        return inputs

    def halves(self) -> "tuple[Batch, Batch]":
        """Two batches with half of its prompts each; it holds two prompts or more."""
        middle = len(self.members) // 2
        tokens = int(self.kept[:middle].sum())
        first = self._part(slice(middle), slice(tokens))
        return first, self._part(slice(middle, None), slice(tokens, None))

    def _part(self, rows: slice, tokens: slice) -> "Batch":
        """Some of its prompts, and which of the tokens that count are theirs."""
        return Batch(
            self.members[rows],
            self.token_rows[tokens],
            self.token_owners[tokens],
            self.ids[rows],
            self.mask[rows],
            self.kept[rows],
        )


def batches(
    model: Model, block: TokenBlock, *, token_rule: str, budget: TokenBudget
) -> Iterator[Batch]:
    """Batches of prompts of like length, the longest first.

    Args:
        token_rule: which tokens count, `content` or `all`.
        budget: how many tokens a batch may hold, padding included; a prompt that is longer goes
            alone.
    """
    order = np.argsort(-block.lengths, kind="stable")
    kept = block.kept(token_rule)
    ranks = np.cumsum(kept) - 1
    start = 0
    while start < len(order):
        size = max(1, budget() // int(block.lengths[order[start]]))
        members = order[start : start + size]
        yield _batch(model, block, members, kept, ranks)
        start += size


def _batch(
    model: Model,
    block: TokenBlock,
    members: NDArray[np.int64],
    kept: NDArray[np.bool_],
    ranks: NDArray[np.int64],
) -> Batch:
    import torch

    lengths = block.lengths[members][:, None]
    width = int(lengths.max())
    within = np.arange(width)[None]  # place in its prompt of what stands in a column
    if model.padding_side == "left":
        within = within - (width - lengths)
    mask = (within >= 0) & (within < lengths)
    source = np.where(mask, block.starts[members][:, None] + within, 0)
    counted = mask & kept[source]
    # what the padding is, is never seen, as the mask hides it; every model has a token 0
    ids = np.where(mask, block.ids[source], 0)
    device = model.device
    return Batch(
        members,
        ranks[source[counted]],
        np.repeat(members, counted.sum(axis=1)),
        torch.from_numpy(ids).long().to(device),
        torch.from_numpy(mask).long().to(device),
        torch.from_numpy(counted).to(device),
    )
