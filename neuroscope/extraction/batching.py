"""Tokenisation of prompts, and padded batches of their token ids."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from neuroscope.errors import ModelError, Option, PromptError
from neuroscope.extraction.architectures import Architecture
from neuroscope.extraction.budget import TokenBudget
from neuroscope.extraction.hardware import tile_rows
from neuroscope.extraction.models import Model
from neuroscope.extraction.tokenizers import TokenReader
from neuroscope.options import TokenRule
from neuroscope.prompts import Prompt
from neuroscope.tokens import TokenBlock

if TYPE_CHECKING:
    import torch

_LENGTHS_TOGETHER = 1.25
"""Ratio of lengths up to which prompts are grouped at random."""


def tokenise(
    model: Model | TokenReader, prompts: Sequence[Prompt], *, truncate: bool = False
) -> TokenBlock:
    """Tokenise prompts as the model reads them, special tokens included, on all CPU cores.

    The limit is the number of the model's positions, whatever `model_max_length` says.

    Args:
        model: model whose tokenizer is used, or its tokenizer alone.
        prompts: one or more prompts.
        truncate: whether to cut prompts at the model's limit instead of refusing them, on the side
            that the tokenizer's `truncation_side` names.

    Raises:
        PromptError: a prompt is longer than the model can read, has only special tokens, or
            contains a token for which the model has no embedding.
        ModelError: the tokenizer fails.
    """
    limit = model.checkpoint.token_limit
    encodings = encodings_of(
        model, [prompt.text for prompt in prompts], limit if truncate else None
    )
    lengths = np.array([len(encoding) for encoding in encodings], dtype=np.int64)
    ids = np.concatenate([np.array(encoding.ids, dtype=np.int32) for encoding in encodings])
    _refuse_unembedded(model, prompts, ids, lengths)
    block = TokenBlock(ids, np.cumsum(lengths), model.vocabulary)
    for index in np.flatnonzero(lengths > limit).tolist():
        raise PromptError(
            f"{prompts[index]} has {lengths[index]} tokens, but '{model.name}' reads at most"
            f" {limit}",
            options=[Option("truncate", True, "cut prompts at the limit")],
            remedy="shorten it",
        )
    for index in np.flatnonzero(block.kept_counts("content") == 0).tolist():
        raise PromptError(
            f"{prompts[index]} has only special tokens, or only characters that the tokenizer of"
            f" '{model.name}' drops",
            remedy="change its text",
        )
    return block


def encodings_of(
    model: Model | TokenReader,
    texts: Sequence[str],
    limit: int | None = None,
    *,
    offsets: bool = False,
) -> list[Any]:
    """Return the encoding of each text, special tokens included.

    Threads share the tokenizer, so it is only read.

    Args:
        model: model whose tokenizer is used.
        texts: texts to encode.
        limit: number of tokens at which encodings are cut; by default they are not.
        offsets: whether the encodings have the positions of their tokens in the text.

    Raises:
        ModelError: the tokenizer fails.
    """
    with _tokenizer_errors(model):
        backend = _without_limits(model.tokenizer.backend_tokenizer)
        encode = backend.encode_batch if offsets else backend.encode_batch_fast
        encodings: list[Any] = encode(list(texts))
        if limit is not None:
            side = model.tokenizer.truncation_side
            for index, encoding in enumerate(encodings):
                if len(encoding) > limit:
                    encodings[index] = _cut(backend, texts[index], limit, side)
    return encodings


def texts_of(model: Model, block: TokenBlock) -> list[str]:
    """Return the text of each prompt of a block, without special tokens.

    Raises:
        ModelError: the tokenizer fails.
    """
    with _tokenizer_errors(model):
        rows = [ids.tolist() for ids in np.split(block.ids, block.ends[:-1])]
        texts: list[str] = model.tokenizer.backend_tokenizer.decode_batch(rows)
    return texts


@contextmanager
def _tokenizer_errors(model: Model | TokenReader) -> Iterator[None]:
    """Convert what a tokenizer raises in the block to ModelError."""
    try:
        yield
    except BaseException as error:
        # tokenizers raises Exception itself, or a PanicException that is not an Exception
        if isinstance(error, Exception) or type(error).__name__ == "PanicException":
            raise ModelError(
                f"the tokenizer of model '{model.name}' fails ({error})",
                remedy="check that its tokenizer.json is complete",
            ) from error
        raise


def _without_limits(backend: Any) -> Any:
    """Return a backend without truncation and padding: the given one, or else a copy.

    The given one has neither, unless its user has called the tokenizer with other settings.
    """
    if backend.truncation is None and backend.padding is None:
        return backend
    copy = type(backend).from_str(backend.to_str())
    copy.no_truncation()
    copy.no_padding()
    return copy


def _cut(backend: Any, text: str, limit: int, side: str) -> Any:
    """Return the encoding of a text whose own tokens are cut so that the limit holds for all."""
    encoding = backend.encode(text, add_special_tokens=False)
    encoding.truncate(limit - backend.num_special_tokens_to_add(False), direction=side)
    return backend.post_process(encoding)


def _refuse_unembedded(
    model: Model | TokenReader,
    prompts: Sequence[Prompt],
    ids: NDArray[np.int32],
    lengths: NDArray[np.int64],
) -> None:
    """Raise PromptError if a token has no embedding, such as one added to the tokenizer alone."""
    size = model.checkpoint.config["vocab_size"]
    for position in np.flatnonzero(ids >= size)[:1].tolist():
        index = int(np.searchsorted(np.cumsum(lengths), position, side="right"))
        id = int(ids[position])
        raise PromptError(
            f"{prompts[index]} contains the token {model.vocabulary.texts[id]!r} with id {id}, but"
            f" '{model.name}' has embeddings for the ids below {size}",
            remedy="resize the model's embeddings, or change the text",
        )


@dataclass(frozen=True, eq=False)
class Batch:
    """Prompts that go through the model together, one per row.

    `members`, (batch,), are the positions of the prompts in the block. `ids`, `mask` and `kept` are
    (batch, tokens): `mask` is 0 at padding, and `kept` is true at the tokens that the token rule
    counts. `token_rows` and `token_owners`, (counted tokens,), are the position of each counted
    token among all counted tokens of the block, and the position of its prompt.
    """

    members: NDArray[np.int64]
    token_rows: NDArray[np.int64]
    token_owners: NDArray[np.int64]
    ids: "torch.Tensor"
    mask: "torch.Tensor"
    kept: "torch.Tensor"

    def inputs(self, model: Model) -> "dict[str, torch.Tensor | bool]":
        """Return the keyword arguments of the model's forward pass."""
        architecture = model.architecture
        inputs: dict[str, torch.Tensor | bool] = {
            "input_ids": self.ids,
            "attention_mask": self.mask,
            "position_ids": self._positions(architecture, model.checkpoint.config),
        }
        if architecture.causal:
            inputs["use_cache"] = False
        return inputs

    def _positions(self, architecture: Architecture, config: Mapping[str, Any]) -> "torch.Tensor":
        """Return the position ids, (batch, tokens), which count from each prompt's first token.

        RoBERTa skips padding tokens, those in the text of a prompt included.
        """
        first = architecture.first_position(config)
        if not architecture.positions_after_padding:
            return (self.mask.cumsum(dim=1) - 1).clamp(min=0) + first
        counted = self.mask * (self.ids != first - 1)
        return counted.cumsum(dim=1) * counted + first - 1

    def halves(self) -> "tuple[Batch, Batch]":
        """Split a batch of two or more prompts into two batches with half of the prompts each."""
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
    tile: int | None = None,
) -> Iterator[Batch]:
    """Yield batches of prompts of similar length, the longest first.

    Args:
        model: model that determines the device and the padding side.
        block: tokens of the prompts, from `tokenise`.
        token_rule: rule on which tokens count, `content` or `all`.
        budget: token budget per batch, padding included; a longer prompt is a batch of its own.
        shuffle: seed of a random grouping of prompts of similar length; by default the grouping is
            determined by their lengths.
        tile: number of tokens, a power of two, to which batches are padded as `padded_widths` does;
            by default that which suits the model's device and number format.
    """
    tile = tile_rows(model.device.type, model.dtype) if tile is None else tile
    widths = padded_widths(block.lengths, tile)
    keys = block.lengths.astype(np.float64)
    if shuffle is not None:  # not by a permutation, which would more than double the padding
        keys *= np.random.default_rng(shuffle).uniform(1, _LENGTHS_TOGETHER, len(block))
    order = np.argsort(-keys, kind="stable")
    kept = block.kept(token_rule)
    ranks = np.cumsum(kept) - 1
    start = 0
    while start < len(order):
        # no more prompts can fit, as each has at least one token
        candidates = order[start : start + budget()]
        widest = np.maximum.accumulate(widths[candidates])
        padded = widest * np.arange(1, len(candidates) + 1)
        size = max(1, int(np.searchsorted(padded, budget(), side="right")))
        yield _batch(model, block, candidates[:size], int(widest[size - 1]), kept, ranks)
        start += size


def padded_widths(lengths: NDArray[np.int64], tile: int) -> NDArray[np.int64]:
    """Return the width of a batch for each length of its longest prompt, in tokens.

    The width is a multiple of `tile` or, where that is more than a third wider than the prompt, of
    the largest smaller power of two that is not.

    >>> padded_widths(np.array([70, 33, 3]), tile=16)
    array([80, 40,  4])

    Args:
        lengths: lengths of prompts.
        tile: power of two; 1 adds no padding.
    """
    widths, multiple = lengths, 2
    while multiple <= tile:
        rounded = -(-lengths // multiple) * multiple
        widths = np.where(3 * rounded <= 4 * lengths, rounded, widths)
        multiple *= 2
    return widths


def _batch(
    model: Model,
    block: TokenBlock,
    members: NDArray[np.int64],
    width: int,
    kept: NDArray[np.bool_],
    ranks: NDArray[np.int64],
) -> Batch:
    """Return the padded batch of the prompts at some positions of a block.

    Args:
        model: model that determines the device and the padding side.
        block: tokens of all prompts.
        members: positions of the batch's prompts in the block.
        width: tokens per prompt, padding included.
        kept: (tokens of the block,), true at the tokens that count.
        ranks: (tokens of the block,), position of each token among the tokens that count.
    """
    import torch

    lengths = block.lengths[members][:, None]
    positions = np.arange(width)[None]  # position in the prompt, per column
    if model.padding_side == "left":
        positions = positions - (width - lengths)
    mask = (positions >= 0) & (positions < lengths)
    source = np.where(mask, block.starts[members][:, None] + positions, 0)
    counted = mask & kept[source]
    # the mask hides the padding, so any valid id will do; every model has a token 0
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
