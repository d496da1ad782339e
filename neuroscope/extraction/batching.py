"""Turns prompts into token ids, and token ids into padded batches."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from neuroscope.errors import Option, PromptError
from neuroscope.extraction.budget import TokenBudget
from neuroscope.extraction.models import Model
from neuroscope.options import TokenRule
from neuroscope.prompts import Prompt
from neuroscope.tokens import TokenBlock

if TYPE_CHECKING:
    import torch


def tokenise(model: Model, prompts: Sequence[Prompt], *, truncate: bool = False) -> TokenBlock:
    """Return the prompts as the model reads them, special tokens included, using all cores.

    Args:
        model: its tokenizer is used.
        prompts: one or more.
        truncate: cut prompts at the model's limit instead of refusing them.

    Raises:
        PromptError: a prompt is longer than the model can read, or has only special tokens.
    """
    limit = model.checkpoint.token_limit
    backend = model.tokenizer.backend_tokenizer
    backend.no_padding()
    if truncate:
        backend.enable_truncation(limit)
    else:
        backend.no_truncation()
    encodings = backend.encode_batch_fast([prompt.text for prompt in prompts])
    lengths = np.array([len(encoding) for encoding in encodings], dtype=np.int64)
    ids = np.concatenate([np.array(encoding.ids, dtype=np.int32) for encoding in encodings])
    block = TokenBlock(ids, np.cumsum(lengths), model.vocabulary)
    for index in np.flatnonzero(lengths > limit).tolist():
        raise PromptError(
            f"prompt '{prompts[index].id}' has {lengths[index]} tokens, and '{model.name}' reads at"
            f" most {limit}",
            options=[Option("truncate", True, "cut prompts at the limit")],
            remedy="shorten it",
        )
    for index in np.flatnonzero(block.kept_counts("content") == 0).tolist():
        raise PromptError(
            f"prompt '{prompts[index].id}' ({prompts[index].text!r}) has only special tokens, or"
            f" only characters that the tokenizer of '{model.name}' drops",
            remedy="change its text",
        )
    return block


@dataclass(frozen=True, eq=False)
class Batch:
    """Prompts that go through the model together, one per row.

    `members` (batch,) are the positions of the prompts in the block. `ids`, `mask` and `kept` are
    (batch, tokens); `mask` is 0 at padding, and `kept` is true at the tokens that the token rule
    counts. For each of these counted tokens, `token_rows` has its position among all counted tokens
    of the block, and `token_owners` the position of its prompt.
    """

    members: NDArray[np.int64]
    token_rows: NDArray[np.int64]
    token_owners: NDArray[np.int64]
    ids: "torch.Tensor"
    mask: "torch.Tensor"
    kept: "torch.Tensor"

    def inputs(self, model: Model) -> "dict[str, torch.Tensor | bool]":
        """Return the arguments of the model's forward.

        Positions count from each prompt's first token, wherever the padding is.
        """
        architecture, config = model.architecture, model.checkpoint.config
        positions = (self.mask.cumsum(dim=1) - 1).clamp(min=0)
        inputs: dict[str, torch.Tensor | bool] = {
            "input_ids": self.ids,
            "attention_mask": self.mask,
            "position_ids": positions + architecture.first_position(config),
        }
        if architecture.causal:
            inputs["use_cache"] = False
        return inputs

    def halves(self) -> "tuple[Batch, Batch]":
        """Return two batches with half of the prompts each; there must be two prompts or more."""
        middle = len(self.members) // 2
        tokens = int(self.kept[:middle].sum())
        first = self._part(slice(middle), slice(tokens))
        return first, self._part(slice(middle, None), slice(tokens, None))

    def _part(self, rows: slice, tokens: slice) -> "Batch":
        """Return a batch of some of the prompts and their counted tokens."""
        return Batch(
            self.members[rows],
            self.token_rows[tokens],
            self.token_owners[tokens],
            self.ids[rows],
            self.mask[rows],
            self.kept[rows],
        )


def batches(
    model: Model,
    block: TokenBlock,
    *,
    token_rule: TokenRule,
    budget: TokenBudget,
    shuffle: int | None = None,
) -> Iterator[Batch]:
    """Yield batches of prompts of similar length, the longest first.

    Args:
        model: decides the device and the padding side.
        block: the prompts.
        token_rule: which tokens count, `content` or `all`.
        budget: tokens per batch, padding included; a longer prompt is a batch of its own.
        shuffle: seed with which prompts are grouped at random instead of by length.
    """
    lengths = block.lengths
    order = np.argsort(-lengths, kind="stable")
    if shuffle is not None:
        order = np.random.default_rng(shuffle).permutation(len(block))
    kept = block.kept(token_rule)
    ranks = np.cumsum(kept) - 1
    start = 0
    while start < len(order):
        ahead = order[start : start + budget()]  # no more fit, as each has a token or more
        padded = np.maximum.accumulate(lengths[ahead]) * np.arange(1, len(ahead) + 1)
        size = max(1, int(np.searchsorted(padded, budget(), side="right")))
        yield _batch(model, block, ahead[:size], kept, ranks)
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
    positions = np.arange(width)[None]  # in the prompt, per column
    if model.padding_side == "left":
        positions = positions - (width - lengths)
    mask = (positions >= 0) & (positions < lengths)
    source = np.where(mask, block.starts[members][:, None] + positions, 0)
    counted = mask & kept[source]
    # the mask hides the padding, so any id will do; every model has a token 0
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
